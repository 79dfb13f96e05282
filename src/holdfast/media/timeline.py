"""The presentation time of each frame: as the file gives it, repaired where it cannot be right."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeGuard

MAX_START = 10  # seconds: a clip that starts later has the time of a clock, not a pause before its first frame
FALL_INTERVAL = (
    6  # frames: times that decrease more often than once in this many belong to another order
)


@dataclass(frozen=True)
class Timeline:
    """Increasing times, one for each frame, in ticks of the stream's time base divided by `scale`.

    repair: what was changed, for the manifest; empty where the times are the file's own.
    join_offsets: where one file holds several recordings, the ticks by which each one after the first was moved,
    in ticks of the file.
    """

    times: tuple[int, ...]
    scale: int = 1
    repair: str = ""
    join_offsets: tuple[int, ...] = ()


def build_timeline(
    presentation: Sequence[int | None],
    decoding: Sequence[int | None],
    frame_ticks: int,
    min_gap: int = 1,
) -> Timeline:
    """Return increasing times of the frames, in their order of presentation.

    presentation: the decoder's time of each frame.
    decoding: each packet's time, where the container stores only decoding times (AVI); otherwise empty.
    frame_ticks: the ticks of an ordinary frame.
    min_gap: the ticks between two frames of equal time, where there is room.
    """
    missing = presentation.count(None)
    times = _fill_missing(presentation, frame_ticks)
    if not missing and _is_increasing(times):
        return Timeline(tuple(times))
    falls = 0 if missing else sum(b < a for a, b in itertools.pairwise(times))
    if (missing or falls) and len(decoding) == len(times):
        ticks = tuple(decoding)
        if _has_all(ticks) and _is_increasing(ticks):
            return Timeline(
                ticks, repair="frames without presentation times take the times of decoding"
            )
    if missing:
        frames = "frame" if missing == 1 else "frames"
        repair = f"{missing} {frames} without a time follow those before them"
        return replace(_separate_equal(times, frame_ticks, min_gap), repair=repair)
    if falls:
        ordered, offsets = _sort_times(times, falls, frame_ticks)
        repair = f"times that go backwards ({falls}) were put in order"
        separated = _separate_equal(ordered, frame_ticks, min_gap)
        return replace(separated, repair=repair, join_offsets=offsets)
    return _separate_equal(times, frame_ticks, min_gap)


def _has_all(times: tuple[int | None, ...]) -> TypeGuard[tuple[int, ...]]:
    return None not in times


def _is_increasing(times: Sequence[int]) -> bool:
    return all(b > a for a, b in itertools.pairwise(times))


def _fill_missing(times: Sequence[int | None], frame_ticks: int) -> list[int]:
    """Give a frame without a time the time one frame after the frame before it."""
    first = next((i for i, t in enumerate(times) if t is not None), 0)
    last = ((times[first] if times else 0) or 0) - (first + 1) * frame_ticks
    filled: list[int] = []
    for time in times:
        last = last + frame_ticks if time is None else time
        filled.append(last)
    return filled


def _sort_times(
    times: Sequence[int], falls: int, frame_ticks: int
) -> tuple[list[int], tuple[int, ...]]:
    """Return times that never decrease, and the offset of each joined recording after the first.

    Times that decrease often belong to the same frames in another order, so they are only sorted.
    """
    if falls > 1 and falls * FALL_INTERVAL > len(times):
        return sorted(times), ()
    ordered, offset, offsets = list(times[:1]), 0, []
    for i, time in enumerate(times[1:], 1):
        now, last = time + offset, ordered[-1]
        if now >= last:
            ordered.append(now)
        elif i + 1 < len(times) and times[i + 1] + offset > last:  # only this frame is too early
            ordered.append((last + times[i + 1] + offset) // 2)
        elif i > 1 and now > ordered[-2]:  # the frame before was too late
            ordered[-1] = (ordered[-2] + now) // 2
            ordered.append(now)
        else:  # another recording begins: it follows at once
            offset += last + frame_ticks - now
            offsets.append(offset)
            ordered.append(last + frame_ticks)
    return ordered, tuple(offsets)


def _separate_equal(times: Sequence[int], frame_ticks: int, min_gap: int) -> Timeline:
    """Return increasing times from times that never decrease: frames of equal time follow each other closely."""
    runs = [(time, len(list(same))) for time, same in itertools.groupby(times)]
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(runs)] + [frame_ticks]
    scale = max(-(-count // gap) for (_, count), gap in zip(runs, gaps, strict=True))
    separated: list[int] = []
    for (time, count), gap in zip(runs, gaps, strict=True):
        apart = max(1, gap * scale // count)  # evenly, where there is no room for min_gap
        apart = min(apart, min_gap) if scale == 1 else apart
        separated += [time * scale + n * apart for n in range(count)]
    same = len(times) - len(runs)
    repair = f"{same} frames that had the time of the one before follow it" if same else ""
    return Timeline(tuple(separated), scale, repair.replace("1 frames", "1 frame"))


def frame_durations(
    timeline: Timeline, durations: Sequence[int | None], frame_ticks: int
) -> tuple[int, ...]:
    """Return each frame's duration in ticks: the file's value, or the time until the next frame.

    The last frame of a file without durations lasts `frame_ticks`.
    """
    until_next = [b - a for a, b in itertools.pairwise(timeline.times)]
    if timeline.repair:
        return (*until_next, (durations[-1] or frame_ticks) * timeline.scale)
    return tuple(g or u for g, u in zip(durations, [*until_next, frame_ticks], strict=True))


def time_origin(first: int, time_base: Fraction, other_starts: Sequence[Fraction]) -> Fraction:
    """Return the seconds to subtract from all times of a file.

    So no result begins before zero, or with hours without a frame.

    first: the ticks of the first frame. other_starts: the seconds at which the other tracks begin.
    """
    video = first * time_base
    earliest = min([video, *other_starts])
    return earliest if video < 0 or earliest >= MAX_START else Fraction(0)


def mean_rate(times: Sequence[int], time_base: Fraction, announced: Fraction | None) -> Fraction:
    """Return the frames per second: the announced rate, unless the times are far from it (Matroska may say 1000)."""
    gaps = sorted(b - a for a, b in itertools.pairwise(times))
    if not gaps:
        return Fraction(announced or 25)
    usual = 1 / (
        gaps[len(gaps) // 2] * Fraction(time_base)
    )  # a median: one long pause does not count
    mean = len(gaps) / ((times[-1] - times[0]) * Fraction(time_base))
    if announced and any(rate / 2 <= announced <= 2 * rate for rate in (usual, mean)):
        return Fraction(announced)
    return usual.limit_denominator(1001) or Fraction(1, 1001)
