"""Read one frame of a clip in a time that does not grow with the clip.

The packets of a file are listed once, without decoding. A frame is decoded from the last keyframe before it, and only
that frame is converted. Where the list does not suffice (equal or missing times, damage, deinterlacing, an alpha
channel in a second track), the clip is decoded from the start. Either way the frame equals that of `video.read`.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from numpy import ndarray

from ..base.errors import UserError
from . import images
from .probing import FileIdentity, file_identity, is_settled
from .reading import Clip, VideoPacket, open_video, read_stored, to_rgb, video_stream

# In these codecs no frame depends on one that is marked as non-reference, so those need not be decoded.
_NONREF_CODECS = {"h264", "mpeg4", "mpeg2video"}
_THREADS = 2  # each decodes one frame more than is needed
_MAX_KEYFRAMES = 3  # keyframes to try before the frame: not every one is clean
_SEEK_BACK = (
    0,
    1,
    None,
)  # seconds; None: no seek. Some formats seek to a place behind the wanted one


@dataclass(frozen=True)
class _PacketIndex:
    """The packets of a stream in decoding order.

    keyframes: positions of keyframes, increasing. position: of a packet by its time.
    visible_times: the times of the packets that no edit list hides.
    """

    times: tuple[int, ...]
    keyframes: tuple[int, ...]
    position: dict[int, int]
    visible_times: frozenset[int]

    def starts_for(self, time: int) -> Iterator[int]:
        """Yield the positions from which the frame of this time can be decoded, the nearest first."""
        last = self.position[time]
        return (k for k in reversed(self.keyframes) if k <= last and self.times[k] <= time)


def read_frame(clip: Clip, number: int) -> ndarray:
    """Return a frame of a clip by its number (from 0), upright, uint8 H W 3."""
    if clip.files:
        frame = next(read_stored(replace(clip, files=(clip.files[number],))))
    else:
        frame = _decode_from_keyframe(clip, number)
        if frame is None:
            frame = next(itertools.islice(read_stored(clip), number, None))
    return images.to_8_bit(to_rgb(frame, clip, VideoReformatter()))


def keyframe_distance(clip: Clip) -> float:
    """Return the mean number of frames between keyframes, or all frames where seeking is not possible."""
    index = _clip_index(clip)
    return clip.frames / len(index.keyframes) if index and index.keyframes else clip.frames


def _decode_from_keyframe(clip: Clip, number: int) -> av.VideoFrame | None:
    """Return the stored frame, or None where only decoding from the start is certain to give it."""
    index, time = _clip_index(clip), _time_in_file(clip, number)
    if index is None:
        return None
    starts = itertools.islice(index.starts_for(time), _MAX_KEYFRAMES)
    for start, back in itertools.product(starts, _SEEK_BACK):
        try:
            with open_video(clip.path) as container:
                frame = _decode(container, clip, index, (start, back), time)
        except (FFmpegError, UserError):  # decoding from the start reports the error
            return None
        if frame is not None:
            return frame if _has_usual_format(frame, clip) else None
    return None


def _clip_index(clip: Clip) -> _PacketIndex | None:
    """Return the packets of a clip whose frames are the file's own, or None for other clips."""
    changed = clip.is_animation or clip.is_retimed or clip.changes_shape or clip.is_deinterlaced
    index = None if changed else _file_index(clip.path)
    times = frozenset(_time_in_file(clip, number) for number in range(clip.frames))
    is_known = index and (
        index.visible_times >= times if clip.sampling else index.visible_times == times
    )
    return index if is_known else None


def _time_in_file(clip: Clip, number: int) -> int:
    """Return a frame's time in the file, before the clip's time offset was subtracted."""
    return clip.times[number] + round(clip.time_offset / clip.time_base)


def _has_usual_format(frame: av.VideoFrame, clip: Clip) -> bool:
    """Return whether a frame has the clip's size and layout. Only decoding from the start fits others to it."""
    return (frame.width, frame.height, frame.format.name) == (*clip.stored_size, clip.pixel_format)


def _decode(
    container: InputContainer,
    clip: Clip,
    index: _PacketIndex,
    begin: tuple[int, float | None],
    time: int,
) -> av.VideoFrame | None:
    """Decode up to the frame of this time, or return None where it does not come out complete.

    begin: the position of the first packet, and the seconds before it to seek to (None: no seek).
    """
    start, back = begin
    stream = video_stream(container)
    if back is not None:
        assert stream.time_base is not None
        container.seek(index.times[start] - round(back / stream.time_base), stream=stream)
    wanted = _packets_from(container.demux(stream), index, start)
    skips = stream.codec_context.name in _NONREF_CODECS and not clip.field_order
    frames = _decode_until(stream.codec_context, wanted, time, skips)
    for i, frame in enumerate(frames):
        if i == 0 and start and not _is_clean(frame, index.times[start]):
            return None
        if frame.is_corrupt or frame.pts is None or frame.pts >= time:
            return frame if frame.pts == time and not frame.is_corrupt else None
    return None


def _is_clean(first: av.VideoFrame, time: int) -> bool:
    """Return whether a frame is the keyframe itself. With a rolling refresh the first frames show older pictures."""
    return first.pts == time and first.pict_type == PictureType.I


def _decode_until(
    context: av.VideoCodecContext, packets: Iterator[VideoPacket], time: int, skips: bool
) -> Iterator[av.VideoFrame]:
    """Yield frames up to the one of this time. skips: leave out frames that no other depends on."""
    context.thread_type = "AUTO"  # pyright: ignore[reportAttributeAccessIssue]  # PyAV takes names
    context.thread_count = _THREADS
    for packet in packets:
        if skips:
            context.skip_frame = "DEFAULT" if packet.pts == time else "NONREF"
        yield from context.decode(packet if packet.size else None)


def _packets_from(
    demuxed: Iterator[VideoPacket], index: _PacketIndex, start: int
) -> Iterator[VideoPacket]:
    """Yield the packets from position `start` on; none where the file begins behind it."""
    begun = False
    for packet in demuxed:
        position = None if packet.pts is None else index.position.get(packet.pts)
        begun = begun or position == start
        if begun:
            yield packet
        elif position is None or position > start:
            return


def _file_index(path: Path) -> _PacketIndex | None:
    """List a file's packets, once while the file does not change."""
    return (
        _file_index_cached(path, file_identity(path)) if is_settled(path) else _list_packets(path)
    )


@functools.lru_cache(maxsize=16)
def _file_index_cached(path: Path, identity: FileIdentity) -> _PacketIndex | None:
    return _list_packets(path)


def _list_packets(path: Path) -> _PacketIndex | None:
    """Return None where times are missing or equal, or where a second track holds the alpha channel."""
    try:
        with open_video(path) as container:
            stream = video_stream(container)
            if stream.metadata.get("alpha_mode") == "1":
                return None
            packets = (packet for packet in container.demux(stream) if packet.size)
            entries = [(packet.pts, packet.is_keyframe, packet.is_discard) for packet in packets]
    except (FFmpegError, UserError):  # FFmpeg does not read every kind of clip
        return None
    times = tuple(time for time, _, _ in entries if time is not None)
    position = {time: i for i, time in enumerate(times)}
    if len(times) < len(entries) or len(position) < len(times):
        return None
    keyframes = tuple(i for i, (_, is_keyframe, _) in enumerate(entries) if is_keyframe)
    visible = frozenset(time for time, _, hidden in entries if not hidden and time is not None)
    return _PacketIndex(times, keyframes, position, visible)
