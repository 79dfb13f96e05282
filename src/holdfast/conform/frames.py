"""The frames of an edited clip as the source's pixels and times see them.

Where the edited clip has no frame of a moment, one is interpolated along the motion between its neighbours. The source
knows how things moved in between: its own flow is used wherever it explains the edited frames better than theirs.
"""

from collections import OrderedDict
from collections.abc import Generator, Iterator

import numpy as np
from numpy import ndarray

from ..media import optical_flow, video
from . import geometry
from .alignment import Alignment, rescale, scaled_size, size_ratio
from .pictures import Size, read_scaled
from .prefetch import prefetch
from .timing import FULL, Timing

Roi = tuple[slice, slice]  # rows, columns
CACHE = 8  # frames
BAR_DOUBT = 0.012  # of the longer side: how exactly the border of bars is known
EXACT = 0.02  # of a frame: an edited frame so near to a moment shows it


class FrameReader:
    """Read frames of a clip by number, mostly forwards. Recent frames are kept."""

    def __init__(self, clip: video.Clip, size: Size, is_deep: bool = False):
        self.clip, self.size, self.is_deep = clip, size, is_deep
        self.frames: Iterator[ndarray] = iter(())
        self.next = 0
        self.recent: OrderedDict[int, ndarray] = OrderedDict()
        self._restart()

    def _restart(self) -> None:
        if isinstance(self.frames, Generator):
            self.frames.close()
        self.frames, self.next = prefetch(read_scaled(self.clip, self.size, self.is_deep)), 0
        self.recent.clear()

    def read(self, number: int) -> ndarray:
        """Return a frame, H W 3, uint8 or, if deep, uint16."""
        if number not in self.recent and number < self.next:
            self._restart()
        while number not in self.recent:
            self.recent[self.next] = next(self.frames)
            self.next += 1
            if len(self.recent) > CACHE:
                self.recent.popitem(last=False)
        return self.recent[number]


def edited_positions(timing: Timing, frames: int, hold: bool) -> ndarray:
    """Return the fractional number of the edited frame that belongs to each frame of the source; NaN for none.

    hold: continue with the first and last edited frame where the edited clip has none.
    """
    positions = np.full(frames, np.nan)
    for segment in sorted(timing.segments, key=lambda s: len(s.frames)):
        content, numbers = np.unique(segment.content, return_index=True)
        numbers = segment.frames.start + numbers
        # A frame lasts until the next one begins.
        reach = float(np.median(np.diff(content))) if len(content) > 1 else 1.0
        shown = np.arange(
            max(0, int(np.ceil(content[0]))), min(frames, int(np.ceil(content[-1] + reach - EXACT)))
        )
        positions[shown] = np.interp(shown, content, numbers)
    known = np.flatnonzero(~np.isnan(positions))
    if hold and len(known):
        positions[: known[0]], positions[known[-1] :] = positions[known[0]], positions[known[-1]]
    return positions


class ConformedFrames:
    """Edited frames at the times and in the geometry of the source, at a scale of the source's size."""

    def __init__(
        self,
        clips: tuple[video.Clip, video.Clip],
        alignment: Alignment,
        positions: ndarray,
        size: Size,
        is_deep: bool = False,
    ):
        self.source_clip, edited = clips
        self.alignment, self.positions, self.size = alignment, positions, size
        self.factors = size_ratio(size, self.source_clip.size)
        shrink = min(1.0, max(self.factors) / alignment.density)
        edited_size = scaled_size(edited.size, shrink)
        self.edited_factors = size_ratio(edited_size, edited.size)
        self.source = FrameReader(self.source_clip, size, is_deep)
        self.edited = FrameReader(edited, edited_size, is_deep)
        self.content = _content_numbers(alignment.timing, edited.frames)

    def matrix(self, frame: int) -> ndarray:
        """Return the placement of a frame of the source at these sizes, 2x3."""
        return rescale(self.alignment.matrix(frame), self.factors, self.edited_factors)

    @property
    def is_resampled(self) -> bool:
        """Whether edited pixels do not lie on those of the source."""
        return bool(np.abs(self.alignment.drift - np.eye(2, 3)).max() > 1e-6)

    def is_exact(self, frame: int) -> bool:
        """Return whether the edited clip has a frame of this moment."""
        position = self.positions[frame]
        return abs(position - round(position)) < EXACT

    def read(self, frame: int, roi: Roi | None = None) -> ndarray | None:
        """Return the edited frame that belongs to a frame of the source, H W 3; None where the edited clip has nothing.

        roi: the part of the picture that is returned, by default the whole.
        """
        position = self.positions[frame]
        if np.isnan(position):
            return None
        if self.is_exact(frame):
            return self._place(round(position), frame, roi)
        first, share = int(position), float(position - int(position))
        pair = self._place(first, frame), self._place(first + 1, frame)
        moments = [round(self.content[number]) for number in (first, first + 1)]
        source = self.source.read(frame)
        neighbours = self.source.read(moments[0]), self.source.read(moments[1])
        return crop(interpolate(pair, share, source, neighbours), roi)

    def _place(self, number: int, frame: int, roi: Roi | None = None) -> ndarray:
        matrix, picture = self.matrix(frame), self.edited.read(number)
        if picture.shape[1::-1] == self.size and np.abs(matrix - np.eye(2, 3)).max() < 1e-6:
            return crop(picture, roi)
        if roi is None:
            return geometry.warp(picture, matrix, self.size)
        shifted = matrix.copy()
        shifted[:, 2] += matrix[:, :2] @ (roi[1].start, roi[0].start)
        size = roi[1].stop - roi[1].start, roi[0].stop - roi[0].start
        return geometry.warp(picture, shifted, size)

    def coverage(self, frame: int = 0, edge: float = 0.0) -> ndarray:
        """Return which pixels the edited clip shows at a frame, `edge` of its pixels from its border, boolean H W.

        Where it has bars, their border is known less exactly.
        """
        edited, box = self.edited.size, self.alignment.boxes[1]
        if box != FULL:
            edge += BAR_DOUBT * max(edited)
        return geometry.coverage(self.matrix(frame), self.size, edited, box, edge)


def crop(picture: ndarray, roi: Roi | None) -> ndarray:
    """Return a part of a picture; the whole without one."""
    return picture if roi is None else picture[roi]


def _content_numbers(timing: Timing, frames: int) -> ndarray:
    """Return the source frame that each edited frame shows; NaN for none."""
    content = np.full(frames, np.nan)
    for segment in timing.segments:
        content[segment.frames.start : segment.frames.stop] = segment.content
    return content


def interpolate(
    edited: tuple[ndarray, ndarray],
    share: float,
    source: ndarray,
    neighbours: tuple[ndarray, ndarray],
) -> ndarray:
    """Return the picture between two edited frames, H W 3 of the same type.

    share: of the time that has passed. source: the source at this moment; neighbours: at those of the edited frames.
    """
    peak = np.iinfo(source.dtype).max
    first, second, here, before, after = (
        picture.astype(np.float32) / peak for picture in (*edited, source, *neighbours)
    )
    by_source = [optical_flow.dis(here, neighbour) for neighbour in (before, after)]
    forward, backward = optical_flow.dis(first, second), optical_flow.dis(second, first)
    # Flows from the middle to both ends, for motion at constant speed.
    by_edited = [
        share * (share * backward - (1 - share) * forward),
        (1 - share) * ((1 - share) * forward - share * backward),
    ]
    results = []
    for flows in (by_source, by_edited):
        one, two = optical_flow.warp(first, flows[0]), optical_flow.warp(second, flows[1])
        results.append((_mix(one, two, share, here), _blur(np.abs(one - two).sum(2))))
    (a, apart_a), (b, apart_b) = results
    blend = np.where((apart_a <= apart_b + 0.02)[..., None], a, b)
    return np.rint(np.clip(blend, 0, 1) * peak).astype(source.dtype)


def _mix(one: ndarray, two: ndarray, share: float, source: ndarray) -> ndarray:
    """Return the mean of two warped frames. Where they differ, one of them shows what the other hides.

    There the one that resembles the source counts more.
    """
    apart = _blur(np.abs(one - two).sum(2))
    away = [_blur(np.abs(picture - source).sum(2)) + 0.02 for picture in (one, two)]
    nearer = away[1] / (away[0] + away[1])
    doubt = np.clip(apart / 0.3, 0, 1)
    weight = ((1 - doubt) * (1 - share) + doubt * nearer)[..., None]
    return weight * one + (1 - weight) * two


def _blur(values: ndarray) -> ndarray:
    import cv2

    return cv2.GaussianBlur(values, (0, 0), 1.5)
