"""Long clips in overlapping windows: each step averages the velocities of all windows where they overlap.

Noise is keyed by the absolute latent frame, so all windows see the same noise, and a method needs to know nothing about
them. The network needs the memory of one window, whatever the length of the clip. A clip that fits into one window is
not affected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..base.errors import UserError
from ..media.clip_format import ClipFormat
from .field import Evaluation, VelocityField

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Windows or segments of a clip, as (first, end) in latent frames, and why they were chosen."""

    ranges: tuple[tuple[int, int], ...]
    reason: str

    @property
    def count(self) -> int:
        return len(self.ranges)


def plan_windows(clip_format: ClipFormat, count: int, wanted: int | None = None) -> Windows:
    """Return windows over a legal number of frames, by default of the length that the model was trained on.

    wanted: frames per window that the user chose, 0 for a single window. Windows are spread evenly, and neighbours
    overlap by at least a quarter. Raises UserError as `window_size` does.
    """
    frames = clip_format.count_latent_frames(count)
    size = window_size(clip_format, frames, wanted)
    if frames <= size:
        return Windows(((0, frames),), _single_window_reason(clip_format, frames, size, wanted))
    step = max(1, size - max(1, size // 4))
    windows = -(-(frames - size) // step) + 1
    firsts = [round(i * (frames - size) / (windows - 1)) for i in range(windows)]
    reason = (
        f"{frames} latent frames are more than {_describe_size(size, wanted)}: "
        f"{windows} windows that overlap by {size - step} or more"
    )
    return Windows(tuple((first, first + size) for first in firsts), reason)


def _single_window_reason(
    clip_format: ClipFormat, frames: int, size: int, wanted: int | None
) -> str:
    trained = clip_format.count_latent_frames(clip_format.train_frames)
    if wanted is None and clip_format.train_frames >= clip_format.max_frames:  # an image model
        return f"{frames} latent frames in one window: the model has no longest clip"
    if wanted == 0 and frames > trained:
        return (
            f"a single window of {frames} latent frames, as requested; "
            f"the model was trained on {trained}"
        )
    return f"{frames} latent frames fit into one window of {_describe_size(size, wanted)}"


def _describe_size(size: int, wanted: int | None) -> str:
    return f"the {size} that {'the model was trained on' if wanted is None else 'were requested'}"


def window_size(clip_format: ClipFormat, frames: int, wanted: int | None) -> int:
    """Return the latent frames per window, for a clip of `frames` latent frames.

    Raises UserError for a window that is too short to overlap, or longer than the model's position codes reach.
    """
    if wanted is None:
        return clip_format.count_latent_frames(clip_format.train_frames)
    size = frames if wanted == 0 else clip_format.count_latent_frames(wanted)
    if wanted < 0 or size < min(2, frames):
        shortest = clip_format.stride[0] + 1
        raise UserError(
            f"a window of {wanted} frames is shorter than two latent frames",
            f"choose a window of {shortest} frames or more, or 0 for a single window",
        )
    if min(size, frames) > clip_format.count_latent_frames(clip_format.max_frames):
        raise UserError(
            f"a window of {wanted or 'all'} frames is too long: "
            f"the model takes at most {clip_format.max_frames} frames at once",
            "choose a shorter window",
        )
    return size


def apply_windows(field: VelocityField, windows: Windows) -> VelocityField:
    """Return a field over the whole clip, made of a field over windows: the field itself for one window."""
    if windows.count == 1:
        return field

    def velocities(
        sigma: float, evaluations: Sequence[Evaluation], frames: Sequence[int] | None = None
    ) -> list[Tensor]:
        return _average_windows(field, windows, sigma, evaluations, frames)

    return replace(field, velocities=velocities)


def _average_windows(
    field: VelocityField,
    windows: Windows,
    sigma: float,
    evaluations: Sequence[Evaluation],
    frames: Sequence[int] | None,
) -> list[Tensor]:
    """Return each evaluation's velocity, averaged over the windows with weights that fade towards their ends.

    Each z is b c f h w of the whole clip, or of `frames`, in order.
    """
    import torch

    like = evaluations[0].z
    frames = tuple(range(like.shape[2]) if frames is None else frames)
    totals = [torch.zeros_like(e.z) for e in evaluations]
    weights = torch.zeros_like(like[:1, :1, :, :1, :1])
    for first, end in windows.ranges:
        part = tuple(frame for frame in frames if first <= frame < end)
        if not part:
            continue
        begin = frames.index(part[0])
        at = slice(begin, begin + len(part))
        weight = _ramp(end - first)[[frame - first for frame in part]]
        weight = weight.to(like).view(1, 1, -1, 1, 1)
        found = field.velocities(sigma, [_cut_frames(e, at) for e in evaluations], part)
        for total, velocity in zip(totals, found, strict=True):
            total[:, :, at] += weight * velocity
        weights[:, :, at] += weight
    return [total / weights for total in totals]


def _cut_frames(evaluation: Evaluation, at: slice) -> Evaluation:
    region = evaluation.region
    region = None if region is None else region[:, :, at]
    return replace(evaluation, z=evaluation.z[:, :, at], region=region)


def _ramp(size: int) -> Tensor:
    """Return weights that rise from the ends to the middle: 1 2 3 ... 3 2 1."""
    import torch

    rise = torch.arange(1, size + 1)
    return torch.minimum(rise, rise.flip(0)).float()
