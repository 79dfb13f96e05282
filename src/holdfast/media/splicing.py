"""Copy the groups of pictures that an edit does not touch, packet by packet, and encode only those around the edit.

This works for H.264 and H.265 in MP4 and Matroska.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.video.reformatter import VideoReformatter
from numpy import ndarray

from .avc import AvcHeader
from .copying import TrackCopier
from .encoding import (
    CODECS,
    MP4,
    MP4_OR_MKV,
    encoder_options,
    open_output,
    pick_pixel_format,
    set_frame_time,
    tag_colours,
    tag_interlacing,
    tag_stream,
)
from .hevc import HevcHeader
from .metadata import write_metadata
from .reading import Clip, VideoPacket, open_video, video_stream
from .samples import OutputFrame, as_output_frame, to_video_frame

HEADERS = {"h264": AvcHeader, "hevc": HevcHeader}  # by FFmpeg's names
GLOBAL_HEADER = 1 << 22  # the encoder's flag: parameter sets in the header, not in the packets


class CannotCopyError(Exception):
    """Packets cannot be copied. The message gives the reason."""


@dataclass(frozen=True)
class Splice:
    """The frames to encode, by their order of presentation, and the groups of pictures around them.

    groups: the frame at which each group begins, and the end of the last one.
    dts: the decoding time of each packet, in decoding order.
    """

    begin: int
    stop: int
    groups: tuple[int, ...]
    dts: tuple[int, ...]
    header: AvcHeader | HevcHeader

    def describe(self, frames: int) -> dict[str, Any]:
        """Return what is copied and what is encoded, for the manifest."""
        encoded = self.stop - self.begin
        record = {"copied_frames": frames - encoded, "encoded_frames": [self.begin, self.stop]}
        return record | {"codec": self.header.codec}


def plan_splice(clip: Clip, suffix: str, codec: str, edited: range) -> Splice:
    """Plan what to copy of a clip of which only some frames were edited.

    codec: "auto" is the source's own. Raise CannotCopyError where nothing can be copied.
    """
    _check_clip(clip, suffix, codec)
    with open_video(clip.path) as container:
        track = video_stream(container)
        header = _read_header(track, codec)
        if header.profile is None or min(clip.size) < CODECS[header.codec].min_side:
            raise CannotCopyError("the source's profile or size cannot be encoded here")
        groups, dts = _find_groups(container.demux(track), clip, header)
    begin = max((g for g in groups if g <= edited.start), default=0)
    stop = min(g for g in groups if g >= edited.stop)
    if begin == 0 and stop == clip.frames:
        raise CannotCopyError("every group of pictures holds an edited frame")
    if pick_pixel_format(clip, header.codec) != clip.pixel_format.replace("yuvj", "yuv"):
        raise CannotCopyError(f"{clip.pixel_format} is encoded as another layout")
    return Splice(begin, stop, tuple(groups), tuple(dts), header)


def _check_clip(clip: Clip, suffix: str, codec: str) -> None:
    """Raise CannotCopyError for a clip or a target whose packets cannot be copied."""
    is_video = not (clip.files or clip.is_animation)
    if not is_video or suffix not in MP4_OR_MKV or codec not in ("auto", "h264", "h265"):
        raise CannotCopyError("only H.264 and H.265 in .mp4, .mov or .mkv are copied")
    if clip.sampling:
        raise CannotCopyError("only some frames of the source are left")
    if clip.background or clip.is_deinterlaced:
        raise CannotCopyError("every frame is composited over a colour, or deinterlaced")
    if clip.is_retimed or clip.changes_shape:
        raise CannotCopyError("the source's times or sizes were repaired")


def _read_header(track: av.VideoStream, codec: str) -> AvcHeader | HevcHeader:
    name = track.codec_context.name
    kind = HEADERS.get(name)
    if kind is None or codec not in ("auto", kind.codec):
        expected = "H.264 or H.265" if codec == "auto" else codec
        raise CannotCopyError(f"the source is {name}, not {expected}")
    try:
        return kind.parse(bytes(track.codec_context.extradata or b""))
    except (ValueError, IndexError) as error:
        raise CannotCopyError(f"the source's header of {name} is not like MP4's") from error


def _find_groups(
    packets: Iterable[VideoPacket], clip: Clip, header: AvcHeader | HevcHeader
) -> tuple[list[int], list[int]]:
    """Return the frame at which each group of pictures begins, with the clip's end, and the packets' decoding times."""
    groups: list[int] = []
    dts: list[int] = []
    pts: list[int] = []
    for packet in packets:
        if packet.size == 0:
            continue
        if packet.dts is None or packet.pts is None or packet.is_discard:
            raise CannotCopyError("the source has packets without times, or hidden packets")
        decoding, presentation = _shift_to_clip(packet, clip)
        if dts and decoding <= dts[-1]:
            raise CannotCopyError("the source's decoding times go backwards")
        if _begins_group(packet, header):
            if pts and max(pts) >= presentation:
                raise CannotCopyError("the source's groups of pictures overlap")
            groups.append(len(pts))
        elif groups and presentation < pts[groups[-1]]:
            raise CannotCopyError("the source's groups of pictures overlap")
        pts.append(presentation)
        dts.append(decoding)
    if sorted(pts) != list(clip.times) or not groups or groups[0]:
        raise CannotCopyError("the source's packets and frames do not match one to one")
    return [*groups, len(pts)], dts


def _begins_group(packet: VideoPacket, header: AvcHeader | HevcHeader) -> bool:
    try:
        return header.begins_group(bytes(packet))
    except ValueError as error:
        raise CannotCopyError(f"of the source {error}") from error


def write_spliced(
    part: Path,
    clip: Clip,
    frames: Iterable[ndarray | OutputFrame],
    splice: Splice,
    crf: int | None,
) -> None:
    """Write a clip of which only the frames of `splice` are encoded. Raise OSError."""
    with open_output(part, clip) as out, open_video(clip.path) as source:
        track = video_stream(source)
        stream = out.add_stream_from_template(track)
        encoder = _open_encoder(clip, splice.header, crf)
        stream.codec_context.extradata = splice.header.merge_extradata(encoder.extradata or b"")
        if part.suffix.lower() in MP4:
            stream.codec_context.codec_tag = splice.header.tag
        tag_stream(stream, clip)
        write_metadata(out, stream, clip.metadata, clip.time_offset)
        tracks = TrackCopier(out, clip)
        copied = _shifted_packets(source.demux(track), clip)
        encoding = _FrameEncoder(encoder, clip, splice)
        for i, frame in enumerate(frames):
            for packet in _packets_at(i, frame, copied, encoding):
                packet.stream = stream
                out.mux(packet)
            if i == splice.stop - 1:  # skip what these frames were in the source
                for _ in itertools.islice(copied, splice.stop - splice.begin):
                    pass
            tracks.copy_until(float(clip.times[i] * clip.time_base))
        tracks.close()


def _packets_at(
    index: int, frame: ndarray | OutputFrame, copied: Iterator[av.Packet], encoding: "_FrameEncoder"
) -> Iterable[av.Packet]:
    """Return the packets to write at a frame: encoded ones, a whole copied group, or none."""
    splice = encoding.splice
    if splice.begin <= index < splice.stop:
        return encoding.encode(as_output_frame(frame), index)
    if index in splice.groups:
        here = splice.groups.index(index)
        return itertools.islice(copied, splice.groups[here + 1] - index)
    return ()


def _shifted_packets(packets: Iterable[VideoPacket], clip: Clip) -> Iterator[VideoPacket]:
    for packet in packets:
        if packet.size:
            _shift_to_clip(packet, clip)
            yield packet


def _shift_to_clip(packet: VideoPacket, clip: Clip) -> tuple[int, int]:
    """Move a packet of the source to its time in the result. Return its decoding and presentation times."""
    assert packet.pts is not None  # _find_groups refuses others
    assert packet.dts is not None
    shift = round(clip.time_offset / packet.time_base)
    packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
    return packet.dts, packet.pts


def _open_encoder(
    clip: Clip, header: AvcHeader | HevcHeader, crf: int | None
) -> av.VideoCodecContext:
    """Open an encoder with the source's profile."""
    encoder = av.CodecContext.create(CODECS[header.codec].encoder, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height = clip.stored_size
    encoder.pix_fmt = pick_pixel_format(clip, header.codec)
    encoder.time_base, encoder.framerate = clip.time_base, Fraction(clip.rate)
    tag_colours(encoder, clip)
    if clip.pixel_aspect:
        encoder.sample_aspect_ratio = clip.pixel_aspect
    usual, own = encoder_options(header.codec, crf), header.options()
    encoder.options = usual | {k: f"{usual[k]}:{v}" if k in usual else v for k, v in own.items()}
    tag_interlacing(encoder, clip, header.codec)
    encoder.flags |= GLOBAL_HEADER
    encoder.open()
    return encoder


class _FrameEncoder:
    """Encode frames into packets at the decoding times of the source's packets."""

    def __init__(self, encoder: av.VideoCodecContext, clip: Clip, splice: Splice):
        self.encoder, self.clip, self.splice = encoder, clip, splice
        self.layout = pick_pixel_format(clip, splice.header.codec)
        self.converter = VideoReformatter()
        self.next = splice.begin

    def encode(self, frame: OutputFrame, index: int) -> Iterator[av.Packet]:
        """Yield the packets that are ready after this frame."""
        converted = to_video_frame(frame, self.clip, self.layout, self.converter)
        packets = self.encoder.encode(set_frame_time(converted, index, self.clip))
        if index == self.splice.stop - 1:
            packets += self.encoder.encode(None)
        for packet in packets:
            joined = _copy_times(packet, self.splice.header.convert_packet(bytes(packet)))
            joined.dts, joined.time_base = self.splice.dts[self.next], self.clip.time_base
            joined.duration = self.clip.durations[self.next]
            self.next += 1
            yield joined


def _copy_times(packet: av.Packet, data: bytes) -> av.Packet:
    """Return a packet of other data with the times of a packet."""
    copy = av.Packet(data)
    copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
    copy.duration, copy.is_keyframe = packet.duration, packet.is_keyframe
    return copy
