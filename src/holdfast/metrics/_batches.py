"""Frames wait for each other, so that a network is asked once for many of them."""

from collections.abc import Callable
from typing import Any

MOST = 16  # frames a call
PIXELS = (
    MOST * 512 * 512
)  # a call, for networks that see whole frames: what they hold grows with it


class Later:
    """A result that comes with its batch."""

    def __init__(self, queue: "Queue"):
        self._queue: Queue | None = queue
        self._value: Any = None

    @property
    def value(self) -> Any:
        if self._queue is not None:
            self._queue.run_all()
        return self._value

    def settle(self, value: Any) -> None:
        self._queue, self._value = None, value


class Queue:
    """run: one batch of each input (tensors n ...) to n results, each of which is that of its own frame."""

    def __init__(self, run: Callable[..., Any]):
        self.run = run
        self.inputs: list[tuple] = []
        self.results: list[Later] = []

    def put(self, *inputs) -> Later:
        """Give the inputs of a frame, tensors 1 ...; those of another shape begin another batch."""
        if self.inputs and self.inputs[0][0].shape != inputs[0].shape:
            self.run_all()
        self.inputs.append(inputs)
        self.results.append(found := Later(self))
        height, width = inputs[0].shape[-2:]
        if len(self.inputs) >= min(MOST, max(1, PIXELS // (height * width))):
            self.run_all()
        return found

    def run_all(self) -> None:
        """Run what waits."""
        import torch

        if not self.inputs:
            return
        inputs, results, self.inputs, self.results = self.inputs, self.results, [], []
        with torch.no_grad():
            found = self.run(*(torch.cat(column) for column in zip(*inputs, strict=True)))
        for later, value in zip(results, found, strict=True):
            later.settle(value)
