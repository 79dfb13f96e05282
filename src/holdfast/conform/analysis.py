"""Compare an edited clip with its source frame by frame, and store the mask of each frame.

One pass over both clips: each frame's own colour correction, smoothed over its neighbours; its difference in standard
deviations of the noise; its mask; and a vote with the frames before and after, along the motion.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy import ndarray

from ..media import optical_flow
from . import change, colour
from .calibration import EDGE, Calibration, soften
from .frames import ConformedFrames
from .mask_store import MaskStore
from .outside_statistics import OutsideStatistics
from .pictures import resize

GAIN_WEIGHTS = np.array(
    [0.1, 0.2, 0.4, 0.2, 0.1]
)  # of a frame's neighbours, for its colour correction
FLOW_SIDE = 320  # pixels of the longer side at which motion is followed
SUPPORT = 0.3  # share of a part of the mask that a neighbour has to show
TOLERANCE = 2  # pixels
MIN_PIXELS = 12  # of a part of the mask
CLOSING = 1  # pixels of gaps in a mask

Report = Callable[[int], None]


@dataclass(frozen=True)
class Options:
    """How the change is found. min_area: share of the picture. limit: masks at the work size, boolean H W a frame."""

    min_area: float
    is_soft: bool = False


@dataclass
class ComparedFrame:
    """A frame of the source, uint8 H W 3, the edited one in its place and colours, float32, and its own gain, 3 2."""

    number: int
    source: ndarray
    edited: ndarray | None = None
    placed: ndarray | None = None  # before its colours were corrected, uint8
    gain: ndarray = field(default_factory=lambda: colour.NO_GAIN)
    mask: ndarray | None = None
    weak: ndarray | None = None  # where it differs at all


@dataclass(frozen=True)
class Findings:
    """What the comparison found. gains: f 3 2, of each frame. shares: of the picture that changed, f."""

    masks: MaskStore
    gains: ndarray
    shares: ndarray
    statistics: OutsideStatistics


class Analysis:
    """Find the masks of all frames."""

    def __init__(self, frames: ConformedFrames, calibration: Calibration, options: Options):
        self.frames, self.calibration, self.options = frames, calibration, options
        self.shown = self.safe = np.zeros(0, bool)
        self._set_coverage(0)
        self.count = len(frames.positions)
        self.min_pixels = max(MIN_PIXELS, round(options.min_area * frames.size[0] * frames.size[1]))

    def _set_coverage(self, frame: int) -> None:
        """Set which pixels the edited clip shows at a frame, and which are not spoilt by its border."""
        if self.shown.size and not self.frames.alignment.has_drift:
            return
        self.shown = self.frames.coverage(frame)
        safe = self.frames.coverage(frame, EDGE)
        self.safe = safe if safe.any() else self.shown

    def run(
        self, folder: Path, report: Report, limits: Iterable[ndarray] | None = None
    ) -> Findings:
        """Find the mask of every frame. limits: where the change may be, boolean H W a frame of the source."""
        masks = MaskStore(folder, self.count, self.frames.size)
        gains = np.tile(colour.NO_GAIN, (self.count, 1, 1))
        shares = np.zeros(self.count)
        statistics = OutsideStatistics()
        found = self._detect(self._smooth(self._observe()))
        bounds = iter(limits) if limits is not None else None
        for frame in self._vote(found):
            mask = frame.mask if frame.mask is not None else np.zeros_like(self.shown)
            if bounds is not None:
                mask = mask & next(bounds)
            masks.write(frame.number, mask)
            gains[frame.number], shares[frame.number] = frame.gain, mask.mean()
            if frame.placed is not None and self.frames.is_exact(frame.number):
                self._add_statistics(statistics, frame, mask)
            report(frame.number + 1)
        return Findings(masks, gains, shares, statistics)

    def _observe(self) -> Iterator[ComparedFrame]:
        """Yield every frame with the edited one that belongs to it, and its own gain."""
        for number in range(self.count):
            source, placed = self.frames.source.read(number), self.frames.read(number)
            if placed is None:
                yield ComparedFrame(number, source)
                continue
            edited = self.calibration.colours.apply(placed)
            yield ComparedFrame(number, source, edited, placed, self._fit_gain(source, edited))

    def _fit_gain(self, source: ndarray, edited: ndarray) -> ndarray:
        """Return the gain and offset of each channel that a frame differs by, 3 2."""
        size = colour.small_size(self.frames.size)
        shown = resize(self.safe.astype(np.uint8) * 255, size) == 255
        one, two = (resize(p, size)[shown].astype(np.float32) for p in (source, edited))
        return colour.fit_gain(one, two, colour.tukey_weights(one - two))

    def _smooth(self, frames: Iterable[ComparedFrame]) -> Iterator[ComparedFrame]:
        """Yield the frames with their gain averaged over their neighbours, and applied."""
        for before, frame, after in neighbours(frames, len(GAIN_WEIGHTS) // 2):
            if frame.edited is None:
                yield frame
                continue
            near = [f for f in (*before, frame, *after) if f.edited is not None]
            weights = [GAIN_WEIGHTS[f.number - frame.number + len(GAIN_WEIGHTS) // 2] for f in near]
            gain = np.average([f.gain for f in near], 0, weights)
            edited = frame.edited * gain[:, 0].astype(np.float32) + gain[:, 1].astype(np.float32)
            yield replace(frame, gain=gain, edited=edited)

    def _detect(self, frames: Iterable[ComparedFrame]) -> Iterator[ComparedFrame]:
        """Yield the frames with the mask that each shows by itself."""
        for frame in frames:
            if frame.edited is not None:
                self._set_coverage(frame.number)
                frame.mask, frame.weak = self._find_mask(frame)
            yield frame

    def _find_mask(self, frame: ComparedFrame) -> tuple[ndarray, ndarray]:
        assert frame.edited is not None
        known = self.calibration
        levels = known.exact if self.frames.is_exact(frame.number) else known.between
        apart = change.difference(soften(frame.source, known.blur), frame.edited, known.grain)
        luma = change.luma(frame.source)
        distance = levels.noise.distance(apart, change.detail(luma), luma)
        apart, distance = (change.replicate_border(v, self.safe) for v in (apart, distance))
        mask = change.connect(distance) & self.shown
        mask = change.close(change.trim_edges(mask, apart, levels.quiet), CLOSING)
        mask = change.select(mask, apart, levels.least, self.min_pixels) & self.shown
        if self.options.is_soft:
            mask = change.extend_softly(mask, apart, levels.soft) & self.shown
        return mask, distance > change.WEAK / 2

    def _vote(self, frames: Iterable[ComparedFrame]) -> Iterator[ComparedFrame]:
        """Yield the frames with masks from which parts are removed that no neighbouring frame has, and gaps filled."""
        for before, frame, after in neighbours(frames, 1):
            others = [f for f in (*before, *after) if f.mask is not None]
            # Interpolation errs at outlines that move: what only interpolated frames show does not count.
            exact = [f for f in others if self.frames.is_exact(f.number)]
            others = exact or others
            if frame.mask is None or not others:
                yield frame
                continue
            yield replace(
                frame,
                mask=self._require_support(
                    frame, others, is_between=bool(exact) and not self.frames.is_exact(frame.number)
                ),
            )

    def _require_support(
        self, frame: ComparedFrame, others: list[ComparedFrame], is_between: bool
    ) -> ndarray:
        """Return the mask of a frame as far as its neighbours support it. is_between: it is interpolated."""
        assert frame.mask is not None
        moved = [f.mask for f in others if f.mask is not None]
        mask = _vote(frame.mask, moved)
        if is_between or mask.sum() < frame.mask.sum():  # a part without support may have moved
            moved = [self._move(f, frame) for f in others]
            mask = _vote(frame.mask, moved)
        if is_between:
            mask = mask & dilate(np.any(moved, 0), TOLERANCE)
        if len(moved) == 2 and frame.weak is not None:
            mask = mask | (moved[0] & moved[1] & frame.weak)
        return mask

    def _move(self, other: ComparedFrame, frame: ComparedFrame) -> ndarray:
        """Return the mask of another frame where its content lies in this frame, boolean H W."""
        assert other.mask is not None
        if not other.mask.any():
            return other.mask
        moved = [
            _follow(here, there, other.mask)
            for here, there in ((frame.source, other.source), (frame.edited, other.edited))
            if here is not None and there is not None
        ]
        return np.any(moved, 0)

    def _add_statistics(
        self, statistics: OutsideStatistics, frame: ComparedFrame, mask: ndarray
    ) -> None:
        assert frame.edited is not None
        assert frame.placed is not None
        outside = self.safe & ~dilate(mask, TOLERANCE)
        position = round(self.frames.positions[frame.number])
        untouched = resize(self.frames.edited.read(position), self.frames.size)
        statistics.add(frame.source, (untouched, frame.placed, frame.edited), outside)


def _vote(mask: ndarray, others: list[ndarray]) -> ndarray:
    """Return the parts of a mask that the masks of other frames have too."""
    return change.keep_supported(mask, dilate(np.any(others, 0), TOLERANCE), SUPPORT)


def neighbours(
    frames: Iterable[ComparedFrame], reach: int
) -> Iterator[tuple[list[ComparedFrame], ComparedFrame, list[ComparedFrame]]]:
    """Yield every frame with up to `reach` frames before and after it."""
    window: deque[ComparedFrame] = deque()
    waiting = 0
    for frame in frames:
        window.append(frame)
        waiting += 1
        if waiting > reach:
            yield _around(window, waiting, reach)
            waiting -= 1
        if len(window) > 2 * reach + 1:
            window.popleft()
    while waiting:
        yield _around(window, waiting, reach)
        waiting -= 1


def _around(
    window: "deque[ComparedFrame]", waiting: int, reach: int
) -> tuple[list[ComparedFrame], ComparedFrame, list[ComparedFrame]]:
    frames = list(window)
    at = len(frames) - waiting
    return frames[max(0, at - reach) : at], frames[at], frames[at + 1 : at + 1 + reach]


def dilate(mask: ndarray, radius: int) -> ndarray:
    """Return the pixels at most about `radius` pixels from a mask, boolean H W."""
    import cv2

    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    return cv2.dilate(mask.astype(np.uint8), kernel) > 0


def _follow(here: ndarray, there: ndarray, mask: ndarray) -> ndarray:
    """Return a mask of one picture where its content lies in another, boolean H W."""
    import cv2

    height, width = mask.shape
    scale = min(1.0, FLOW_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = [np.clip(resize(p, size), 0, 255).astype(np.float32) / 255 for p in (here, there)]
    if np.abs(small[0] - small[1]).max() < 0.02:
        return mask
    flow = cv2.resize(optical_flow.fast_dis(*small), (width, height)) / np.float32(scale)
    return optical_flow.warp(mask.astype(np.float32), flow) > 0.5
