"""Schedules: how the noise levels of rectified flow are spaced, from noisy to 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def flow_sigmas(name: str, steps: int, shift: float, native: str) -> Tensor:
    """Return the rectified-flow noise levels of a schedule, from noisy to 0: steps + 1, float64.

    wan: even from 0.999 to 0, then shifted, as Wan's authors do. euler: as diffusers' FlowMatchEuler, whose ends are
    shifted before the even spacing and again after it. native: the schedule that is the model's own, by its name.
    Raises UserError for another name.
    """
    import numpy as np
    import torch

    name = native if name == "native" else name
    if name == "wan":
        return shift_sigmas(torch.from_numpy(np.linspace(0.999, 0.0, steps + 1)), shift)
    if name == "euler":
        ends = shift_sigmas(torch.tensor([1.0, 0.001], dtype=torch.float64), shift)
        even = torch.from_numpy(np.linspace(ends[0].item(), ends[1].item(), steps))
        return torch.cat((shift_sigmas(even, shift), torch.zeros(1, dtype=torch.float64)))
    raise UserError(f"this model has no noise schedule {name!r}", "use native, wan or euler")


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """Return noise levels moved towards the noisy end: `shift s / (1 + (shift - 1) s)`."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)
