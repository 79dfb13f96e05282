"""Encode frames as a video file with PyAV: a stream with the source's tags, its frames, and its other tracks."""

import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import av
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from numpy import ndarray

from ..base.errors import UserError
from .copying import CopiedTracks
from .matrices import UNTAGGED
from .metadata import attach, movflags
from .reading import Clip, colour_range
from .samples import Picture, frame_of, has_chroma, is_planar, is_yuv, picture, plain, subsampling

MP4, ANY = (".mp4", ".m4v", ".mov"), (".mp4", ".m4v", ".mov", ".mkv")
INTERLACED = 1 << 18 | 1 << 29  # FFmpeg's flags: interlaced transform and motion
FIELD_ORDERS = {"top": 2, "bottom": 3}


@dataclass(frozen=True)
class Codec:
    """One way to write a picture. crf: its quality, where it has one, from 0 to worst."""

    encoder: str  # FFmpeg's name
    suffixes: tuple[str, ...]  # of files that take it
    crf: int | None = None
    worst: int = 51
    options: Mapping[str, str] = field(default_factory=dict)
    fields: bool = False  # whether it codes interlaced frames as such
    tag: str = ""  # of MP4's sample entry, where FFmpeg's own choice is played by fewer
    fastest: int = 1000  # frames a second that it takes; its packets have their own times
    least: int = 1  # pixels of a side: under it x265 writes beside its memory, and SVT-AV1 refuses

    @property
    def formats(self) -> frozenset[str]:
        return frozenset(f.name for f in av.Codec(self.encoder, "w").video_formats)


# What is written without a quality keeps at least 50 dB of luma outside an edit on every clip tried (docs/kept.md).
# No B-frames: with them the last packet is not the last frame, and the container's duration and rate drift from
# the source's.
CODECS = {
    "h264": Codec("libx264", ANY, 8, options={"bf": "0", "preset": "medium"}, fields=True),
    "h265": Codec(
        "libx265",
        ANY,
        5,
        options={"x265-params": "bframes=0:log-level=error"},
        tag="hvc1",
        least=64,
    ),
    "vp9": Codec("libvpx-vp9", (".webm", ".mkv", ".mp4"), 5, 63, {"b:v": "0"}),
    "av1": Codec(
        "libsvtav1", (".mp4", ".mkv", ".webm"), 8, 63, {"preset": "6"}, fastest=240, least=64
    ),
    "prores": Codec("prores_ks", (".mov", ".mkv"), options={"bits_per_mb": "8000"}, fields=True),
    "ffv1": Codec("ffv1", (".mkv",), options={"level": "3"}),
    "lossless": Codec("libx264", ANY, options={"qp": "0", "bf": "0"}, fields=True),
    "lossless-rgb": Codec("libx264rgb", ANY, options={"qp": "0", "bf": "0"}),
}


@contextlib.contextmanager
def written(part: Path, clip: Clip) -> Iterator:
    """A container to write into, which can hold most of what the clip's says of itself. Raises OSError."""
    suffix = part.suffix.lower()
    flags = {"movflags": movflags(clip.metadata, suffix)} if suffix in MP4 else {}
    if suffix in (".mkv", ".webm"):  # a time before zero would move all others
        flags = {"avoid_negative_ts": "disabled"}
    form = "mp4" if suffix == ".m4v" else None  # FFmpeg takes it for one that holds H.264 alone
    try:
        with av.open(str(part), "w", format=form, options=flags) as out:
            yield out
    except av.FFmpegError as error:
        raise OSError(error.errno, f"could not write {part.name}: {error.strerror}") from error


def write_video(
    part: Path, clip: Clip, frames: Iterable[ndarray | Picture], codec: str, crf: int | None
) -> None:
    """Encode frames with the times, tags and sound of `clip`. codec: as pick_codec has it. Raises OSError."""
    with written(part, clip) as out:
        stream = _video_stream(out, clip, codec, crf)
        attach(out, stream, clip.metadata, clip.start)
        tracks = CopiedTracks(out, clip)
        durations = dict(zip(clip.times, clip.durations, strict=False))
        converter = VideoReformatter()
        for i, frame in enumerate(frames):
            made = frame_of(picture(frame), clip, stream.codec_context.pix_fmt, converter)
            with own_scheduling():  # the first frame opens the encoder
                packets = stream.encode(timed(made, i, clip))
            out.mux(lasting(packets, durations))
            tracks.until(float(clip.times[i] * clip.time_base))
        out.mux(lasting(stream.encode(None), durations))
        tracks.close()


@contextlib.contextmanager
def own_scheduling() -> Iterator[None]:
    """This thread is scheduled afterwards as it was before: SVT-AV1, opened by root, makes the thread that opens it a
    real-time one, which from then on goes before everything else on the machine.
    """
    if sys.platform != "linux":
        yield
        return
    policy, param = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, param)


def _video_stream(out, clip: Clip, codec: str, crf: int | None):
    rate = min(clip.rate, CODECS[codec].fastest)
    stream = out.add_stream(CODECS[codec].encoder, rate=rate)
    context = stream.codec_context
    context.width, context.height = clip.stored_size
    context.pix_fmt = pixel_format(clip, codec)
    context.time_base = stream.time_base = clip.time_base
    tag_colours(context, clip)
    if clip.aspect:
        context.sample_aspect_ratio = clip.aspect
    mark_stream(stream, clip)
    context.options = options_of(codec, crf)
    if CODECS[codec].tag and Path(out.name).suffix.lower() in MP4:
        context.codec_tag = CODECS[codec].tag
    tag_fields(context, clip, codec)
    return stream


def mark_stream(stream, clip: Clip) -> None:
    """Say how the picture is turned to be shown, and which time of day its first frame has."""
    stream.disposition = Disposition.default
    if clip.orientation.matrix:
        stream.set_display_matrix(clip.orientation.matrix)
    if clip.timecode:
        stream.metadata["timecode"] = clip.timecode


def tag_fields(context, clip: Clip, codec: str) -> None:
    """Have interlaced frames coded as what they are."""
    if not (clip.fields and CODECS[codec].fields):
        return
    context.flags |= INTERLACED
    context.field_order = FIELD_ORDERS[clip.fields]
    if CODECS[codec].encoder == "libx264":  # which does not look at the field order
        known = context.options.get("x264-params")
        first = "tff=1" if clip.fields == "top" else "bff=1"
        joined = ":".join(filter(None, (known, first)))
        context.options = dict(context.options) | {"x264-params": joined}


def lasting(packets: list[av.Packet], durations: Mapping[int, int]) -> list[av.Packet]:
    """Packets with their frames' durations, by time: without, the last one's is a guess."""
    for packet in packets:
        packet.duration = durations.get(packet.pts, packet.duration)
    return packets


def tag_colours(context, clip: Clip) -> None:
    has_range = clip.colour.get("range") or clip.pixel_format.startswith("yuvj")
    is_rgb = context.pix_fmt.startswith(("rgb", "gbr"))
    context.color_range = colour_range(clip) if has_range else 0
    context.color_primaries = clip.colour.get("primaries", UNTAGGED)
    context.color_trc = clip.colour.get("trc", UNTAGGED)
    # 0 says RGB, which YUV must not be tagged as.
    context.colorspace = 0 if is_rgb else clip.colour.get("space") or UNTAGGED


def options_of(codec: str, crf: int | None) -> dict[str, str]:
    known = CODECS[codec]
    quality = known.crf if crf is None else crf
    return dict(known.options) | ({} if known.crf is None else {"crf": str(quality)})


def pick_codec(codec: str, suffix: str, clip: Clip) -> str:
    """The codec's name in CODECS: by default H.264 (VP9 in webm); for "lossless", the one that holds the clip's own
    samples. Raises ValueError for one that the file does not take.
    """
    if codec == "auto":
        return "vp9" if suffix == ".webm" else "h264"
    if codec not in CODECS:
        raise UserError(f"no codec is called {codec!r}; there are: auto, {', '.join(CODECS)}")
    chosen = _lossless(clip) if codec == "lossless" else codec
    known = CODECS[chosen]
    if min(clip.size) < known.least:
        raise UserError(f"{codec} takes pictures of {known.least} pixels a side or more")
    if suffix not in known.suffixes:
        what = codec if chosen == codec else f"{codec} of {clip.pixel_format}, which is {chosen},"
        raise UserError(f"{what} is written to {' or '.join(known.suffixes)}, not {suffix}")
    return chosen


def _lossless(clip: Clip) -> str:
    """H.264 where it has the clip's own samples, the same in RGB for eight bits of it, else FFV1."""
    if _own_layout(clip, "lossless"):
        return "lossless"
    return "lossless-rgb" if clip.bits == 8 and not is_yuv(clip.pixel_format) else "ffv1"


def pixel_format(clip: Clip, codec: str) -> str:
    """The source's own layout of samples where the codec has it, else the nearest; full chroma where an odd side allows
    no halving.
    """
    known, own = CODECS[codec].formats, _native(clip)
    if codec in ("ffv1", "lossless") and _own_layout(clip, codec):
        return own
    if codec == "lossless-rgb":
        return "rgb24"
    if not is_yuv(clip.pixel_format) and codec == "ffv1":
        deep = clip.bits > 8
        plain_rgb = "gbrp16le" if deep else "bgr0"
        return "bgra" if clip.opacity and not deep and "bgra" in known else plain_rgb
    opacity = ("a", "") if clip.opacity else ("",)
    depths = (
        ("12le", "10le", "") if clip.bits > 10 else ("10le", "") if clip.bits > 8 else ("", "10le")
    )
    depths = ("16le", *depths) if clip.bits > 12 else depths
    for a, chroma, depth in itertools.product(opacity, _chromas(clip), depths):
        if f"yuv{a}{chroma}p{depth}" in known:
            return f"yuv{a}{chroma}p{depth}"
    raise UserError(f"{codec} does not take pictures of {clip.size[0]}x{clip.size[1]}")


def _native(clip: Clip) -> str:
    """The clip's layout of samples in the order of bytes that encoders take."""
    own = plain(clip.pixel_format)
    return f"{own.removesuffix('be')}le" if own.endswith("be") else own


def _own_layout(clip: Clip, codec: str) -> bool:
    """Whether a codec takes the clip's very samples: planes of their own, and H.264 halves no odd side."""
    own = _native(clip)
    halved = av.VideoFormat(own).chroma_width(2) == 1 or av.VideoFormat(own).chroma_height(2) == 1
    odd = any(side % 2 for side in clip.size)
    return (
        own in CODECS[codec].formats
        and (is_planar(own) or not is_yuv(own))
        and not (codec == "lossless" and halved and odd)
    )


def _chromas(clip: Clip) -> tuple[str, ...]:
    """In the order of what keeps most."""
    width, height = clip.size
    if width % 2 or height % 2:
        return ("444",)
    if not clip.colour or clip.path.suffix.lower() == ".gif":  # no video before: as players like it
        return ("420", "422", "444")
    own = plain(clip.pixel_format)
    shared = subsampling(own)  # not by the name: packed layouts are called vuya, y210, v30x
    if not is_yuv(own) or (has_chroma(own) and shared == (1, 1)):
        return ("444", "422", "420")
    return ("422", "444", "420") if shared == (2, 1) else ("420", "422", "444")


def timed(frame: av.VideoFrame, index: int, clip: Clip) -> av.VideoFrame:
    frame.pts = clip.times[index]
    frame.time_base = clip.time_base
    if clip.durations:
        frame.duration = clip.durations[index]
    return frame
