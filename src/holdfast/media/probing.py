"""Learn what a clip is by reading it once from end to end: what it holds, what is unusual, whether it is whole."""

import functools
import itertools
import math
import statistics
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av

from ..base.errors import InputNotFoundError, UserError
from . import animations, images, opacity, orientation, sizes, timeline, wholeness
from .image_files import CONVERTED, Header
from .matrices import check_matrix
from .metadata import Metadata, read_metadata
from .orientation import Orientation
from .reading import Clip, opened, picture_of, pictures
from .samples import has_chroma
from .sizes import Shape
from .tracks import list_tracks

SETTLED = 2_000_000_000  # nanoseconds
BOTTOM_FIRST = {
    3,
    4,
}  # of FFmpeg's AVFieldOrder: by how fields are stored, and by how they are shown
DECODING_TIMES = {"avi"}  # containers that store when a frame is decoded, and not when it is shown
TOLD_APART = Fraction(1, 1000)  # seconds: Matroska's clock
HIDDEN = {"vp8", "vp9", "av1"}  # codecs with packets that are not shown


@dataclass(frozen=True)
class _Seen:
    """What is noted of a frame while a file is read for the first time."""

    time: int | None
    duration: int | None
    damaged: bool
    clear: bool  # whether some of it is seen through
    fields: bool  # whether it is interlaced
    shape: Shape
    orientation: Orientation | None  # None: the same as of the frame before

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "_Seen":
        shape = Shape((frame.width, frame.height), frame.format.name)
        return cls(
            frame.pts,
            frame.duration,
            frame.is_corrupt,
            _is_clear(frame),
            frame.interlaced_frame,
            shape,
            orientation.of_frame(frame) if frame.side_data.get("DISPLAYMATRIX") else None,
        )


@dataclass(frozen=True)
class _Packet:
    """What is noted of a packet of the picture."""

    dts: int | None
    has_picture: bool
    is_discard: bool  # decoded, but not meant to be seen: an edit list cuts it off


def probe(path: str | Path) -> Clip:
    """Read a clip once to learn all of Clip. Raises ValueError, with the file's name, for what cannot be read whole.

    A file that has not changed since is not read again.
    """
    path = Path(path)
    if not path.exists():
        raise InputNotFoundError(f"there is no file {path}")
    check_regular(path)
    return _remember(path, identify(path)) if is_settled(path) else _probe(path)


def identify(path: Path) -> tuple:
    """Tell a file, or those of a folder, from what they were before: their inodes, sizes and times of change.

    Both times: a copy that keeps the time of its content (cp -p) still has a new one of its own.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files if file.exists()]
    return tuple((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats)


def is_settled(path: Path) -> bool:
    """Whether a change from now on shows in the times: clocks of file systems are coarse."""
    files = [path, *path.iterdir()] if path.is_dir() else [path]
    stats = [file.stat() for file in files if file.exists()]
    changed = max((max(s.st_mtime_ns, s.st_ctime_ns) for s in stats), default=0)
    return time.time_ns() - changed > SETTLED


@functools.lru_cache(maxsize=16)
def _remember(path: Path, identity: tuple) -> Clip:
    return _probe(path)


def _probe(path: Path) -> Clip:
    if _is_animation(path):
        return _probe_animation(path)
    if path.is_dir() or path.suffix.lower() in images.SUFFIXES:
        return _probe_images(path)
    with opened(path) as container:
        stream = picture_of(container)
        seen, packets, first = [], [], None

        def watch(packet: av.Packet) -> None:
            packets.append(_Packet(packet.dts, packet.size > 0, packet.is_discard))

        for frame in pictures(container, stream, path, watch):
            first = first or frame
            seen.append(_Seen.of(frame))
        if first is None:
            raise UserError(f"{path} has no frames")
        _refuse_truncated(path, container, stream, seen, packets)
        if path.suffix.lower() == ".gif":
            _refuse_without_end(path, len(seen))
        return _described(path, container, stream, first, seen, packets)


def check_regular(path: Path) -> None:
    """Raises ValueError for what reading could wait for ever on."""
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is no file but a device or a pipe; copy it to a file first")


def _probe_images(path: Path) -> Clip:
    files, headers = images.listed(path)
    bits = max(header.bits for header in headers)
    return Clip(
        path=path,
        size=headers[0].size,
        rate=Fraction(25),
        time_base=Fraction(1, 25),
        times=tuple(range(len(files))),
        files=tuple(files),
        bits=bits,
        pixel_format="rgb24" if bits == 8 else "rgb48le",
        opacity=any(
            header.may_be_clear and opacity.of_image(file) is not None
            for file, header in zip(files, headers, strict=True)
        ),
        cautions=(*_cautions_of_images(headers), *_say_left_over(path)),
        profiles=tuple(sorted({p.profile_name for p in headers if p.profile_name and p.is_rgb})),
        has_exif=any(header.has_exif for header in headers),
        notes=("16 bits a channel",) if bits > 8 else (),
    )


def _cautions_of_images(headers: list[Header]) -> list[str]:
    """What is lost of images before anything is done with them."""
    said = []
    for mode in sorted({header.mode for header in headers} & set(CONVERTED)):
        said.append(f"the images are {mode}: they are converted to RGB, and written so")
    if any(header.stored_bits > header.bits for header in headers):
        said.append("the images have 16 bits a channel in a form of which 8 are read")
    others = sorted({h.profile_name for h in headers if h.profile_name and not h.is_rgb})
    if others:
        said.append(
            f"the images' colour profile ({', '.join(others)}) is not of RGB; it is left out"
        )
    return said


def _say_left_over(path: Path) -> list[str]:
    left = images.left_over(path) if path.is_dir() else []
    more = f" and {len(left) - 3} more" if len(left) > 3 else ""
    names = f"{', '.join(left[:3])}{more}"
    return [f"not read as frames of the folder, and left out: {names}"] if left else []


def _is_animation(path: Path) -> bool:
    """Whether Pillow reads a file as a clip: an animated picture, or one whose name is not that of a picture."""
    if path.is_dir() or not animations.is_picture(path):
        return False
    return path.suffix.lower() not in images.SUFFIXES or animations.is_animated(path)


def _probe_animation(path: Path) -> Clip:
    found = animations.describe(path)
    ends = [sum(found.delays[:i], Fraction(0)) for i in range(len(found.delays) + 1)]
    is_whole = all(end.denominator == 1 for end in ends)
    time_base = Fraction(1, 1000 if is_whole else 90000)
    ticks = [round(end / 1000 / time_base) for end in ends]
    durations = tuple(b - a for a, b in itertools.pairwise(ticks))
    return Clip(
        path=path,
        size=found.size,
        rate=(1000 * len(found.delays) / ends[-1]).limit_denominator(1001),
        time_base=time_base,
        times=tuple(ticks[:-1]),
        durations=durations,
        pixel_format="rgba" if found.has_alpha else "rgb24",
        opacity=found.has_alpha,
        is_animation=True,
        cautions=found.notes,
        notes=("seen through in places (alpha)",) if found.has_alpha else (),
    )


def _refuse_truncated(
    path: Path, container, stream, seen: list[_Seen], packets: list[_Packet]
) -> None:
    """Refuse a clip that announces more than can be read: a count of frames, or (Matroska) a duration.

    A file that is as long as its own structure says counts frames that were dropped, or how long the last is shown.
    """
    is_complete = wholeness.is_complete(path)
    if is_complete:
        return
    if _announced_frames(container, stream) > max(_read_frames(container, packets), len(seen)):
        raise UserError(
            f"{path} is truncated: it announces {stream.frames} frames, "
            f"but only {len(seen)} can be read"
        )
    last = seen[-1]
    if not stream.frames and last.time is not None:
        announced = _announced_seconds(container, stream, is_complete is False)
        end = float((last.time + (last.duration or 0)) * stream.time_base)
        if end < 0.98 * announced - 0.2:
            missing = round((announced - end) * (stream.average_rate or 25))
            raise UserError(
                f"{path} is truncated: it announces {announced:.2f} seconds, but only {end:.2f} can "
                f"be read; about {missing} of {len(seen) + missing} frames are missing"
            )


def _announced_frames(container, stream) -> int:
    """How many frames the file says that it holds; of MP4, those that its edit list does not leave out."""
    indexed = len(stream.index_entries) if "mp4" in container.format.name else 0
    return min(stream.frames, indexed or stream.frames)


def _read_frames(container, packets: list[_Packet]) -> int:
    """How many frames there were to read; AVI counts those that were dropped, which take up time alone."""
    times = [p.dts for p in packets if p.dts is not None]
    is_counted = container.format.name in DECODING_TIMES and times
    return max(len(packets), max(times) + 1) if is_counted else len(packets)


def _refuse_without_end(path: Path, count: int) -> None:
    """A GIF announces nothing; but it has an end mark."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16))
        if b";" not in file.read():
            raise UserError(f"{path} is truncated: it breaks off after {count} frames")


def _announced_seconds(container, stream, is_cut: bool) -> float:
    """How long the file says that its picture is; 0 where it says nothing of the picture alone.

    is_cut: whether the file breaks off, so that what it says of all tracks together counts too.
    """
    tag = stream.metadata.get("DURATION")
    if tag:
        parts = reversed(tag.split(":"))  # seconds, minutes, hours
        return sum(float(part) * 60**i for i, part in enumerate(parts))
    if container.duration and (is_cut or not container.streams.audio):
        return container.duration / av.time_base
    return 0.0


def _described(
    path: Path, container, stream, first, seen: list[_Seen], packets: list[_Packet]
) -> Clip:
    context, shapes = stream.codec_context, [s.shape for s in seen]
    shape, turned = sizes.main_shape(shapes), _orientation_of(path, seen)
    colour = {
        "range": context.color_range,
        "primaries": context.color_primaries,
        "trc": context.color_trc,
        "space": context.colorspace,
    }
    found = read_metadata(container, stream)
    clip = Clip(
        path=path,
        size=shape.size[::-1] if turned.swaps_sides else shape.size,
        rate=Fraction(25),
        time_base=stream.time_base,
        times=(),
        orientation=turned,
        bits=max(c.bits for c in av.VideoFormat(shape.layout).components),
        pixel_format=shape.layout,
        colour=colour,
        aspect=stream.sample_aspect_ratio,
        audio=len(container.streams.audio),
        tracks=list_tracks(container, stream),
        timecode=_timecode(stream.metadata) or _timecode(container.metadata),
        resizes=len(set(shapes)) > 1,
        cautions=(
            *sizes.describe(shapes),
            *[turned.describe()] * (turned.angle is not None),
            *(check_matrix(path, colour) if has_chroma(shape.layout) else ()),
            *_say_unread(found),
        ),
        opacity=any(s.clear for s in seen),
        fields=_fields(context, seen),
        metadata=found,
        notes=tuple(_notes(stream, first, seen, packets)),
    )
    return _timed(clip, container, stream, seen, packets)


def _say_unread(found: Metadata) -> list[str]:
    if not found.unread:
        return []
    names = ", ".join(found.unread)
    return [f"not UTF-8: {names}; what cannot be read of it is written as \ufffd"]


def _timecode(metadata: dict[str, str]) -> str:
    return metadata.get("timecode") or metadata.get("TIMECODE") or ""  # Matroska's names are large


def _orientation_of(path: Path, seen: list[_Seen]) -> Orientation:
    first = seen[0].orientation or Orientation()
    for i, one in enumerate(seen):
        if one.orientation not in (None, first):
            raise UserError(
                f"{path} is turned another way from frame {i} on",
                "cut it there, and edit its two parts",
            )
    return first


def _timed(clip: Clip, container, stream, seen: list[_Seen], packets: list[_Packet]) -> Clip:
    """The clip with its times, which begin at zero or soon after it, and rise."""
    announced = stream.average_rate or stream.guessed_rate
    step = round(1 / ((announced or 25) * stream.time_base)) or 1
    lasting = [s.duration for s in seen if s.duration]
    if lasting and any(s.time is None for s in seen):  # a bare stream's rate is a guess
        step = statistics.mode(lasting)
    shown = [p.dts for p in packets if p.has_picture and not p.is_discard]
    has_only = container.format.name in DECODING_TIMES and None not in shown
    least = max(1, round(TOLD_APART / stream.time_base))
    line = timeline.read_timeline([s.time for s in seen], shown if has_only else (), step, least)
    time_base = stream.time_base / line.scale
    sounds = [t.start for t in clip.tracks if t.kind == "audio" and t.start is not None]
    origin = timeline.origin(line.times[0], time_base, sounds)
    ticks = math.floor(origin / time_base)
    notes = [f"its times begin {float(origin):.2f} seconds from zero"] * bool(ticks)
    return replace(
        clip,
        rate=timeline.mean_rate(line.times, time_base, announced),
        time_base=time_base,
        times=tuple(time - ticks for time in line.times),
        durations=timeline.durations_of(line, [s.duration for s in seen], step),
        start=ticks * time_base,
        joins=tuple(ticks * stream.time_base for ticks in line.joins),
        is_retimed=bool(line.repair),
        cautions=clip.cautions + ((line.repair,) if line.repair else ()),
        notes=(*clip.notes, *notes),
    )


def _notes(stream, first, seen: list[_Seen], packets: list[_Packet]) -> list[str]:
    """What is unusual about a file, for its manifest."""
    notes, bits = [], max(c.bits for c in first.format.components)
    damaged = sum(s.damaged for s in seen)
    if damaged:
        frames = "1 damaged frame was" if damaged == 1 else f"{damaged} damaged frames were"
        notes.append(f"{frames} repaired")
    turned = seen[0].orientation or Orientation()
    if turned.matrix and turned.angle is None:
        notes.append(turned.describe())
    if bits > 8:
        notes.append(f"{bits} bits a channel")
    if first.side_data.get("MASTERING_DISPLAY_METADATA") is not None:
        notes.append("left out: the mastering display's metadata; transfer and primaries are kept")
    if any(s.clear for s in seen):
        notes.append("seen through in places (alpha)")
    if any(s.fields for s in seen):
        notes.append(f"interlaced, {_fields(stream.codec_context, seen)} field first")
    dropped = stream.frames - len(seen) - sum(p.is_discard for p in packets)
    if dropped > 0 and stream.codec_context.name not in HIDDEN:
        notes.append(f"{dropped} of {stream.frames} frames that the file counts hold no picture")
    return notes


def _is_clear(frame: av.VideoFrame) -> bool:
    if not any(component.is_alpha for component in frame.format.components):
        return False
    return bool(frame.reformat(format="rgba").to_ndarray()[..., 3].min() < 255)


def _fields(context, seen: list[_Seen]) -> str:
    """Which field is first; where the file does not say, the top one."""
    if not any(s.fields for s in seen):
        return ""
    return "bottom" if context.field_order in BOTTOM_FIRST else "top"
