"""Collect frames into batches, so that a network runs once for several of them."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

MAX_FRAMES = 16  # frames in one call of a network
MAX_PIXELS = MAX_FRAMES * 512 * 512  # pixels in one call: memory grows with them

T = TypeVar("T")


class Deferred(Generic[T]):
    """A result that is computed together with the rest of its batch."""

    def __init__(self, queue: "BatchQueue[T]"):
        self._queue: BatchQueue[T] | None = queue
        self._value: Any = None

    @property
    def value(self) -> T:
        """Return the result. Run the batch first if it has not run yet."""
        if self._queue is not None:
            self._queue.flush()
        return self._value

    def set_value(self, value: T) -> None:
        self._queue, self._value = None, value


class BatchQueue(Generic[T]):
    """A queue of inputs. run: from one batch of each input (tensors n ...) to n results, one a frame."""

    def __init__(self, run: Callable[..., Iterable[T]]):
        self.run = run
        self.inputs: list[tuple[Tensor, ...]] = []
        self.results: list[Deferred[T]] = []

    def put(self, *inputs: "Tensor") -> Deferred[T]:
        """Queue the inputs of one frame, tensors 1 ... . Inputs of another shape start another batch."""
        if self.inputs and self.inputs[0][0].shape != inputs[0].shape:
            self.flush()
        self.inputs.append(inputs)
        result = Deferred(self)
        self.results.append(result)
        height, width = inputs[0].shape[-2:]
        if len(self.inputs) >= min(MAX_FRAMES, max(1, MAX_PIXELS // (height * width))):
            self.flush()
        return result

    def flush(self) -> None:
        """Run the queued inputs as one batch."""
        import torch

        if not self.inputs:
            return
        inputs, results, self.inputs, self.results = self.inputs, self.results, [], []
        with torch.no_grad():
            values = self.run(*(torch.cat(column) for column in zip(*inputs, strict=True)))
        for result, value in zip(results, values, strict=True):
            result.set_value(value)
