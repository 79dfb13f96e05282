"""Copy what an edit does not touch: whole groups of pictures as they lie in the source, packet by packet, around those
that are encoded anew. H.264 and H.265 in MP4 and Matroska.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
from av.video.reformatter import VideoReformatter
from numpy import ndarray

from . import avc, hevc
from .copying import CopiedTracks
from .encoding import (
    ANY,
    CODECS,
    MP4,
    mark_stream,
    options_of,
    pixel_format,
    tag_colours,
    tag_fields,
    timed,
    written,
)
from .metadata import attach
from .reading import Clip, opened, picture_of
from .samples import Picture, frame_of, picture

KINDS = {"h264": avc.Header, "hevc": hevc.Header}  # by FFmpeg's names
GLOBAL_HEADER = 1 << 22  # the encoder's flag: parameter sets beside the packets, not in them


class Unfit(Exception):
    """Packets cannot be copied; the message says why."""


@dataclass(frozen=True)
class Splice:
    """Frames that are encoded anew, by their order of display, and the groups around them."""

    begin: int
    stop: int
    groups: tuple[int, ...]  # at which frame each begins, and the last one's end
    dts: tuple[int, ...]  # of each packet in the order of decoding
    header: avc.Header | hevc.Header

    def describe(self, frames: int) -> dict:
        anew = self.stop - self.begin
        copied = {"copied_frames": frames - anew, "encoded_frames": [self.begin, self.stop]}
        return copied | {"codec": self.header.codec}


def plan(clip: Clip, suffix: str, codec: str, edited: range) -> Splice:
    """What can be copied of a clip of which only some frames were edited. codec: "auto" is the source's own. Raises
    Unfit.
    """
    if (
        clip.files
        or clip.is_animation
        or suffix not in ANY
        or codec not in ("auto", "h264", "h265")
    ):
        raise Unfit("only H.264 and H.265 in .mp4, .mov or .mkv are copied")
    if clip.background or clip.deinterlaced:
        raise Unfit("every frame is laid over a colour, or made of fields")
    if clip.is_retimed or clip.resizes:
        raise Unfit("the source's times or sizes were put in order")
    with opened(clip.path) as container:
        track = picture_of(container)
        header = _header(track, codec)
        if header.profile is None or min(clip.size) < CODECS[header.codec].least:
            raise Unfit("the source is of a profile or size that is not encoded here")
        groups, dts = _groups(container.demux(track), clip, header)
    begin = max((g for g in groups if g <= edited.start), default=0)
    stop = min(g for g in groups if g >= edited.stop)
    if begin == 0 and stop == clip.frames:
        raise Unfit("every group of pictures holds an edited frame")
    if pixel_format(clip, header.codec) != clip.pixel_format.replace("yuvj", "yuv"):
        raise Unfit(f"{clip.pixel_format} is encoded as another layout")
    return Splice(begin, stop, tuple(groups), tuple(dts), header)


def _header(track, codec: str) -> avc.Header | hevc.Header:
    name = track.codec_context.name
    kind = KINDS.get(name)
    if kind is None or codec not in ("auto", kind.codec):
        raise Unfit(f"the source is {name}, not {'H.264 or H.265' if codec == 'auto' else codec}")
    try:
        return kind.parsed(bytes(track.codec_context.extradata or b""))
    except (ValueError, IndexError) as error:
        raise Unfit(f"the source's header of {name} is not of MP4's kind") from error


def _groups(
    packets: Iterable[av.Packet], clip: Clip, header: avc.Header | hevc.Header
) -> tuple[list[int], list[int]]:
    """At which frame each group of pictures begins, with the clip's end, and the packets' times of decoding."""
    groups, dts, seen = [], [], []
    for packet in packets:
        if packet.size == 0:
            continue
        if packet.dts is None or packet.pts is None or packet.is_discard:
            raise Unfit("the source has packets without times, or that are not meant to be seen")
        _moved(packet, clip)
        if dts and packet.dts <= dts[-1]:
            raise Unfit("the source's times of decoding go backwards")
        if _starts(packet, header):
            if seen and max(seen) >= packet.pts:
                raise Unfit("the source's groups of pictures overlap")
            groups.append(len(seen))
        elif groups and packet.pts < seen[groups[-1]]:
            raise Unfit("the source's groups of pictures overlap")
        seen.append(packet.pts)
        dts.append(packet.dts)
    if sorted(seen) != list(clip.times) or not groups or groups[0]:
        raise Unfit("the source's packets are not one for each frame")
    return [*groups, len(seen)], dts


def _starts(packet: av.Packet, header: avc.Header | hevc.Header) -> bool:
    try:
        return header.starts(bytes(packet))
    except ValueError as error:
        raise Unfit(f"of the source {error}") from error


def write_spliced(
    part: Path, clip: Clip, frames: Iterable[ndarray | Picture], splice: Splice, crf: int | None
) -> None:
    """Write a clip of which only `splice`'s frames are encoded. Raises OSError."""
    with written(part, clip) as out, opened(clip.path) as source:
        track = picture_of(source)
        stream = out.add_stream_from_template(track)
        encoder = _encoder(clip, splice.header, crf)
        stream.codec_context.extradata = splice.header.joined(bytes(encoder.extradata))
        if part.suffix.lower() in MP4:
            stream.codec_context.codec_tag = splice.header.tag
        mark_stream(stream, clip)
        attach(out, stream, clip.metadata, clip.start)
        tracks = CopiedTracks(out, clip)
        copied = (_moved(packet, clip) for packet in source.demux(track) if packet.size)
        made = _Encoded(encoder, clip, splice)
        for i, frame in enumerate(frames):
            if splice.begin <= i < splice.stop:
                packets = made.packets(picture(frame), i)
            elif i in splice.groups:
                here = splice.groups.index(i)
                packets = itertools.islice(copied, splice.groups[here + 1] - i)
            else:
                packets = ()
            for packet in packets:
                packet.stream = stream
                out.mux(packet)
            if i == splice.stop - 1:  # what these frames were in the source
                for _ in itertools.islice(copied, splice.stop - splice.begin):
                    pass
            tracks.until(float(clip.times[i] * clip.time_base))
        tracks.close()


def _moved(packet: av.Packet, clip: Clip) -> av.Packet:
    """A packet of the source at its time in the result."""
    shift = round(clip.start / packet.time_base)
    packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
    return packet


def _like(packet: av.Packet, data: bytes) -> av.Packet:
    """A packet with the times of another."""
    made = av.Packet(data)
    made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
    made.duration, made.is_keyframe = packet.duration, packet.is_keyframe
    return made


def _encoder(clip: Clip, header: avc.Header | hevc.Header, crf: int | None) -> av.VideoCodecContext:
    """Its profile is the source's."""
    encoder = av.CodecContext.create(CODECS[header.codec].encoder, "w")
    encoder.width, encoder.height = clip.stored_size
    encoder.pix_fmt = pixel_format(clip, header.codec)
    encoder.time_base, encoder.framerate = clip.time_base, clip.rate
    tag_colours(encoder, clip)
    if clip.aspect:
        encoder.sample_aspect_ratio = clip.aspect
    known, own = options_of(header.codec, crf), header.options()
    encoder.options = known | {k: f"{known[k]}:{v}" if k in known else v for k, v in own.items()}
    tag_fields(encoder, clip, header.codec)
    encoder.flags |= GLOBAL_HEADER
    encoder.open()
    return encoder


class _Encoded:
    """Packets of the frames that are encoded, at the times at which the source's were decoded."""

    def __init__(self, encoder: av.VideoCodecContext, clip: Clip, splice: Splice):
        self.encoder, self.clip, self.splice = encoder, clip, splice
        self.converter = VideoReformatter()
        self.next = splice.begin

    def packets(self, shown: Picture, index: int) -> Iterator[av.Packet]:
        clip, target = self.clip, self.encoder.pix_fmt
        frame = frame_of(shown, clip, target, self.converter)
        found = self.encoder.encode(timed(frame, index, clip))
        if index == self.splice.stop - 1:
            found += self.encoder.encode(None)
        for packet in found:
            joined = _like(packet, self.splice.header.packet(bytes(packet)))
            joined.dts, joined.time_base = self.splice.dts[self.next], clip.time_base
            joined.duration = clip.durations[self.next]
            self.next += 1
            yield joined
