"""Long clips one after another, each beginning with the frame that the one before ended with: for methods that carry
one frame through a clip (`LONG = "clips"`), where windows that overlap have no first frame of their own."""

from .backbones._cards import Grid
from .windows import Spans, size_of


def spans(grid: Grid, count: int, wanted: int | None = None) -> Spans:
    """Clips over a legal number of frames, by default of the length that the model was trained on; the last may be
    short. wanted: frames a clip, 0 for one piece. Raises ValueError as windows.spans does.
    """
    frames = grid.latent_frames(count)
    size = size_of(grid, frames, wanted)
    found, first = [(0, min(size, frames))], size
    while first < frames:
        found.append((first - 1, min(first - 1 + size, frames)))
        first = found[-1][1]
    if len(found) == 1:
        return Spans(tuple(found), f"{frames} latent frames fit into one clip of {size}")
    reason = f"{frames} latent frames are more than {size}: {len(found)} clips that share a frame"
    return Spans(tuple(found), reason)
