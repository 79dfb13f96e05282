"""Checks that a latent is one that a clip can be made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..base.errors import UserError
from ..base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ..sampling.field import Step

MAX_ABS = (
    1e6  # of a latent, whose values are about 1: more, no VAE decodes, and a float cannot square
)
REMEDY = "lower the guidance, try --dtype float32, or check the weights"


def check_finite(z: Tensor, what: str, remedy: str = REMEDY) -> None:
    """Raise UserError for values that no clip can be made of: they would be saved, and written as black."""
    _check_largest(_find_largest(z).item(), what, remedy)


def is_usable(z: Tensor) -> bool:
    """Return whether `check_finite` would accept a latent."""
    return _find_largest(z).item() <= MAX_ABS  # nothing compares with NaN


def _find_largest(z: Tensor) -> Tensor:
    return z.abs().max() if z.numel() else torch.zeros(())


def _check_largest(largest: float, what: str, remedy: str = REMEDY) -> None:
    if not math.isfinite(largest):
        raise UserError(f"{what} holds values that are not finite", remedy)
    if largest > MAX_ABS:
        raise UserError(f"{what} holds values as large as {largest:.0e}", remedy)


class StepCheck:
    """Checks the latent of every step: at once on a CPU, and after the next step is launched on a GPU.

    Reading a number makes a GPU finish all that was launched. Read one step late, it never waits for work.
    """

    def __init__(self, is_late: bool) -> None:
        self.is_late = is_late
        self._check_last: Callable[[], None] = lambda: None

    def add(self, step: Step) -> None:
        """Check the step before, or this one. Raise UserError as `check_finite` does."""
        self.finish()
        what = f"the latent after step {step.index} of {step.count}"
        read = copy_number(_find_largest(step.z))
        self._check_last = lambda: _check_largest(read(), what)
        if not self.is_late:
            self.finish()

    def finish(self) -> None:
        """Check the last step, unless that is done. Raise UserError as `check_finite` does."""
        check, self._check_last = self._check_last, lambda: None
        check()


def copy_number(number: Tensor) -> Callable[[], float]:
    """Start to copy a number from its device. Return a function that waits for this copy alone, and returns it."""
    if not number.is_cuda:
        return lambda: number.item()
    copied = number.to("cpu", non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(number.device))

    def read() -> float:
        event.synchronize()
        return copied.item()

    return read
