"""Learn what a clip is by reading it once from end to end: what it holds, what is unusual, whether it is whole."""

import functools
import itertools
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from ..errors import UserError
from . import images, opacity
from .reading import Clip, opened, pictures

SETTLED = 2_000_000_000  # nanoseconds
BOTTOM_FIRST = {
    3,
    4,
}  # of FFmpeg's AVFieldOrder: by how fields are stored, and by how they are shown


@dataclass(frozen=True)
class _Seen:
    """What is noted of a frame while a file is read for the first time."""

    time: int | None
    duration: int | None
    damaged: bool
    clear: bool  # whether some of it is seen through
    fields: bool  # whether it is interlaced

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "_Seen":
        about = (frame.pts, frame.duration, frame.is_corrupt)
        return cls(*about, _is_clear(frame), frame.interlaced_frame)


def probe(path: str | Path) -> Clip:
    """Read a clip once to learn all of Clip. Raises ValueError, with the file's name, for what cannot be read whole.

    A file that has not changed since is not read again.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no file {path}")
    check_regular(path)
    return _remember(path, identify(path)) if is_settled(path) else _probe(path)


def identify(path: Path) -> tuple:
    """Tell a file, or those of a folder, from what they were before: their inodes, sizes and times of change."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files if file.exists()]
    return tuple((name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in stats)


def is_settled(path: Path) -> bool:
    """Whether a change from now on shows in the times: clocks of file systems are coarse."""
    files = [path, *path.iterdir()] if path.is_dir() else [path]
    changed = max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)
    return time.time_ns() - changed > SETTLED


@functools.lru_cache(maxsize=16)
def _remember(path: Path, identity: tuple) -> Clip:
    return _probe(path)


def _probe(path: Path) -> Clip:
    if path.is_dir() or path.suffix.lower() in images.SUFFIXES:
        return _probe_images(path)
    with opened(path) as container:
        stream = container.streams.best("video")
        first = None
        seen = []
        for frame in pictures(container, stream, path):
            first = first or frame
            seen.append(_Seen.of(frame))
        if first is None:
            raise UserError(f"{path} has no frames")
        _refuse_truncated(path, container, stream, seen)
        if path.suffix.lower() == ".gif":
            _refuse_without_end(path, len(seen))
        return _described(path, container, stream, first, seen)


def check_regular(path: Path) -> None:
    """Raises ValueError for what reading could wait for ever on."""
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is no file but a device or a pipe; copy it to a file first")


def _probe_images(path: Path) -> Clip:
    files, size = images.listed(path)
    return Clip(
        path=path,
        size=size,
        rate=Fraction(25),
        time_base=Fraction(1, 25),
        times=tuple(range(len(files))),
        files=tuple(files),
        opacity=any(opacity.of_image(file) is not None for file in files),
    )


def _refuse_truncated(path: Path, container, stream, seen: list[_Seen]) -> None:
    """Refuse a clip that announces more than can be read: a count of frames, or (Matroska) a duration."""
    if stream.frames > len(seen) and stream.frames > len(seen) + _hidden(path):
        raise UserError(
            f"{path} is truncated: it announces {stream.frames} frames, "
            f"but only {len(seen)} can be read"
        )
    last = seen[-1]
    if not stream.frames and last.time is not None:
        announced = _announced_seconds(container, stream)
        end = float((last.time + (last.duration or 0)) * stream.time_base)
        if end < 0.98 * announced - 0.2:
            missing = round((announced - end) * (stream.average_rate or 25))
            raise UserError(
                f"{path} is truncated: it announces {announced:.2f} seconds, but only {end:.2f} can "
                f"be read; about {missing} of {len(seen) + missing} frames are missing"
            )


def _refuse_without_end(path: Path, count: int) -> None:
    """A GIF announces nothing; but it has an end mark."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16))
        if b";" not in file.read():
            raise UserError(f"{path} is truncated: it breaks off after {count} frames")


def _hidden(path: Path) -> int:
    """How many frames an edit list cuts off: they are announced, but not meant to be seen."""
    with opened(path) as container:
        packets = container.demux(container.streams.best("video"))
        return sum(p.is_discard for p in packets if p.size)


def _announced_seconds(container, stream) -> float:
    """How long the file says that its picture is; 0 where it says nothing of the picture alone."""
    tag = stream.metadata.get("DURATION")
    if tag:
        parts = reversed(tag.split(":"))  # seconds, minutes, hours
        return sum(float(part) * 60**i for i, part in enumerate(parts))
    if container.duration and not container.streams.audio:
        return container.duration / av.time_base
    return 0.0


def _described(path: Path, container, stream, first, seen: list[_Seen]) -> Clip:
    context = stream.codec_context
    turned = _turned(first)
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    step = round(1 / (rate * stream.time_base)) or 1
    times = tuple(s.time if s.time is not None else i * step for i, s in enumerate(seen))
    if any(b <= a for a, b in itertools.pairwise(times)):
        raise UserError(f"{path} has frames whose times do not rise; remux it first")
    bits = max(c.bits for c in first.format.components)
    return Clip(
        path=path,
        size=(first.height, first.width) if turned % 180 else (first.width, first.height),
        rate=Fraction(rate),
        time_base=stream.time_base,
        times=times,
        durations=tuple(s.duration or step for s in seen),
        rotation=turned,
        bits=bits,
        pixel_format=first.format.name,
        colour={
            "range": context.color_range,
            "primaries": context.color_primaries,
            "trc": context.color_trc,
            "space": context.colorspace,
        },
        aspect=stream.sample_aspect_ratio,
        audio=len(container.streams.audio),
        opacity=any(s.clear for s in seen),
        fields=_fields(context, seen),
        notes=tuple(_notes(container, stream, first, seen)),
    )


def _notes(container, stream, first, seen: list[_Seen]) -> list[str]:
    """What is unusual about a file, for its manifest."""
    notes, turned, bits = [], _turned(first), max(c.bits for c in first.format.components)
    damaged = sum(s.damaged for s in seen)
    if damaged:
        frames = "1 damaged frame was" if damaged == 1 else f"{damaged} damaged frames were"
        notes.append(f"{frames} repaired")
    if turned:
        notes.append(f"rotation tag of {turned} degrees")
    if bits > 8:
        notes.append(f"{bits} bits a channel")
    if first.side_data.get("MASTERING_DISPLAY_METADATA") is not None:
        notes.append("left out: the mastering display's metadata; transfer and primaries are kept")
    if any(s.clear for s in seen):
        notes.append("seen through in places (alpha)")
    if any(s.fields for s in seen):
        notes.append(f"interlaced, {_fields(stream.codec_context, seen)} field first")
    others = {s.type for s in container.streams if s.type != "audio" and s.index != stream.index}
    if others:
        notes.append(f"left out: {', '.join(sorted(others))} tracks")
    return notes


def _turned(frame: av.VideoFrame) -> int:
    return round(frame.rotation / 90) * 90 % 360


def _is_clear(frame: av.VideoFrame) -> bool:
    if not any(component.is_alpha for component in frame.format.components):
        return False
    return bool(frame.reformat(format="rgba").to_ndarray()[..., 3].min() < 255)


def _fields(context, seen: list[_Seen]) -> str:
    """Which field is first; where the file does not say, the top one."""
    if not any(s.fields for s in seen):
        return ""
    return "bottom" if context.field_order in BOTTOM_FIRST else "top"
