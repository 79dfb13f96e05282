"""Learn what a clip is, and stream its frames in, with PyAV: video files, GIFs, image folders and single images."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from . import images

SCALING = (
    Interpolation.LANCZOS
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
UNTAGGED = 2
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}


@dataclass(frozen=True)
class Clip:
    """What is known of a clip after it was read once from end to end."""

    path: Path
    size: tuple[int, int]  # width, height, as displayed
    rate: Fraction  # average frames per second
    time_base: Fraction
    times: tuple[int, ...]  # presentation time of each frame, in time_base
    durations: tuple[int, ...] = ()
    rotation: int = 0  # degrees counter-clockwise, as tagged
    bits: int = 8
    pixel_format: str = "rgb24"
    # range, primaries, trc, space: the numbers of ISO/IEC 23091-2
    colour: dict[str, int] = field(default_factory=dict)
    aspect: Fraction | None = None  # of a pixel
    audio: int = 0
    files: tuple[Path, ...] = ()  # of an image folder
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        return len(self.times)

    @property
    def stored_size(self) -> tuple[int, int]:
        """Before the rotation."""
        return self.size[::-1] if self.rotation % 180 else self.size

    @property
    def variable(self) -> bool:
        return len({b - a for a, b in itertools.pairwise(self.times)}) > 1


@dataclass(frozen=True)
class _Seen:
    """What is noted of a frame while a file is read for the first time."""

    time: int | None
    duration: int | None
    damaged: bool


def probe(path: str | Path) -> Clip:
    """Read a clip once to learn all of Clip. Raises ValueError, with the file's name, for what cannot be read whole."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    if path.is_dir() or path.suffix.lower() in images.SUFFIXES:
        return _probe_images(path)
    with opened(path) as container:
        stream = container.streams.best("video")
        first = None
        seen = []
        for frame in _decoded(container, stream, path):
            first = first or frame
            seen.append(_Seen(frame.pts, frame.duration, frame.is_corrupt))
        if first is None:
            raise ValueError(f"{path} has no frames")
        _refuse_truncated(path, container, stream, seen)
        return _described(path, container, stream, first, seen)


def _probe_images(path: Path) -> Clip:
    files, size = images.listed(path)
    return Clip(
        path=path,
        size=size,
        rate=Fraction(25),
        time_base=Fraction(1, 25),
        times=tuple(range(len(files))),
        files=tuple(files),
    )


def _refuse_truncated(path: Path, container, stream, seen: list[_Seen]) -> None:
    """Refuse a clip that announces more than can be read: a count of frames, or (Matroska) a duration."""
    if stream.frames > len(seen) and stream.frames > len(seen) + _hidden(path):
        raise ValueError(
            f"{path} is truncated: it announces {stream.frames} frames, "
            f"but only {len(seen)} can be read"
        )
    last = seen[-1]
    if not stream.frames and last.time is not None:
        announced = _announced_seconds(container, stream)
        end = float((last.time + (last.duration or 0)) * stream.time_base)
        if end < 0.98 * announced - 0.2:
            raise ValueError(
                f"{path} is truncated: it announces {announced:.2f} seconds, "
                f"but only {end:.2f} can be read"
            )


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
    turned = round(first.rotation / 90) * 90 % 360
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    step = round(1 / (rate * stream.time_base)) or 1
    times = tuple(s.time if s.time is not None else i * step for i, s in enumerate(seen))
    if any(b <= a for a, b in itertools.pairwise(times)):
        raise ValueError(f"{path} has frames whose times do not rise; remux it first")
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
        notes=tuple(_notes(container, stream, seen, turned, bits)),
    )


def _notes(container, stream, seen: list[_Seen], turned: int, bits: int) -> list[str]:
    """What is unusual about a file, for its manifest."""
    notes = []
    damaged = sum(s.damaged for s in seen)
    if damaged:
        notes.append(f"{damaged} damaged frames were repaired")
    if turned:
        notes.append(f"rotation tag of {turned} degrees")
    if bits > 8:
        notes.append(f"{bits} bits a channel")
    others = {s.type for s in container.streams if s.type != "audio" and s.index != stream.index}
    if others:
        notes.append(f"left out: {', '.join(sorted(others))} tracks")
    return notes


@contextlib.contextmanager
def opened(path: Path) -> Iterator:
    """A PyAV container with a picture. Raises ValueError for a file that is none."""
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or error
        raise ValueError(f"{path} is not a video that can be read: {reason}") from error
    with container:
        if not container.streams.video:
            raise ValueError(f"{path} has no video track")
        yield container


def _decoded(container, stream, path: Path) -> Iterator:
    stream.thread_type = "AUTO"
    count = 0
    try:
        for frame in container.decode(stream):
            yield frame
            count += 1
    except av.FFmpegError as error:
        raise ValueError(f"{path} is damaged after frame {count}: {error.strerror}") from error


def read(clip: Clip) -> Iterator[np.ndarray]:
    """The clip's frames in order, upright."""
    converter = VideoReformatter()  # one for all frames: making it takes longer than a small frame
    return (upright(frame, clip, converter) for frame in stored(clip))


def stored(clip: Clip) -> Iterator[av.VideoFrame | np.ndarray]:
    """The frames in order as they lie in the file: of a video in its own samples, of images as arrays."""
    if clip.files:
        yield from map(images.read, clip.files)
        return
    with opened(clip.path) as container:
        yield from _decoded(container, container.streams.best("video"), clip.path)


def upright(
    frame: av.VideoFrame | np.ndarray, clip: Clip, converter: VideoReformatter
) -> np.ndarray:
    """A frame as it is shown, H W 3 in RGB."""
    if isinstance(frame, np.ndarray):
        return frame
    rgb = converter.reformat(
        frame,
        format="rgb24" if clip.bits == 8 else "rgb48le",
        src_colorspace=matrix(clip),
        src_color_range=colour_range(clip),
        interpolation=SCALING,
    )
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), clip.rotation // 90))


def matrix(clip: Clip) -> Colorspace:
    """The tagged YUV matrix; where there is no tag, the usual one of the size, the same on the way in and out."""
    tagged = clip.colour.get("space", UNTAGGED)
    if tagged in (0, UNTAGGED):
        return Colorspace.ITU709 if max(clip.size) >= 1280 else Colorspace.ITU601
    return _MATRICES.get(tagged, Colorspace.ITU601)


def colour_range(clip: Clip) -> int:
    """1 narrow, 2 full."""
    if clip.pixel_format.startswith("yuvj"):
        return 2
    return clip.colour.get("range") or 1
