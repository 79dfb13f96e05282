"""Read one frame of a clip in a time that does not grow with the clip.

The packets of a file are listed once, without decoding. A frame is decoded from the last keyframe before it, and it
alone is converted. What the list cannot answer for certain (equal or absent times, damage, fields that become frames,
opacity in a second track) is decoded from the start. Either way the frame equals the one that `video.read` gives.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from numpy import ndarray

from ..base.errors import UserError
from . import images
from .probing import identify, is_settled
from .reading import Clip, opened, picture_of, stored, upright

# Codecs in which a frame that is marked as no reference is never needed by another, so that it need not be decoded.
_SKIPPING = {"h264", "mpeg4", "mpeg2video"}
_THREADS = 2  # each decodes a frame more than is needed
_TRIES = 3  # keyframes before the frame: not every one is clean
_BACK = (0, 1, None)  # seconds: some formats seek to a place behind the one that is wanted


@dataclass(frozen=True)
class _Packets:
    """A stream's packets in the order in which they are decoded."""

    times: tuple[int, ...]
    keys: tuple[int, ...]  # places of keyframes, rising
    place: dict[int, int]  # of a packet by its time
    shown: frozenset[int]  # times of the packets that no edit list hides

    def keyframes(self, time: int) -> Iterator[int]:
        """Yield the places from which the frame of this time can be decoded, the nearest first."""
        last = self.place[time]
        return (k for k in reversed(self.keys) if k <= last and self.times[k] <= time)


def read_frame(clip: Clip, number: int) -> ndarray:
    """Return a frame of a clip by its number (from 0), upright, uint8 H W 3."""
    if clip.files:
        frame = next(stored(replace(clip, files=(clip.files[number],))))
    else:
        frame = _decode_from_keyframe(clip, number)
        if frame is None:
            frame = next(itertools.islice(stored(clip), number, None))
    return images.eight_bits(upright(frame, clip, VideoReformatter()))


def keyframe_distance(clip: Clip) -> float:
    """Return how many frames there are to a keyframe; all of them where none can be sought."""
    packets = _listing(clip)
    return clip.frames / len(packets.keys) if packets and packets.keys else clip.frames


def _decode_from_keyframe(clip: Clip, number: int) -> av.VideoFrame | None:
    """Return the stored frame; None where only reading from the start gives it for certain."""
    packets, time = _listing(clip), _time_in_file(clip, number)
    if packets is None:
        return None
    starts = itertools.islice(packets.keyframes(time), _TRIES)
    for start, back in itertools.product(starts, _BACK):
        try:
            with opened(clip.path) as container:
                frame = _decode(container, clip, packets, start, time, back)
        except (av.FFmpegError, UserError):  # reading from the start says what is wrong
            return None
        if frame is not None:
            return frame if _is_usual(frame, clip) else None
    return None


def _listing(clip: Clip) -> _Packets | None:
    """Return the packets of a clip whose frames are the file's own; None of any other."""
    changed = clip.is_animation or clip.is_retimed or clip.resizes or clip.deinterlaced
    packets = None if changed else _packets_of(clip.path)
    times = frozenset(_time_in_file(clip, number) for number in range(clip.frames))
    return packets if packets and packets.shown == times else None


def _time_in_file(clip: Clip, number: int) -> int:
    """Return a frame's time before what a late clip begins with was taken from it."""
    return clip.times[number] + round(clip.start / clip.time_base)


def _is_usual(frame: av.VideoFrame, clip: Clip) -> bool:
    """Whether a frame is like the first: where it is not, reading from the start knows what to make of it."""
    return (frame.width, frame.height, frame.format.name) == (*clip.stored_size, clip.pixel_format)


def _decode(
    container, clip: Clip, packets: _Packets, start: int, time: int, back: float | None
) -> av.VideoFrame | None:
    """Decode from the packet at `start` up to the frame of this time; None where it does not come out whole.

    back: seconds before it that are sought; None: no seek.
    """
    stream = picture_of(container)
    if back is not None:
        container.seek(packets.times[start] - round(back / stream.time_base), stream=stream)
    wanted = _packets_from(container.demux(stream), packets, start)
    skips = stream.codec_context.name in _SKIPPING and not clip.fields
    frames = _decode_until(stream.codec_context, wanted, time, skips)
    for i, frame in enumerate(frames):
        if i == 0 and start and not _is_clean(frame, packets.times[start]):
            return None
        if frame.is_corrupt or frame.pts is None or frame.pts >= time:
            return frame if frame.pts == time and not frame.is_corrupt else None
    return None


def _is_clean(first: av.VideoFrame, time: int) -> bool:
    """Whether a frame is the keyframe itself, whole: with a rolling refresh the first frames hold older pictures."""
    return first.pts == time and first.pict_type == PictureType.I


def _decode_until(
    context, packets: Iterator[av.Packet], time: int, skips: bool
) -> Iterator[av.VideoFrame]:
    """Yield frames up to the one of this time. skips: leave out those that no other needs."""
    context.thread_type, context.thread_count = "AUTO", _THREADS
    for packet in packets:
        if skips:
            context.skip_frame = "DEFAULT" if packet.pts == time else "NONREF"
        yield from context.decode(packet if packet.size else None)


def _packets_from(
    demuxed: Iterator[av.Packet], packets: _Packets, start: int
) -> Iterator[av.Packet]:
    """Yield the packets from the one at `start` on; none where the file begins behind it."""
    begun = False
    for packet in demuxed:
        place = packets.place.get(packet.pts)
        begun = begun or place == start
        if begun:
            yield packet
        elif place is None or place > start:
            return


def _packets_of(path: Path) -> _Packets | None:
    """List a file's packets, once for as long as it does not change."""
    return _remember_packets(path, identify(path)) if is_settled(path) else _list_packets(path)


@functools.lru_cache(maxsize=16)
def _remember_packets(path: Path, identity: tuple) -> _Packets | None:
    return _list_packets(path)


def _list_packets(path: Path) -> _Packets | None:
    """Return None where times are absent or equal, or where a second track holds the opacity."""
    try:
        with opened(path) as container:
            stream = picture_of(container)
            if stream.metadata.get("alpha_mode") == "1":
                return None
            packets = (packet for packet in container.demux(stream) if packet.size)
            found = [(packet.pts, packet.is_keyframe, packet.is_discard) for packet in packets]
    except (av.FFmpegError, UserError):  # not everything that is read is read by FFmpeg
        return None
    times = tuple(time for time, _, _ in found)
    place = {time: i for i, time in enumerate(times)}
    if None in place or len(place) < len(times):
        return None
    keys = tuple(i for i, (_, key, _) in enumerate(found) if key)
    return _Packets(times, keys, place, frozenset(time for time, _, hidden in found if not hidden))
