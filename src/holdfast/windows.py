"""Long clips in overlapping windows: at every step the velocities of all windows are averaged where they overlap.

Noise is keyed by the absolute latent frame, so all windows see the same; a method knows nothing of them. The network's memory is
that of one window, whatever the clip's length. A clip that fits in one window is not touched by any of this.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .backbones.base import Grid


@dataclass(frozen=True)
class Plan:
    """Windows as (first, end) in latent frames."""

    spans: tuple[tuple[int, int], ...]
    reason: str

    @property
    def count(self) -> int:
        return len(self.spans)


def plan(grid: Grid, count: int, wanted: int | None = None) -> Plan:
    """Windows over a legal number of frames, by default of the length that the model was trained on.

    wanted: frames a window that the user asks for, 0 for one piece. Neighbours overlap by a quarter at least; windows are spread
    evenly. Raises ValueError for a window that is too short to overlap or longer than the model's position codes reach.
    """
    stride = grid.stride[0]
    frames, trained = (count - 1) // stride + 1, (grid.frames - 1) // stride + 1  # latent
    size = trained if wanted is None else frames if wanted == 0 else (wanted - 1) // stride + 1
    if wanted is not None and (wanted < 0 or size < min(2, frames)):
        raise ValueError(f"a window has two latent frames or more, so --window is {stride + 1} or more (0: one piece), not {wanted}")
    if min(size, frames) > (grid.most_frames - 1) // stride + 1:
        raise ValueError(f"the model places at most {grid.most_frames} frames at once; give a smaller --window")
    whose = "the model was trained on" if wanted is None else "asked for"
    if frames <= size:
        fits = f"{frames} latent frames fit into one window of the {size} {whose}"
        beyond = f"one piece, as asked for, of {frames} latent frames; the model was trained on {trained}"
        return Plan(((0, frames),), beyond if wanted == 0 and frames > trained else fits)
    step = max(1, size - max(1, size // 4))
    windows = -(-(frames - size) // step) + 1
    firsts = [round(i * (frames - size) / (windows - 1)) for i in range(windows)]
    reason = f"{frames} latent frames are more than the {size} {whose}: {windows} windows that overlap by {size - step} or more"
    return Plan(tuple((a, a + size) for a in firsts), reason)


class Windowed:
    """A velocity field over a clip of any length, made of a field over windows."""

    def __init__(self, field, chosen: Plan):
        self.field, self.plan = field, chosen
        self.levels, self.door = field.levels, field.door

    def velocity(self, z: Tensor, sigma: float, condition, *, branch: str) -> Tensor:
        """Each window's velocity weighted by a ramp over its overlaps, so that none ends in a step; z: b c f h w of the whole clip."""
        total, weights = torch.zeros_like(z), torch.zeros_like(z[:, :1, :, :1, :1])
        for first, end in self.plan.spans:
            with self.door.window(first):
                velocity = self.field.velocity(z[:, :, first:end], sigma, condition, branch=branch)
            weight = _ramp(end - first).to(z).view(1, 1, -1, 1, 1)
            total[:, :, first:end] += weight * velocity
            weights[:, :, first:end] += weight
        return total / weights


def _ramp(size: int) -> Tensor:
    """Rises from the ends to the middle: 1 2 3 ... 3 2 1."""
    rise = torch.arange(1, size + 1)
    return torch.minimum(rise, rise.flip(0)).float()


def fitted(field, chosen: Plan):
    """The field itself where one window holds the clip."""
    return field if chosen.count == 1 else Windowed(field, chosen)
