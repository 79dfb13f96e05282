"""Describe a clip after reading it once from end to end: its contents, what is unusual, and whether it is complete."""

import functools
import itertools
import math
import statistics
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
from av.container import InputContainer

from ..base.errors import InputNotFoundError, UserError
from . import animations, frame_shapes, images, orientation, timeline, transparency
from .colour_matrices import check_matrix
from .frame_shapes import FrameShape
from .image_files import APPROXIMATED_MODES, ImageHeader
from .metadata import UNREADABLE, Metadata, read_metadata
from .orientation import Orientation
from .reading import Clip, VideoPacket, decode_frames, open_video, video_stream
from .samples import has_chroma
from .tracks import list_tracks
from .truncation import (
    DECODING_TIME_FORMATS,
    FrameInfo,
    PacketInfo,
    refuse_truncated,
    refuse_unterminated_gif,
)

SETTLE_NANOSECONDS = 2_000_000_000
BOTTOM_FIRST_ORDERS = {3, 4}  # FFmpeg's AVFieldOrder: bottom field coded first, or displayed first
MIN_FRAME_GAP = Fraction(1, 1000)  # seconds: the resolution of Matroska's clock
HIDDEN_PACKET_CODECS = {"vp8", "vp9", "av1"}  # codecs with packets that are not displayed
FileIdentity: TypeAlias = tuple[tuple[str, int, int, int, int], ...]


def probe(path: str | Path) -> Clip:
    """Read a clip once and describe it. Raise UserError, with the file's name, where it cannot be read completely.

    A file that has not changed since the last call is not read again.
    """
    path = Path(path)
    if not path.exists():
        raise InputNotFoundError(f"there is no file {path}")
    check_regular_file(path)
    return _probe_cached(path, file_identity(path)) if is_settled(path) else _probe(path)


def file_identity(path: Path) -> FileIdentity:
    """Return a value that changes when a file, or a file of a folder, changes: names, inodes, sizes and times.

    Both times are needed: a copy that keeps the time of its content (cp -p) still has a new time of change.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files if file.exists()]
    return tuple((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats)


def is_settled(path: Path) -> bool:
    """Return whether a later change would show in the file's times. The clocks of file systems are coarse."""
    files = [path, *path.iterdir()] if path.is_dir() else [path]
    stats = [file.stat() for file in files if file.exists()]
    changed = max((max(s.st_mtime_ns, s.st_ctime_ns) for s in stats), default=0)
    return time.time_ns() - changed > SETTLE_NANOSECONDS


@functools.lru_cache(maxsize=16)
def _probe_cached(path: Path, identity: FileIdentity) -> Clip:
    return _probe(path)


def _probe(path: Path) -> Clip:
    if _is_animation(path):
        return _probe_animation(path)
    if path.is_dir() or path.suffix.lower() in images.SUFFIXES:
        return _probe_images(path)
    with open_video(path) as container:
        return _probe_video(path, container)


def _probe_video(path: Path, container: InputContainer) -> Clip:
    stream = video_stream(container)
    frames: list[FrameInfo] = []
    packets: list[PacketInfo] = []
    first = None

    def remember(packet: VideoPacket) -> None:
        packets.append(PacketInfo(packet.dts, packet.size > 0, packet.is_discard))

    for frame in decode_frames(container, stream, path, remember):
        first = first or frame
        frames.append(_inspect(frame))
    if first is None:
        raise UserError(f"{path} has no frames")
    refuse_truncated(path, container, stream, frames, packets)
    if path.suffix.lower() == ".gif":
        refuse_unterminated_gif(path, len(frames))
    return _build_clip(path, container, stream, first, frames, packets)


def _inspect(frame: av.VideoFrame) -> FrameInfo:
    has_matrix = frame.side_data.get("DISPLAYMATRIX")
    return FrameInfo(
        time=frame.pts,
        duration=frame.duration,
        is_damaged=frame.is_corrupt,
        has_transparency=_has_transparency(frame),
        is_interlaced=frame.interlaced_frame,
        shape=FrameShape((frame.width, frame.height), frame.format.name),
        orientation=orientation.read_orientation(frame) if has_matrix else None,
    )


def check_regular_file(path: Path) -> None:
    """Raise UserError for a device or a pipe, on which reading could wait for ever."""
    if not (path.is_file() or path.is_dir()):
        raise UserError(
            f"{path} is a device or pipe, not a regular file", "copy it to a file first"
        )


def _probe_images(path: Path) -> Clip:
    files, headers = images.list_images(path)
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
        has_transparency=any(
            header.may_have_alpha and transparency.read_alpha(file) is not None
            for file, header in zip(files, headers, strict=True)
        ),
        cautions=(*_image_cautions(headers), *_describe_ignored(path)),
        profile_names=tuple(
            sorted({p.profile_name for p in headers if p.profile_name and p.is_rgb})
        ),
        has_exif=any(header.has_exif for header in headers),
        notes=("16 bits a channel",) if bits > 8 else (),
    )


def _image_cautions(headers: list[ImageHeader]) -> list[str]:
    """Return a sentence for each property that the images lose when they are read."""
    cautions = []
    for mode in sorted({header.mode for header in headers} & set(APPROXIMATED_MODES)):
        cautions.append(f"the images are {mode}: they are converted to RGB, and written as RGB")
    if any(header.stored_bits > header.bits for header in headers):
        cautions.append("the images have 16 bits a channel in a form of which 8 are read")
    others = sorted({h.profile_name for h in headers if h.profile_name and not h.is_rgb})
    if others:
        cautions.append(
            f"the images' colour profile ({', '.join(others)}) is not for RGB: it is left out"
        )
    return cautions


def _describe_ignored(path: Path) -> list[str]:
    names = images.ignored_names(path) if path.is_dir() else []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"ignored because they are not images: {', '.join(names[:3])}{more}"] if names else []


def _is_animation(path: Path) -> bool:
    """Return whether Pillow reads a file as a clip: an animated picture, or an image without an image's suffix."""
    if path.is_dir() or not animations.is_image_file(path):
        return False
    return path.suffix.lower() not in images.SUFFIXES or animations.is_animated(path)


def _probe_animation(path: Path) -> Clip:
    animation = animations.scan(path)
    count = len(animation.delays)
    ends = [sum(animation.delays[:i], Fraction(0)) for i in range(count + 1)]
    is_whole = all(end.denominator == 1 for end in ends)
    time_base = Fraction(1, 1000 if is_whole else 90000)
    ticks = [round(end / 1000 / time_base) for end in ends]
    durations = tuple(b - a for a, b in itertools.pairwise(ticks))
    return Clip(
        path=path,
        size=animation.size,
        rate=(1000 * count / ends[-1]).limit_denominator(1001),
        time_base=time_base,
        times=tuple(ticks[:-1]),
        durations=durations,
        pixel_format="rgba" if animation.has_alpha else "rgb24",
        has_transparency=animation.has_alpha,
        is_animation=True,
        cautions=animation.notes,
        notes=("has transparency (alpha channel)",) if animation.has_alpha else (),
    )


def _build_clip(
    path: Path,
    container: InputContainer,
    stream: av.VideoStream,
    first: av.VideoFrame,
    frames: list[FrameInfo],
    packets: list[PacketInfo],
) -> Clip:
    context, shapes = stream.codec_context, [s.shape for s in frames]
    shape, oriented = frame_shapes.main_shape(shapes), _common_orientation(path, frames)
    colour = {
        "range": context.color_range,
        "primaries": context.color_primaries,
        "trc": context.color_trc,
        "space": context.colorspace,
    }
    tags = read_metadata(container, stream)
    width, height = shape.size
    clip = Clip(
        path=path,
        size=(height, width) if oriented.swaps_sides else (width, height),
        rate=Fraction(25),
        time_base=stream.time_base or Fraction(1, 25),
        times=(),
        orientation=oriented,
        bits=max(c.bits for c in av.VideoFormat(shape.layout).components),
        pixel_format=shape.layout,
        colour=colour,
        pixel_aspect=stream.sample_aspect_ratio,
        audio_tracks=len(container.streams.audio),
        tracks=list_tracks(container, stream),
        timecode=_timecode(stream.metadata) or _timecode(container.metadata),
        changes_shape=len(set(shapes)) > 1,
        cautions=(
            *frame_shapes.describe_changes(shapes),
            *[oriented.describe()] * (oriented.angle is not None),
            *(check_matrix(path, colour) if has_chroma(shape.layout) else ()),
            *_describe_unreadable(tags),
        ),
        has_transparency=any(s.has_transparency for s in frames),
        field_order=_field_order(context, frames),
        metadata=tags,
        notes=tuple(_list_notes(stream, first, frames, packets)),
    )
    return _add_times(clip, container, stream, frames, packets)


def _describe_unreadable(metadata: Metadata) -> list[str]:
    if not metadata.unreadable:
        return []
    names = ", ".join(metadata.unreadable)
    return [f"not UTF-8: {names}; the unreadable characters are written as {UNREADABLE}"]


def _timecode(metadata: dict[str, str]) -> str:
    return metadata.get("timecode") or metadata.get("TIMECODE") or ""  # Matroska uses capitals


def _common_orientation(path: Path, frames: list[FrameInfo]) -> Orientation:
    """Return the orientation of all frames. Raise UserError where it changes."""
    first = frames[0].orientation or Orientation()
    for i, frame in enumerate(frames):
        if frame.orientation not in (None, first):
            raise UserError(
                f"{path} changes its rotation from frame {i} on",
                "cut it there, and edit its two parts",
            )
    return first


def _add_times(
    clip: Clip,
    container: InputContainer,
    stream: av.VideoStream,
    frames: list[FrameInfo],
    packets: list[PacketInfo],
) -> Clip:
    """Return the clip with its times, which increase and begin at zero or soon after it."""
    announced = stream.average_rate or stream.guessed_rate
    frame_ticks = round(1 / ((announced or 25) * clip.time_base)) or 1
    durations = [frame.duration for frame in frames]
    times = [frame.time for frame in frames]
    if any(durations) and None in times:  # the rate of an elementary stream is a guess
        frame_ticks = statistics.mode([d for d in durations if d])
    decoding = [p.dts for p in packets if p.has_picture and not p.is_discard]
    has_only = container.format.name in DECODING_TIME_FORMATS and None not in decoding
    min_gap = max(1, round(MIN_FRAME_GAP / clip.time_base))
    line = timeline.build_timeline(times, decoding if has_only else (), frame_ticks, min_gap)
    time_base = clip.time_base / line.scale
    audio_starts = [t.start for t in clip.tracks if t.kind == "audio" and t.start is not None]
    origin = timeline.time_origin(line.times[0], time_base, audio_starts)
    ticks = math.floor(origin / time_base)
    notes = [f"its times begin {float(origin):.2f} seconds from zero"] * bool(ticks)
    return replace(
        clip,
        rate=timeline.mean_rate(line.times, time_base, announced),
        time_base=time_base,
        times=tuple(time - ticks for time in line.times),
        durations=timeline.frame_durations(line, durations, frame_ticks),
        time_offset=ticks * time_base,
        join_offsets=tuple(ticks * clip.time_base for ticks in line.join_offsets),
        is_retimed=bool(line.repair),
        cautions=clip.cautions + ((line.repair,) if line.repair else ()),
        notes=(*clip.notes, *notes),
    )


def _list_notes(
    stream: av.VideoStream,
    first: av.VideoFrame,
    frames: list[FrameInfo],
    packets: list[PacketInfo],
) -> list[str]:
    """Return what is unusual about a file, for its manifest."""
    notes, bits = [], max(c.bits for c in first.format.components)
    damaged = sum(frame.is_damaged for frame in frames)
    if damaged:
        notes.append(
            "repaired 1 damaged frame" if damaged == 1 else f"repaired {damaged} damaged frames"
        )
    oriented = frames[0].orientation or Orientation()
    if oriented.matrix and oriented.angle is None:
        notes.append(oriented.describe())
    if bits > 8:
        notes.append(f"{bits} bits a channel")
    if first.side_data.get("MASTERING_DISPLAY_METADATA") is not None:
        notes.append("left out: the mastering display's metadata; transfer and primaries are kept")
    if any(frame.has_transparency for frame in frames):
        notes.append("has transparency (alpha channel)")
    if any(frame.is_interlaced for frame in frames):
        notes.append(f"interlaced, {_field_order(stream.codec_context, frames)} field first")
    dropped = stream.frames - len(frames) - sum(p.is_discard for p in packets)
    if dropped > 0 and stream.codec_context.name not in HIDDEN_PACKET_CODECS:
        notes.append(f"{dropped} of {stream.frames} frames that the file counts hold no picture")
    return notes


def _has_transparency(frame: av.VideoFrame) -> bool:
    if not any(component.is_alpha for component in frame.format.components):
        return False
    return bool(frame.reformat(format="rgba").to_ndarray()[..., 3].min() < 255)


def _field_order(context: av.VideoCodecContext, frames: list[FrameInfo]) -> str:
    """Return which field is first, "top" where the file does not say; empty for progressive frames."""
    if not any(frame.is_interlaced for frame in frames):
        return ""
    return "bottom" if context.field_order in BOTTOM_FIRST_ORDERS else "top"
