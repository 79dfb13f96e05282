"""When each frame of a clip is shown: the times that a file gives, repaired where they cannot be right."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

LATE = 10  # seconds after zero: a start that late is a clock's, and no pause before the picture
OFTEN = (
    6  # frames: where times fall more often than once in so many, they are those of another order
)


@dataclass(frozen=True)
class Timeline:
    """times: of each frame, rising, in ticks of the stream's time base divided by `scale`."""

    times: tuple[int, ...]
    scale: int = 1
    repair: str = ""  # what was done, for the manifest; empty: the file's own times
    joins: tuple[
        int, ...
    ] = ()  # where recordings follow each other in one file, what each was moved by, in file's ticks


def read_timeline(
    shown: Sequence[int | None], stored: Sequence[int], step: int, least: int = 1
) -> Timeline:
    """Times of frames in their order of display.

    shown: what the decoder says of each frame. stored: each packet's time, rising, where the container stores times of
    decoding alone (AVI); else empty. step: ticks of an ordinary frame. least: ticks between two frames of one time,
    where there is room.
    """
    missing, own = shown.count(None), tuple(shown)
    if not missing and _rises(own):
        return Timeline(own)
    falls = 0 if missing else sum(b < a for a, b in itertools.pairwise(own))
    if (missing or falls) and len(stored) == len(own) and _rises(stored):
        return Timeline(tuple(stored), repair="frames without times of their own take turns")
    if missing:
        known = _spread(_fill(own, step), step, least)
        frames = "frame" if missing == 1 else "frames"
        return replace(known, repair=f"{missing} {frames} without a time follow those before them")
    if falls:
        ordered, joins = _order(own, falls, step)
        said = f"times that go backwards ({falls}) were put in order"
        return replace(_spread(ordered, step, least), repair=said, joins=joins)
    return _spread(own, step, least)


def _rises(times: Sequence[int]) -> bool:
    return all(b > a for a, b in itertools.pairwise(times))


def _fill(times: Sequence[int | None], step: int) -> list[int]:
    """Put a frame without a time one step after the one before it."""
    first = next((i for i, t in enumerate(times) if t is not None), 0)
    last = (times[first] or 0) - (first + 1) * step
    filled = []
    for time in times:
        last = last + step if time is None else time
        filled.append(last)
    return filled


def _order(times: Sequence[int], falls: int, step: int) -> tuple[list[int], tuple[int, ...]]:
    """Times that never fall, and by how much recordings that were joined are moved. Where times fall often they belong
    to the same frames in another order.
    """
    if falls > 1 and falls * OFTEN > len(times):
        return sorted(times), ()
    kept, offset, joins = list(times[:1]), 0, []
    for i, time in enumerate(times[1:], 1):
        now, last = time + offset, kept[-1]
        if now >= last:
            kept.append(now)
        elif i + 1 < len(times) and times[i + 1] + offset > last:  # this one alone is too early
            kept.append((last + times[i + 1] + offset) // 2)
        elif i > 1 and now > kept[-2]:  # the frame before was too late
            kept[-1] = (kept[-2] + now) // 2
            kept.append(now)
        else:  # a recording that was joined to another one: it follows at once
            offset += last + step - now
            joins.append(offset)
            kept.append(last + step)
    return kept, tuple(joins)


def _spread(times: Sequence[int], step: int, least: int) -> Timeline:
    """Times that rise, of some that do not fall: frames of one time follow each other as soon as clocks allow."""
    runs = [(time, len(list(same))) for time, same in itertools.groupby(times)]
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(runs)] + [step]
    scale = max(-(-count // gap) for (_, count), gap in zip(runs, gaps, strict=True))
    spread = []
    for (time, count), gap in zip(runs, gaps, strict=True):
        apart = max(1, gap * scale // count)  # evenly, where there is no room for less
        apart = min(apart, least) if scale == 1 else apart
        spread += [time * scale + n * apart for n in range(count)]
    same = len(times) - len(runs)
    repair = f"{same} frames that had the time of the one before follow it" if same else ""
    return Timeline(tuple(spread), scale, repair.replace("1 frames", "1 frame"))


def durations_of(timeline: Timeline, given: Sequence[int | None], step: int) -> tuple[int, ...]:
    """How long each frame is shown: what the file says, else until the next one; of the last one a step."""
    times = timeline.times
    until = [b - a for a, b in itertools.pairwise(times)]
    if timeline.repair:
        return (*until, (given[-1] or step) * timeline.scale)
    return tuple(g or u for g, u in zip(given, [*until, step], strict=True))


def origin(first: int, time_base: Fraction, others: Sequence[Fraction]) -> Fraction:
    """Seconds that are taken from all times of a file, so that no result begins before zero, or with hours of nothing.

    others: seconds at which its other tracks begin.
    """
    picture = first * time_base
    earliest = min([picture, *others])
    return earliest if picture < 0 or earliest >= LATE else Fraction(0)


def mean_rate(times: Sequence[int], time_base: Fraction, announced: Fraction | None) -> Fraction:
    """Frames a second: as the file says, unless its own times are far from that (Matroska may say 1000)."""
    gaps = sorted(b - a for a, b in itertools.pairwise(times))
    if not gaps:
        return Fraction(announced or 25)
    usual = 1 / (gaps[len(gaps) // 2] * Fraction(time_base))  # one long pause does not count
    mean = len(gaps) / ((times[-1] - times[0]) * Fraction(time_base))
    if announced and any(rate / 2 <= announced <= 2 * rate for rate in (usual, mean)):
        return Fraction(announced)
    return usual.limit_denominator(1001) or Fraction(1, 1001)
