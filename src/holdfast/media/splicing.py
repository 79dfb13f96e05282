"""Copy what an edit does not touch: whole groups of pictures as they lie in the source, packet by packet, around those
that are encoded anew. H.264 in MP4 and Matroska.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
from av.video.reformatter import VideoReformatter
from numpy import ndarray

from . import avc
from .encoding import ANY, Sound, options_of, pixel_format, tag_colours, tag_fields, timed, written
from .reading import Clip, opened
from .samples import Picture, frame_of, picture

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
    header: avc.Header

    def describe(self, frames: int) -> dict:
        anew = self.stop - self.begin
        return {"copied_frames": frames - anew, "encoded_frames": [self.begin, self.stop]}


def plan(clip: Clip, suffix: str, codec: str, edited: range) -> Splice:
    """What can be copied of a clip of which only some frames were edited. Raises Unfit."""
    if clip.files or suffix not in ANY or codec != "h264":
        raise Unfit("only H.264 in .mp4, .mov or .mkv is copied")
    with opened(clip.path) as container:
        track = container.streams.best("video")
        if track.codec_context.name != "h264":
            raise Unfit(f"the source is {track.codec_context.name}, not H.264")
        try:
            header = avc.Header.parsed(bytes(track.codec_context.extradata or b""))
        except (ValueError, IndexError) as error:
            raise Unfit("the source's header of H.264 is not of MP4's kind") from error
        if header.profile not in avc.PROFILES:
            raise Unfit(f"the source is of H.264's profile {header.profile}")
        groups, dts = _groups(container.demux(track), clip)
    begin = max((g for g in groups if g <= edited.start), default=0)
    stop = min(g for g in groups if g >= edited.stop)
    if begin == 0 and stop == clip.frames:
        raise Unfit("every group of pictures holds an edited frame")
    if pixel_format(clip, "h264") != clip.pixel_format.replace("yuvj", "yuv"):
        raise Unfit(f"{clip.pixel_format} is encoded as another layout")
    return Splice(begin, stop, tuple(groups), tuple(dts), header)


def _groups(packets: Iterable[av.Packet], clip: Clip) -> tuple[list[int], list[int]]:
    """At which frame each group of pictures begins, with the clip's end, and the packets' times of decoding."""
    groups, dts, seen = [], [], []
    for packet in packets:
        if packet.size == 0:
            continue
        if packet.dts is None or packet.pts is None or packet.is_discard:
            raise Unfit("the source has packets without times, or that are not meant to be seen")
        kinds = {avc.kind(unit) for unit in avc.units(bytes(packet)) if unit}
        if avc.IDR in kinds:
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


def write_spliced(
    part: Path, clip: Clip, frames: Iterable[ndarray | Picture], splice: Splice, crf: int | None
) -> None:
    """Write a clip of which only `splice`'s frames are encoded. Raises OSError."""
    with written(part) as out, opened(clip.path) as source:
        track = source.streams.best("video")
        stream = out.add_stream_from_template(track)
        encoder = _encoder(clip, splice.header, crf)
        anew = splice.header.with_sets(avc.units_of_stream(bytes(encoder.extradata)))
        stream.codec_context.extradata = anew.packed()
        if clip.rotation:
            stream.set_display_rotation(clip.rotation)
        sound = Sound(out, clip)
        copied = (packet for packet in source.demux(track) if packet.size)
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
            sound.until(float(clip.times[i] * clip.time_base))
        sound.close()


def _encoder(clip: Clip, header: avc.Header, crf: int | None) -> av.VideoCodecContext:
    """Its profile is the source's, and its parameter sets have a number that the source's have not."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = clip.stored_size
    encoder.pix_fmt = pixel_format(clip, "h264")
    encoder.time_base, encoder.framerate = clip.time_base, clip.rate
    tag_colours(encoder, clip)
    if clip.aspect:
        encoder.sample_aspect_ratio = clip.aspect
    own = {"profile": avc.PROFILES[header.profile], "x264-params": f"sps-id={header.free_id()}"}
    encoder.options = options_of("h264", crf) | own
    tag_fields(encoder, clip, "h264")
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
            joined = av.Packet(avc.with_lengths(bytes(packet)))
            joined.pts, joined.dts = packet.pts, self.splice.dts[self.next]
            joined.time_base, joined.is_keyframe = clip.time_base, packet.is_keyframe
            joined.duration = clip.durations[self.next]
            self.next += 1
            yield joined
