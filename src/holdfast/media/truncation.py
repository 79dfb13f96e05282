"""Refuse a clip that announces more than can be read: a copy that broke off."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer

from ..base.errors import UserError
from .completeness import is_complete
from .frame_shapes import FrameShape
from .orientation import Orientation

DECODING_TIME_FORMATS = {"avi"}  # containers that store decoding times, not presentation times


@dataclass(frozen=True)
class FrameInfo:
    """What `probe` remembers of a frame while it reads a file."""

    time: int | None
    duration: int | None
    is_damaged: bool
    has_transparency: bool
    is_interlaced: bool
    shape: FrameShape
    orientation: Orientation | None  # None: the same as the frame before


@dataclass(frozen=True)
class PacketInfo:
    """What `probe` remembers of a packet of the video track."""

    dts: int | None
    has_picture: bool
    is_discard: bool  # decoded but not displayed: an edit list hides it


def refuse_truncated(
    path: Path,
    container: InputContainer,
    stream: av.VideoStream,
    frames: list[FrameInfo],
    packets: list[PacketInfo],
) -> None:
    """Raise UserError for a file that announces more frames, or (Matroska) a longer duration, than can be read.

    In a file that is as long as its own structure says, a larger count means dropped frames, or a long last frame.
    """
    completeness = is_complete(path)
    if completeness:
        return
    announced = _count_announced(container, stream)
    if announced > max(_count_packets(container, packets), len(frames)):
        raise UserError(
            f"{path} is truncated: it announces {stream.frames} frames, "
            f"but only {len(frames)} can be read"
        )
    last = frames[-1]
    if not stream.frames and last.time is not None and stream.time_base is not None:
        seconds = _announced_seconds(container, stream, completeness is False)
        end = float((last.time + (last.duration or 0)) * stream.time_base)
        if end < 0.98 * seconds - 0.2:
            missing = round((seconds - end) * (stream.average_rate or Fraction(25)))
            raise UserError(
                f"{path} is truncated: it announces {seconds:.2f} seconds, but only {end:.2f} can "
                f"be read; about {missing} of {len(frames) + missing} frames are missing"
            )


def _count_announced(container: InputContainer, stream: av.VideoStream) -> int:
    """Return how many frames the file announces; for MP4, without those that its edit list hides."""
    indexed = len(stream.index_entries) if "mp4" in container.format.name else 0
    return min(stream.frames, indexed or stream.frames)


def _count_packets(container: InputContainer, packets: list[PacketInfo]) -> int:
    """Return how many packets the file holds. AVI counts dropped frames, which only take up time."""
    times = [p.dts for p in packets if p.dts is not None]
    has_drops = container.format.name in DECODING_TIME_FORMATS and times
    return max(len(packets), max(times) + 1) if has_drops else len(packets)


def refuse_unterminated_gif(path: Path, count: int) -> None:
    """Raise UserError for a GIF without an end marker. GIF announces no count of frames."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16))
        if b";" not in file.read():
            raise UserError(f"{path} is truncated: it ends prematurely after {count} frames")


def _announced_seconds(
    container: InputContainer, stream: av.VideoStream, is_cut_off: bool
) -> float:
    """Return the duration that the file announces for its video track, or 0 where it announces none.

    is_cut_off: the file breaks off, so the duration of all tracks together counts too.
    """
    tag = stream.metadata.get("DURATION")
    if tag:
        parts = reversed(tag.split(":"))  # seconds, minutes, hours
        return sum(float(part) * 60**i for i, part in enumerate(parts))
    if container.duration and (is_cut_off or not container.streams.audio):
        return container.duration / av.time_base
    return 0.0
