"""Long clips one after another, each beginning with the frame that the one before ended with: for methods that carry
one frame through a clip (`LONG = "clips"`), where windows that overlap have no first frame of their own."""

import itertools
from collections.abc import Iterable

from ..media.clip_format import ClipFormat
from .windows import Windows, window_size


def plan_segments(grid: ClipFormat, count: int, wanted: int | None = None, keys: Iterable[int] = ()) -> Windows:
    """Clips over a legal number of frames, by default of the length that the model was trained on; the last may be
    short. wanted: frames a clip, 0 for one piece. keys: frames at which one begins in any case, which is then the
    first to have that frame alone. Raises ValueError as windows.spans does.
    """
    frames = grid.count_latent_frames(count)
    size = window_size(grid, frames, wanted)
    found: list[tuple[int, int]] = []
    for begin, end in itertools.pairwise((0, *sorted(keys), frames)):
        found += _in_clips(begin, end, size)
    if len(found) == 1:
        return Windows(tuple(found), f"{frames} latent frames fit into one clip of {size}")
    reason = f"{frames} latent frames in {len(found)} clips of at most {size}, each from the frame"
    return Windows(tuple(found), f"{reason} that the last one ended with, or from its own key frame")


def _in_clips(begin: int, end: int, size: int) -> list[tuple[int, int]]:
    found = [(begin, min(begin + size, end))]
    while found[-1][1] < end:
        first = found[-1][1] - 1
        found.append((first, min(first + size, end)))
    return found
