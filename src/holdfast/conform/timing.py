"""Find when each frame of an edited clip belongs in its source.

A part of the edited clip runs along a straight line, source time = offset + rate * edited time. Lines are searched
among all pairs of frames by the difference of small pictures, where what moves counts most. An edit changes a part of
the picture, so differences are truncated: they do not decide.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy import ndarray

Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]  # left, top, right, bottom, as shares of the frame
FULL: Box = (0.0, 0.0, 1.0, 1.0)
CELLS = (32, 18)  # of a descriptor, across and down
STILL_WEIGHT = 0.3  # of the picture itself, next to what moves in it
MAX_DIFFERENCE = 1.5  # of a cell, in standard deviations of its clip
MAX_SAMPLES = 96  # frames of the edited clip that are compared with every frame of the source
CHUNK = 2048  # frames that are compared at once
MAX_OFFSETS = 4000  # that are tried for a rate
RATES = tuple(np.exp(np.arange(-70, 71) * 0.02))  # speeds that are tried, a quarter to four times
# Costs are shares of the cost of random pairs of frames. A line of a rate that no program produces, or with an offset,
# has to be better by this much: where nothing moves, all lines are equally good.
UNUSUAL, LATE, SAME = 0.04, 0.01, 0.03
MIN_CONTRAST = 0.1  # of the best line to random pairs; below it nothing is known about time
BETTER = 0.25  # cost by which another line has to be better for a part of the frames
MIN_MOVING = 4  # frames
MIN_SEGMENT = 6  # frames
PHASES = np.linspace(-1.2, 1.2, 25)  # of whole frames against a line
PHASE_SAMPLES = 48  # frames
EQUAL_PRIOR, PRIOR = 0.025, 0.0002  # share by which a phase one frame away has to be better
EQUAL_RATE = 0.002  # difference of the time a frame lasts, below which frames correspond one to one
MAX_DEPTH = 4  # of parts within parts


@dataclass(frozen=True)
class Line:
    """source time = offset + rate * edited time, in seconds. cost: 0 for equal frames, 1 for random ones."""

    offset: float
    rate: float
    cost: float = 1.0

    def source_time(self, edited: ndarray) -> ndarray:
        """Return the times in the source of times of the edited clip, in seconds."""
        return self.offset + self.rate * edited


@dataclass(frozen=True)
class Segment:
    """Frames of the edited clip along one line. content: the number of the source frame that each shows, fractional."""

    frames: range
    line: Line
    content: ndarray


@dataclass(frozen=True)
class Timing:
    """How an edited clip runs along its source.

    segments: in the order of the edited clip. confidence: 0 to 1, how clearly the lines were found. is_determined:
    False where too little moves to tell, so that the usual line was assumed.
    """

    segments: tuple[Segment, ...]
    confidence: float
    is_determined: bool

    @property
    def main(self) -> Segment:
        """The longest segment."""
        return max(self.segments, key=lambda segment: len(segment.frames))


@dataclass(frozen=True)
class Strip:
    """A clip's frames in small. frames: descriptors f n, of what moves and of the picture; times: in seconds.

    pictures: the small frames without bars, uint8 f h w.
    """

    frames: ndarray
    times: ndarray
    pictures: ndarray

    @property
    def step(self) -> float:
        """The usual time from one frame to the next, in seconds."""
        return float(np.median(np.diff(self.times))) if len(self.times) > 1 else 1.0

    @property
    def length(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return float(self.times[-1] - self.times[0]) + self.step

    def index(self, seconds: ndarray) -> ndarray:
        """Return the fractional frame numbers of times; NaN outside the clip."""
        index = np.interp(seconds, self.times, np.arange(len(self.times)))
        early, late = self.times[0] - 0.6 * self.step, self.times[-1] + 0.6 * self.step
        return np.where((seconds < early) | (seconds > late), np.nan, index)


def describe(proxies: ndarray, times: ndarray, box: Box = FULL) -> Strip:
    """Return the descriptors of small grey frames, uint8 f h w: the picture, and what differs from its usual state."""
    height, width = proxies.shape[1:]
    left, top, right, bottom = (
        round(edge * side) for edge, side in zip(box, (width, height) * 2, strict=True)
    )
    crops = proxies[:, top:bottom, left:right]
    sample = _shrink(crops[:: max(1, len(crops) // 200)])
    usual = np.median(sample, 0)
    # A grey level: what varies less is noise.
    units = max(float((sample - usual).std()), 1.0), max(float(_fine(sample).std()), 1.0)
    count = CELLS[0] * CELLS[1]
    frames = np.empty((len(crops), 2 * count), np.float16)
    for start in range(0, len(crops), CHUNK):
        small = _shrink(crops[start : start + CHUNK])
        rows = frames[start : start + CHUNK]
        rows[:, :count] = ((small - usual) / units[0]).reshape(len(small), -1)
        rows[:, count:] = STILL_WEIGHT * (_fine(small) / units[1]).reshape(len(small), -1)
    return Strip(frames, times, crops)


def _shrink(pictures: ndarray) -> ndarray:
    import cv2

    return np.stack([cv2.resize(p, CELLS, interpolation=cv2.INTER_AREA) for p in pictures]).astype(
        np.float32
    )


def _fine(pictures: ndarray) -> ndarray:
    """Return pictures without their slow variation."""
    import cv2

    return np.stack([picture - cv2.GaussianBlur(picture, (0, 0), 4) for picture in pictures])


def _standardise(pictures: ndarray, size: Size) -> ndarray:
    """Return pictures of one size, n h*w, with mean 0 and standard deviation 1."""
    import cv2

    same = np.stack([cv2.resize(p, size, interpolation=cv2.INTER_LINEAR) for p in pictures])
    flat = same.reshape(len(same), -1).astype(np.float32)
    return (flat - flat.mean()) / max(float(flat.std()), 1.0)


def find_timing(source: Strip, edited: Strip) -> Timing:
    """Find the lines along which an edited clip runs."""
    if len(edited.times) < MIN_MOVING:  # too few frames to tell what is usual in them
        half = source.frames.shape[1] // 2
        source, edited = (replace(s, frames=s.frames[:, half:]) for s in (source, edited))
    return _Search(source, edited).find_timing()


class _Search:
    """Lines of two clips. Costs are shares of the usual cost of a random pair of frames."""

    def __init__(self, source: Strip, edited: Strip):
        self.source, self.edited = source, edited
        self.unit = 1.0
        self.unit = max(float(np.median(self._pair_costs(_spread(range(len(edited.times)))))), 1e-6)

    def find_timing(self) -> Timing:
        everything = range(len(self.edited.times))
        line = self.find_line(everything)
        contrast = 1 - line.cost
        is_determined = contrast >= MIN_CONTRAST
        if not is_determined:
            line = self._assumed_line()
        parts = self._split(everything, line) if is_determined else []
        parts = parts or [(everything, line)]
        if is_determined:
            segments = [Segment(f, line, self._content(f, line)) for f, line in parts]
        else:
            index = self.source.index(line.source_time(self.edited.times))
            segments = [Segment(everything, line, _fill(index).round())]
        return Timing(tuple(segments), round(float(np.clip(contrast, 0, 1)), 3), is_determined)

    def find_line(self, frames: range) -> Line:
        """Return the line along which frames of the edited clip run best."""
        samples = _spread(frames)
        costs, moments = self._pair_costs(samples), self.edited.times[samples]
        usual = (1.0, self.source.step / self.edited.step)
        found = [
            self._refine(costs, moments, self._best_offset(costs, moments, rate), is_fixed=True)
            for rate in usual
        ]
        best = found[0] if found[0].cost <= found[1].cost + UNUSUAL / 4 else found[1]
        if self._has_equal_frames() and len(frames) == len(self.edited.times):
            plain = self._with_cost(costs, moments, self._assumed_line())
            if plain.cost <= best.cost + SAME:
                return plain
        if len(samples) < MIN_SEGMENT:
            return best
        rates = (self.source.length / self.edited.length, *RATES)
        rough = min((self._best_offset(costs, moments, r) for r in rates), key=lambda one: one.cost)
        free = self._refine(costs, moments, rough, is_fixed=False)
        return free if free.cost < best.cost - UNUSUAL else best

    def _has_equal_frames(self) -> bool:
        """Return whether both clips have equally many frames at one rate: then most editors kept their times."""
        is_same_rate = abs(self.edited.step / self.source.step - 1) < EQUAL_RATE
        return is_same_rate and len(self.source.times) == len(self.edited.times)

    def _with_cost(self, costs: ndarray, moments: ndarray, line: Line) -> Line:
        cost = self._line_costs(costs, moments, np.array([line.offset]), line.rate)
        return replace(line, cost=float(cost[0]))

    def _assumed_line(self) -> Line:
        """Return the line where nothing moves: equal frames if the clips have equally many, otherwise equal times."""
        if len(self.source.times) == len(self.edited.times):
            rate = self.source.step / self.edited.step
            return Line(float(self.source.times[0] - rate * self.edited.times[0]), rate)
        return Line(0.0, 1.0)

    def _pair_costs(self, samples: ndarray) -> ndarray:
        """Return the cost of each sampled frame of the edited clip with each frame of the source, n f."""
        return (
            np.stack([_cost(self.source.frames, self.edited.frames[i]) for i in samples])
            / self.unit
        )

    def _best_offset(self, costs: ndarray, moments: ndarray, rate: float) -> Line:
        source = self.source
        first, last = source.times[0] - rate * moments[-1], source.times[-1] - rate * moments[0]
        step = max(source.step / 2, (last - first) / MAX_OFFSETS)
        offsets = np.append(np.arange(first, last + step, step), 0.0)
        found = self._line_costs(costs, moments, offsets, rate)
        found += LATE * np.minimum(np.abs(offsets) / source.length, 1)
        best = int(found.argmin())
        return Line(float(offsets[best]), float(rate), float(found[best]))

    def _line_costs(
        self, costs: ndarray, moments: ndarray, offsets: ndarray, rate: float
    ) -> ndarray:
        """Return the mean cost along lines of one rate. A frame outside the source costs as much as a random one."""
        index = self.source.index(offsets[:, None] + rate * moments)
        return _interpolate(costs, index, outside=1.0).mean(1)

    def _refine(self, costs: ndarray, moments: ndarray, line: Line, is_fixed: bool) -> Line:
        """Return the best line near a line. It turns about the middle, so that rate and offset do not mix."""
        step = self.source.step
        middle, span = float(moments.mean()), max(float(np.ptp(moments)), step)
        centre, rate = line.offset + line.rate * middle, line.rate
        for width in (1.0, 0.25, 0.0625):
            centres = centre + step * width * np.linspace(-1, 1, 9)
            turn = 0.0 if is_fixed else 4 * width * step / span
            tried = []
            for one in np.unique(rate + turn * np.linspace(-1, 1, 9)):
                found = self._line_costs(costs, moments, centres - one * middle, one)
                tried.append((float(found.min()), float(centres[found.argmin()]), float(one)))
            _, centre, rate = min(tried, key=lambda t: (t[0], abs(t[2] - line.rate)))
        return self._with_cost(costs, moments, Line(centre - rate * middle, rate))

    def _split(self, frames: range, line: Line, depth: int = 0) -> list[tuple[range, Line]]:
        """Return the parts of the frames that run along a line, and along lines of their own.

        A part that resembles the source nowhere is left out. A part that another line explains clearly better has
        that line.
        """
        costs = _smooth(self._frame_costs(frames, line))
        usual = float(np.quantile(costs, 0.25, method="lower"))
        if not np.isfinite(usual):
            return []
        parts: list[tuple[range, Line]] = []
        for run, is_bad in _runs(costs > (usual + 1) / 2, frames):
            if is_bad and len(run) >= MIN_SEGMENT and depth < MAX_DEPTH:
                parts += self._place(
                    run, line, float(np.mean(costs[run.start - frames.start :][: len(run)])), depth
                )
            elif np.isfinite(costs[run.start - frames.start :][: len(run)]).all():
                parts.append((run, line))
        return _join(parts)

    def _place(self, run: range, line: Line, cost: float, depth: int) -> list[tuple[range, Line]]:
        """Return the lines of a run of frames that a line explains badly."""
        other = self.find_line(run)
        if other.cost < cost - BETTER:
            return self._split(run, other, depth + 1)
        return [(run, line)] if np.isfinite(cost) and self._resemblance(run, line) > 0.3 else []

    def _frame_costs(self, frames: range, line: Line) -> ndarray:
        """Return the cost of each frame along a line; infinite outside the source."""
        part = slice(frames.start, frames.stop)
        index = self.source.index(line.source_time(self.edited.times[part]))
        nearest = np.nan_to_num(index).round().astype(int)
        costs = _cost(self.source.frames[nearest], self.edited.frames[part]) / self.unit
        return np.where(np.isnan(index), np.inf, costs)

    def _resemblance(self, frames: range, line: Line) -> float:
        """Return the correlation of the still pictures of frames with those of the source along a line."""
        part = slice(frames.start, frames.stop)
        index = self.source.index(line.source_time(self.edited.times[part]))
        half = self.source.frames.shape[1] // 2
        pairs = zip(
            self.source.frames[_fill(index).round().astype(int), half:],
            self.edited.frames[part, half:],
            strict=True,
        )
        return float(np.median([_correlation(one, other) for one, other in pairs]))

    def _content(self, frames: range, line: Line) -> ndarray:
        """Return the number of the source frame that each frame of a segment shows.

        A program that changes the rate repeats and drops whole frames, all at the same phase, or blends them. Whole
        frames are assumed where the rates are equal, or where they explain the segment as well as the line does.
        """
        part = slice(frames.start, frames.stop)
        index = _fill(self.source.index(line.source_time(self.edited.times[part])))
        last = len(self.source.times) - 1
        shown = [np.clip(np.floor(index + 0.5 + p), 0, last).astype(int) for p in PHASES]
        chosen = np.unique(np.linspace(0, len(frames) - 1, PHASE_SAMPLES).round().astype(int))
        size = self.source.pictures.shape[2:0:-1]
        edited = _standardise(self.edited.pictures[part][chosen], size)

        def pictures(numbers: ndarray) -> ndarray:
            return _standardise(self.source.pictures[numbers[chosen]], size)

        costs = [_cost(pictures(whole), edited).mean() for whole in shown]
        has_equal_rate = abs(line.rate * self.edited.step / self.source.step - 1) < EQUAL_RATE
        prior = EQUAL_PRIOR if has_equal_rate else PRIOR
        costs = [cost * (1 + prior * abs(phase)) for cost, phase in zip(costs, PHASES, strict=True)]
        low = np.floor(index).astype(int)
        share = (index - low)[chosen, None].astype(np.float32)
        blended = pictures(low) * (1 - share) + pictures(np.minimum(low + 1, last)) * share
        if has_equal_rate or min(costs) <= 1.02 * _cost(blended, edited).mean():
            index = shown[int(np.argmin(costs))].astype(float)
        return np.maximum.accumulate(index)


def _correlation(one: ndarray, other: ndarray) -> float:
    """Return the correlation of two descriptors; 0 where one of them is constant."""
    a, b = (values.astype(np.float32) - values.mean(dtype=np.float32) for values in (one, other))
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def _cost(source: ndarray, edited: ndarray) -> ndarray:
    """Return the mean truncated difference of descriptors, n."""
    costs = []
    for start in range(0, len(source), CHUNK):
        other = edited if edited.ndim == 1 else edited[start : start + CHUNK]
        apart = np.abs(source[start : start + CHUNK].astype(np.float32) - other)
        costs.append(np.minimum(apart, MAX_DIFFERENCE).mean(1))
    return np.concatenate(costs)


def _spread(frames: range) -> ndarray:
    """Return the numbers of frames that are compared, evenly spread."""
    return np.unique(np.linspace(frames[0], frames[-1], MAX_SAMPLES).round().astype(int))


def _interpolate(costs: ndarray, index: ndarray, outside: float) -> ndarray:
    """Return costs n f at fractional frame numbers, m n."""
    is_outside = np.isnan(index)
    index = np.where(is_outside, 0, index)
    low = np.minimum(index.astype(int), costs.shape[1] - 1)
    high = np.minimum(low + 1, costs.shape[1] - 1)
    rows, share = np.arange(len(costs)), (index - low).astype(np.float32)
    values = costs[rows, low] * (1 - share) + costs[rows, high] * share
    return np.where(is_outside, outside, values)


def _fill(index: ndarray) -> ndarray:
    """Return frame numbers with those outside the source held at its nearest frame."""
    known = np.flatnonzero(~np.isnan(index))
    return (
        np.interp(np.arange(len(index)), known, index[known])
        if len(known)
        else np.zeros(len(index))
    )


def _smooth(values: ndarray) -> ndarray:
    """Return the median of five neighbours: a single frame does not end a segment."""
    padded = np.pad(values, 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), 1)


def _runs(flags: ndarray, frames: range) -> Iterator[tuple[range, bool]]:
    """Yield ranges of frames with equal flags."""
    edges = [0, *(np.flatnonzero(np.diff(flags)) + 1), len(flags)]
    for start, stop in itertools.pairwise(edges):
        yield frames[start:stop], bool(flags[start])


def _join(parts: list[tuple[range, Line]]) -> list[tuple[range, Line]]:
    """Return the parts with neighbours along one line joined."""
    joined: list[tuple[range, Line]] = []
    for frames, line in parts:
        if joined and joined[-1][1] == line and joined[-1][0].stop == frames.start:
            joined[-1] = (range(joined[-1][0].start, frames.stop), line)
        else:
            joined.append((frames, line))
    return joined
