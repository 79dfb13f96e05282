"""Evenly spaced frames of a clip, as a clip of its own."""

from collections.abc import Sequence
from dataclasses import replace

from ..base.errors import UserError
from .reading import Clip, Sampling
from .timeline import mean_rate


def choose_frames(part: range, every: int | None, count: int | None) -> tuple[int, ...]:
    """Return every N-th frame of a part, from its first one on; or N frames from its first to its last.

    The latter are spaced as evenly as whole numbers allow. Raise UserError where the part has fewer frames.
    """
    if every:
        return tuple(part[::every])
    assert count is not None
    if count > len(part):
        raise UserError(
            f"count is {count}, but there are {len(part)} frames to choose from",
            "choose fewer with --count, or more with --frames",
        )
    last, steps = len(part) - 1, max(1, count - 1)
    return tuple(part[round(i * last / steps)] for i in range(count))


def sample(clip: Clip, part: range, frames: Sequence[int]) -> Clip:
    """Return a clip that has only some frames of another, in order, and no sound.

    part: the frames that they were chosen from. Each frame keeps its time relative to the first one, and the last one
    lasts until the end of the part. What counts frames or seconds of the whole clip (timecode, chapters) is left out.
    """
    first = clip.times[frames[0]]
    durations = clip.durations or (1,) * clip.frames
    end = clip.times[part[-1]] + durations[part[-1]]
    times = [clip.times[frame] for frame in frames]
    ends = [*times[1:], end]
    rate = mean_rate(times, clip.time_base, None) if len(times) > 1 else clip.rate
    return replace(
        clip,
        rate=rate,
        times=tuple(time - first for time in times),
        durations=tuple(stop - time for time, stop in zip(times, ends, strict=True)),
        time_offset=clip.time_offset + first * clip.time_base,
        files=tuple(clip.files[frame] for frame in frames) if clip.files else (),
        audio_tracks=0,
        tracks=(),
        timecode="",
        metadata=replace(clip.metadata, chapters=()),
        sampling=Sampling(tuple(frames), part, clip.frames),
    )


def sample_alike(other: Clip, clip: Clip) -> Clip:
    """Return the frames of another clip that belong to those of a sampled clip.

    They are chosen where the other one has as many frames as the whole source, or as the part that was chosen from.
    """
    sampling = clip.sampling
    if sampling is None or other.frames in (1, clip.frames):
        return other
    part, frames = sampling.part, sampling.frames
    if other.frames in (sampling.source_frames, sampling.source_frames + 1):
        return sample(other, part, frames)
    if other.frames in (len(part), len(part) + 1):
        return sample(other, range(len(part)), [part.index(frame) for frame in frames])
    return other
