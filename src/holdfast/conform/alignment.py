"""Align an edited clip with its source in time and space.

Time comes first, from small pictures of all frames; then space, from pairs of frames that show the same moment. Where
the camera moves, a shift in space looks like one in time: neighbouring frames are tried too, and the best fit decides.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy import ndarray

from ..media import video
from ..media.frame_access import read_frame
from . import geometry, pictures, timing
from .geometry import Pair, Placement
from .pictures import Size
from .timing import FULL, Box, Timing

LONG_SIDE = 640  # pixels, of the pictures that are compared
MOMENTS, DRIFT_MOMENTS = 8, 16  # pairs of frames
SHIFTS = (0, -1, 1)  # whole frames of the source that are tried
BETTER = 0.01  # of correlation, by which another shift has to be better
MIN_DRIFT = 0.5  # pixels of the source; a smaller movement is noise


@dataclass(frozen=True)
class Alignment:
    """How an edited clip lies in its source.

    placement: of the whole clip. drift: matrices f 2 3 of the moments of the source `moments` (in frames), where the
    placement moves; else of one. sizes, boxes: of source and edited clip.
    """

    timing: Timing
    placement: Placement
    moments: ndarray
    drift: ndarray
    sizes: tuple[Size, Size]
    boxes: tuple[Box, Box]

    def matrix(self, frame: int) -> ndarray:
        """Return the 2x3 placement of a frame of the source."""
        if len(self.drift) == 1:
            return self.drift[0]
        flat = self.drift.reshape(len(self.drift), 6)
        return np.array([np.interp(frame, self.moments, flat[:, k]) for k in range(6)]).reshape(
            2, 3
        )

    @property
    def has_drift(self) -> bool:
        return len(self.drift) > 1

    @property
    def density(self) -> float:
        """Edited pixels per source pixel, along a side."""
        return float(np.sqrt(abs(np.linalg.det(self.placement.matrix[:, :2]))))


class _Pictures:
    """Grey frames of both clips, at the size at which they are compared."""

    def __init__(self, source: video.Clip, edited: video.Clip):
        self.clips = source, edited
        self.scales = [min(1.0, LONG_SIDE / max(clip.size)) for clip in self.clips]

    @functools.lru_cache(maxsize=64)  # noqa: B019  # the object lives as long as one alignment
    def read(self, which: int, number: int) -> ndarray:
        """Return a frame of the source (0) or the edited clip (1), uint8 H W."""
        import cv2

        clip, scale = self.clips[which], self.scales[which]
        grey = cv2.cvtColor(read_frame(clip, number), cv2.COLOR_RGB2GRAY)
        return pictures.resize(grey, scaled_size(clip.size, scale))

    def pairs(self, moments: Sequence[tuple[int, int]]) -> list[Pair]:
        return [(self.read(0, i), self.read(1, j)) for i, j in moments]

    def to_full(self, matrix: ndarray) -> ndarray:
        """Return a placement of these pictures as one of the clips' own pixels."""
        scales = [
            tuple(small / full for small, full in zip(scaled_size(c.size, s), c.size, strict=True))
            for c, s in zip(self.clips, self.scales, strict=True)
        ]
        return rescale(matrix, *((tuple(1 / k for k in pair)) for pair in scales))


def scaled_size(size: Size, scale: float) -> Size:
    """Return a size times a scale, at least one pixel a side."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def rescale(matrix: ndarray, source: tuple[float, float], edited: tuple[float, float]) -> ndarray:
    """Return the placement of pictures that are scaled by these factors, across and down."""

    def scaling(factors: tuple[float, float]) -> ndarray:
        x, y = factors
        return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])

    whole = np.vstack((matrix, (0, 0, 1)))
    return (scaling(edited) @ whole @ np.linalg.inv(scaling(source)))[:2]


def align(source: video.Clip, edited: video.Clip, folder: Path) -> Alignment:
    """Find where and when the frames of an edited clip lie in its source. folder: for temporary files."""
    small = [pictures.read_proxies(clip, folder) for clip in (source, edited)]
    boxes = geometry.find_bars(small[0]), geometry.find_bars(small[1])
    times = [pictures.seconds(clip) for clip in (source, edited)]
    strips = [timing.describe(*args) for args in zip(small, times, boxes, strict=True)]
    found = timing.find_timing(*strips)
    reader = _Pictures(source, edited)
    found, placement = _settle(reader, found, boxes, source.frames)
    seen = _seen_box(reader, placement)
    if not found.is_determined and seen != FULL:  # a crop: compare what both show
        strips[0] = timing.describe(small[0], times[0], seen)
        again = timing.find_timing(*strips)
        if again.is_determined:
            found, placement = _settle(reader, again, boxes, source.frames)
    moments, drift = _find_drift(reader, found, placement, boxes[1])
    full = replace(placement, matrix=reader.to_full(placement.matrix))
    drift = np.stack([reader.to_full(matrix) for matrix in drift])
    return Alignment(found, full, moments, drift, (source.size, edited.size), boxes)


def _seen_box(reader: _Pictures, placement: Placement) -> Box:
    """Return the part of the source that the edited clip shows, as shares; all of it where nearly all is seen."""
    source, edited = (reader.read(which, 0).shape[1::-1] for which in (0, 1))
    shown = geometry.coverage(placement.matrix, source, edited)
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    if not len(rows) or shown.mean() > 0.95:
        return FULL
    return (
        columns[0] / source[0],
        rows[0] / source[1],
        (columns[-1] + 1) / source[0],
        (rows[-1] + 1) / source[1],
    )


def matched_moments(segment: timing.Segment, count: int) -> list[tuple[int, int]]:
    """Return pairs of a source frame and an edited frame that show the same moment, evenly spread."""
    whole = np.abs(segment.content - segment.content.round()) < 0.1
    usable = np.flatnonzero(whole) if whole.sum() >= 2 else np.arange(len(segment.content))
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, count).round().astype(int))]
    return [(round(segment.content[j]), segment.frames[j]) for j in chosen]


def _settle(
    reader: _Pictures, found: Timing, boxes: tuple[Box, Box], frames: int
) -> tuple[Timing, Placement]:
    """Return the timing and the placement that fit best together."""
    moments = matched_moments(found.main, MOMENTS)
    pairs = reader.pairs(moments)
    best = geometry.find_placement(pairs, boxes)
    if best.score >= geometry.CERTAIN or not found.is_determined:
        return found, best
    shifts = {}
    for shift in SHIFTS:
        shifted = [(i + shift, j) for i, j in moments[::2] if 0 <= i + shift < frames]
        if len(shifted) >= 2:
            near = reader.pairs(shifted)
            shifts[shift] = geometry.score(
                near, geometry.refine(near, best.matrix, "shift", boxes[1])
            )
    shift = max(shifts, key=lambda s: shifts[s] - BETTER * abs(s), default=0)
    if not shift:
        return found, best
    moved = [(i + shift, j) for i, j in moments if 0 <= i + shift < frames]
    return _shift(found, shift, frames - 1), geometry.find_placement(reader.pairs(moved), boxes)


def _shift(found: Timing, frames: int, last: int) -> Timing:
    """Return the timing with the content of every segment moved by whole frames of the source."""
    if not frames:
        return found
    segments = tuple(
        replace(s, content=np.clip(s.content + frames, 0, last)) for s in found.segments
    )
    return replace(found, segments=segments)


def _find_drift(
    reader: _Pictures, found: Timing, placement: Placement, box: Box
) -> tuple[ndarray, ndarray]:
    """Return moments (frames of the source) and their placements, n 2 3; one where the placement does not move."""
    moments = matched_moments(found.main, DRIFT_MOMENTS)
    pairs = reader.pairs(moments)
    still = np.array([moments[0][0]]), placement.matrix[None]
    if len(moments) < 5:
        return still
    frames = np.array([i for i, _ in moments])
    matrices = np.stack([geometry.refine([pair], placement.matrix, "shift", box) for pair in pairs])
    smooth = _smooth_over_time(matrices)
    width, height = pairs[0][0].shape[1::-1]
    centre = np.array([width / 2, height / 2, 1])
    path, noise = smooth @ centre, (matrices - smooth) @ centre
    scatter = 1.4826 * np.median(np.abs(noise - np.median(noise, 0)), 0)
    limit = max(MIN_DRIFT * reader.scales[0], float(4 * scatter.max()))
    return (frames, smooth) if np.ptp(path, 0).max() > limit else still


def _smooth_over_time(matrices: ndarray) -> ndarray:
    """Return matrices n 2 3, each the median of five neighbours, averaged over three."""
    padded = np.pad(matrices, ((2, 2), (0, 0), (0, 0)), mode="edge")
    medians = np.median([padded[k : k + len(matrices)] for k in range(5)], 0)
    padded = np.pad(medians, ((1, 1), (0, 0), (0, 0)), mode="edge")
    return np.mean([padded[k : k + len(matrices)] for k in range(3)], 0)
