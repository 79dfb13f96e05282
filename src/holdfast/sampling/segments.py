"""Long clips in segments that are edited one after another. Each begins with the last frame of the one before.

They are for methods that carry one frame through a clip (`long_clips="segments"`): overlapping windows would have no
first frame of their own.
"""

import itertools
from collections.abc import Iterable

from ..media.clip_format import ClipFormat
from .windows import Windows, window_size


def plan_segments(
    clip_format: ClipFormat, count: int, wanted: int | None = None, keyframes: Iterable[int] = ()
) -> Windows:
    """Return segments over a legal number of frames, by default of the length that the model was trained on.

    The last one may be short. wanted: frames per segment, 0 for a single one. keyframes: frames at which a segment
    begins in any case; only that segment has the frame. Raises UserError as `window_size` does.
    """
    frames = clip_format.count_latent_frames(count)
    size = window_size(clip_format, frames, wanted)
    segments: list[tuple[int, int]] = []
    for begin, end in itertools.pairwise((0, *sorted(keyframes), frames)):
        segments += _split_range(begin, end, size)
    if len(segments) == 1:
        reason = f"{frames} latent frames fit into one segment of {size}"
        if size >= clip_format.max_frames:
            reason = f"{frames} frames in one segment: there is no longest clip"
        return Windows(tuple(segments), reason)
    reason = (
        f"{frames} latent frames in {len(segments)} segments of at most {size}, each from the "
        "last frame of the one before, or from its own keyframe"
    )
    return Windows(tuple(segments), reason)


def _split_range(begin: int, end: int, size: int) -> list[tuple[int, int]]:
    """Return segments of at most `size` frames that share one frame with their neighbours."""
    segments = [(begin, min(begin + size, end))]
    while segments[-1][1] < end:
        first = segments[-1][1] - 1
        segments.append((first, min(first + size, end)))
    return segments
