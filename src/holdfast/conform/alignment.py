"""Align an edited clip with its source in time and space.

Time comes first, from small pictures of all frames; then space, from pairs of frames that show the same moment. Where
the camera moves, a shift in space looks like one in time: neighbouring frames are tried too, and the best fit decides.
"""

from collections.abc import Iterable, Sequence
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

SHORT = 600  # frames of a clip that is read from its start rather than frame by frame
LONG_SIDE = 640  # pixels, of the pictures that are compared
MOMENTS, DRIFT_MOMENTS = 8, 15  # pairs of frames
SHIFTS = (0, -1, 1)  # whole frames of the source that are tried
AGAIN, LATE = (
    0.01,
    0.01,
)  # cost by which another timing, and a frame further away, have to be better
PATH = 5  # moments that a straight path is fitted to
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
        self.sizes = [scaled_size(c.size, k) for c, k in zip(self.clips, self.scales, strict=True)]
        self.found: dict[tuple[int, int], ndarray] = {}

    def load(self, which: int, numbers: Iterable[int]) -> None:
        """Read frames of the source (0) or the edited clip (1) that are not there yet."""
        clip, size = self.clips[which], self.sizes[which]
        missing = {number for number in numbers if (which, number) not in self.found}
        if clip.frames <= SHORT and len(missing) > 1:
            for i, frame in enumerate(pictures.read_scaled(clip, size)):
                if i in missing:
                    self._keep(which, i, frame)
            return
        for number in missing:
            self._keep(which, number, pictures.resize(read_frame(clip, number), size))

    def _keep(self, which: int, number: int, frame: ndarray) -> None:
        import cv2

        self.found[which, number] = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)

    def load_moments(self, moments: Sequence[tuple[int, int]]) -> None:
        """Read the frames of moments, each clip in one pass."""
        for which in (0, 1):
            self.load(which, [moment[which] for moment in moments])

    def pairs(self, moments: Sequence[tuple[int, int]]) -> list[Pair]:
        """Return frames that show the same moments, uint8 H W."""
        self.load_moments(moments)
        return [(self.found[0, i], self.found[1, j]) for i, j in moments]

    @property
    def frames(self) -> int:
        """The number of frames of the source."""
        return self.clips[0].frames

    def to_small(self, matrix: ndarray) -> ndarray:
        """Return a placement of these pictures as one of small frames."""
        factors = [size_ratio(pictures.PROXY_SIZE, size) for size in self.sizes]
        return rescale(matrix, factors[0], factors[1])

    def to_full(self, matrix: ndarray) -> ndarray:
        """Return a placement of these pictures as one of the clips' own pixels."""
        factors = [
            size_ratio(clip.size, size) for clip, size in zip(self.clips, self.sizes, strict=True)
        ]
        return rescale(matrix, factors[0], factors[1])


def scaled_size(size: Size, scale: float) -> Size:
    """Return a size times a scale, at least one pixel a side."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def size_ratio(size: Size, other: Size) -> tuple[float, float]:
    """Return the factors, across and down, from one size to another: size / other."""
    return size[0] / other[0], size[1] / other[1]


def rescale(matrix: ndarray, source: tuple[float, float], edited: tuple[float, float]) -> ndarray:
    """Return the placement of pictures that are scaled by these factors, across and down."""

    def scaling(factors: tuple[float, float]) -> ndarray:
        x, y = factors
        return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])

    whole = np.vstack((matrix, (0, 0, 1)))
    return (scaling(edited) @ whole @ np.linalg.inv(scaling(source)))[:2]


def align(source: video.Clip, edited: video.Clip, folder: Path) -> Alignment:
    """Find where and when the frames of an edited clip lie in its source. folder: for temporary files."""
    small = Small(
        pictures.read_proxies(source, folder),
        pictures.read_proxies(edited, folder),
        (pictures.seconds(source), pictures.seconds(edited)),
    )
    boxes = geometry.find_bars(small.source), geometry.find_bars(small.edited)
    found = timing.find_timing(
        timing.describe(small.source, small.times[0], boxes[0]),
        timing.describe(small.edited, small.times[1], boxes[1]),
    )
    reader = _Pictures(source, edited)
    found, placement = _settle(reader, small, found, boxes)
    moments, drift = _find_drift(reader, found, placement, boxes[1])
    full = replace(placement, matrix=reader.to_full(placement.matrix))
    drift = np.stack([reader.to_full(matrix) for matrix in drift])
    return Alignment(found, full, moments, drift, (source.size, edited.size), boxes)


@dataclass(frozen=True)
class Small:
    """Small grey frames of both clips, and their times in seconds."""

    source: ndarray
    edited: ndarray
    times: tuple[ndarray, ndarray]

    def find_timing(self, matrix: ndarray, seen: Box) -> Timing:
        """Return the timing of frames in the place that a placement of small frames gives them.

        seen: the part of the source that the edited clip shows.
        """
        size = pictures.PROXY_SIZE
        placed = [geometry.warp(frame, matrix, size) for frame in self.edited]
        return timing.find_timing(
            timing.describe(self.source, self.times[0], seen),
            timing.describe(np.stack(placed), self.times[1], seen),
        )


def _seen_box(reader: _Pictures, matrix: ndarray) -> Box:
    """Return the part of the source that the edited clip shows, as shares; all of it where nearly all is seen."""
    source, edited = reader.sizes
    shown = geometry.coverage(matrix, source, edited)
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
    return [(round(float(segment.content[j])), segment.frames[j]) for j in chosen]


def _settle(
    reader: _Pictures, small: Small, found: Timing, boxes: tuple[Box, Box]
) -> tuple[Timing, Placement]:
    """Return the timing and the placement that fit best together.

    What moves across a shifted picture looks early or late. So where the placement is not a plain one, time is
    searched again in the shifted picture, also as it is if the frames were one earlier or later.
    """
    reader.load_moments(matched_moments(found.main, DRIFT_MOMENTS))  # in one pass
    moments = matched_moments(found.main, MOMENTS)
    best = geometry.find_placement(reader.pairs(moments), boxes)
    if best.is_usual and _seen_box(reader, best.matrix) == FULL:
        return found, best
    tried = [(found.main.line.cost + (AGAIN if found.is_determined else 1), found)]
    reader.load(0, [min(max(i + s, 0), reader.frames - 1) for i, _ in moments for s in SHIFTS])
    for shift in SHIFTS:
        pairs = reader.pairs([(i + shift, j) for i, j in moments if 0 <= i + shift < reader.frames])
        if pairs:
            matrix = geometry.refine(pairs, best.matrix, "shift", boxes[1])
            again = small.find_timing(reader.to_small(matrix), _seen_box(reader, matrix))
            tried.append((again.main.line.cost + LATE * abs(shift), again))
    chosen = min(tried, key=lambda pair: pair[0])[1]
    if chosen is found or not chosen.is_determined:
        return found, best
    pairs = reader.pairs(matched_moments(chosen.main, MOMENTS))
    return chosen, geometry.find_placement(pairs, boxes)


def _find_drift(
    reader: _Pictures, found: Timing, placement: Placement, box: Box
) -> tuple[ndarray, ndarray]:
    """Return moments (frames of the source) and their placements, n 2 3; one where the placement does not move."""
    found_moments = matched_moments(found.main, DRIFT_MOMENTS)
    moments = list({i: (i, j) for i, j in found_moments}.values())  # one a frame of the source
    pairs = reader.pairs(moments)
    still = np.array([moments[0][0]]), placement.matrix[None]
    if len(moments) < PATH:
        return still
    frames = np.array([i for i, _ in moments])
    matrices = np.stack([geometry.refine([pair], placement.matrix, "shift", box) for pair in pairs])
    smooth = _smooth_over_time(frames, matrices)
    width, height = pairs[0][0].shape[1::-1]
    centre = np.array([width / 2, height / 2, 1])
    path, noise = smooth @ centre, (matrices - smooth) @ centre
    scatter = 1.4826 * np.median(np.abs(noise - np.median(noise, 0)), 0)
    limit = max(MIN_DRIFT * reader.scales[0], float(4 * scatter.max()))
    if np.ptp(path, 0).max() <= limit:
        return still
    alike = [
        np.mean([geometry.score([pair], m) for pair, m in zip(pairs, tried, strict=True)])
        for tried in (smooth, [placement.matrix] * len(pairs))
    ]
    return (frames, smooth) if alike[0] > alike[1] + geometry.margin(float(alike[1])) else still


def _smooth_over_time(frames: ndarray, matrices: ndarray) -> ndarray:
    """Return matrices n 2 3, each on the straight path that fits it and its neighbours best."""
    flat = matrices.reshape(len(matrices), 6)
    smooth = np.empty_like(flat)
    for k in range(len(flat)):
        first = min(max(0, k - PATH // 2), max(0, len(flat) - PATH))
        near = slice(first, first + PATH)
        lines = np.polyfit(frames[near] - frames[k], flat[near], 1)
        smooth[k] = lines[1]
    return smooth.reshape(matrices.shape)
