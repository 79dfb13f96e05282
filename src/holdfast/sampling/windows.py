"""Long clips in overlapping windows: at every step the velocities of all windows are averaged where they overlap.

Noise is keyed by the absolute latent frame, so all windows see the same; a method knows nothing of them. The network's
memory is that of one window, whatever the clip's length. A clip that fits in one window is not touched by any of this.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.errors import UserError
from ..media.clip_format import ClipFormat


@dataclass(frozen=True)
class Windows:
    """Windows as (first, end) in latent frames."""

    spans: tuple[tuple[int, int], ...]
    reason: str

    @property
    def count(self) -> int:
        return len(self.spans)


def plan_windows(grid: ClipFormat, count: int, wanted: int | None = None) -> Windows:
    """Windows over a legal number of frames, by default of the length that the model was trained on.

    wanted: frames a window that the user asks for, 0 for one piece. Neighbours overlap by a quarter at least; windows
    are spread evenly. Raises ValueError for a window that is too short to overlap or longer than the model's position
    codes reach.
    """
    frames, trained = grid.count_latent_frames(count), grid.count_latent_frames(grid.train_frames)
    size = window_size(grid, frames, wanted)
    whose = "the model was trained on" if wanted is None else "asked for"
    if frames <= size:
        reason = f"{frames} latent frames fit into one window of the {size} {whose}"
        if wanted == 0 and frames > trained:
            reason = (
                f"one piece, as asked for, of {frames} latent frames; "
                f"the model was trained on {trained}"
            )
        return Windows(((0, frames),), reason)
    step = max(1, size - max(1, size // 4))
    windows = -(-(frames - size) // step) + 1
    firsts = [round(i * (frames - size) / (windows - 1)) for i in range(windows)]
    reason = (
        f"{frames} latent frames are more than the {size} {whose}: "
        f"{windows} windows that overlap by {size - step} or more"
    )
    return Windows(tuple((first, first + size) for first in firsts), reason)


def window_size(grid: ClipFormat, frames: int, wanted: int | None) -> int:
    """Latent frames a window, of so many in all. Raises ValueError where a window is too short, or too long for the
    model.
    """
    if wanted is None:
        return grid.count_latent_frames(grid.train_frames)
    size = frames if wanted == 0 else grid.count_latent_frames(wanted)
    if wanted < 0 or size < min(2, frames):
        least = grid.stride[0] + 1
        raise UserError(
            f"a window has two latent frames or more, "
            f"so --window is {least} or more (0: one piece), not {wanted}"
        )
    if min(size, frames) > grid.count_latent_frames(grid.max_frames):
        raise UserError(
            f"the model places at most {grid.max_frames} frames at once; give a smaller --window"
        )
    return size


class Windowed:
    """A velocity field over a clip of any length, made of a field over windows."""

    def __init__(self, inner, chosen: Windows):
        self.inner, self.chosen = inner, chosen
        self.attention_hooks, self.feature_hooks, self.network = inner.attention_hooks, inner.feature_hooks, inner.network
        self.sigmas, self.snap_timestep = inner.sigmas, inner.snap_timestep

    def velocity(self, z, sigma, condition, *, branch, frames=None) -> Tensor:
        """Each window's velocity weighted by a ramp over its overlaps, so that none ends in a step.

        z: b c f h w of the whole clip, or of the frames that are named, in order.
        """
        frames = tuple(range(z.shape[2]) if frames is None else frames)
        total, weights = torch.zeros_like(z), torch.zeros_like(z[:, :1, :, :1, :1])
        for first, end in self.chosen.spans:
            part = tuple(frame for frame in frames if first <= frame < end)
            if not part:
                continue
            begin = frames.index(part[0])
            at = slice(begin, begin + len(part))
            velocity = self.inner.velocity(
                z[:, :, at], sigma, condition, branch=branch, frames=part
            )
            weight = _ramp(end - first)[[frame - first for frame in part]]
            weight = weight.to(z).view(1, 1, -1, 1, 1)
            total[:, :, at] += weight * velocity
            weights[:, :, at] += weight
        return total / weights


def _ramp(size: int) -> Tensor:
    """Rises from the ends to the middle: 1 2 3 ... 3 2 1."""
    rise = torch.arange(1, size + 1)
    return torch.minimum(rise, rise.flip(0)).float()


def apply_windows(field, chosen: Windows):
    """A field over the whole clip: the field itself where one window holds it."""
    return field if chosen.count == 1 else Windowed(field, chosen)
