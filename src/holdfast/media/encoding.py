"""Encode frames as a video file with PyAV: a stream with the source's tags, its frames, and its other tracks."""

import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from numpy import ndarray

from ..base.errors import UserError
from .colour_matrices import UNTAGGED
from .copying import TrackCopier
from .metadata import mov_flags, write_metadata
from .reading import Clip, colour_range
from .samples import (
    OutputFrame,
    as_output_frame,
    has_chroma,
    is_planar,
    is_yuv,
    strip_range_prefix,
    subsampling,
    to_video_frame,
)

MP4, MP4_OR_MKV = (".mp4", ".m4v", ".mov"), (".mp4", ".m4v", ".mov", ".mkv")
INTERLACED_FLAGS = 1 << 18 | 1 << 29  # FFmpeg's flags: interlaced transform and motion
FIELD_ORDERS = {"top": 2, "bottom": 3}


@dataclass(frozen=True)
class Codec:
    """A way to encode a video.

    encoder: FFmpeg's name. suffixes: of the files that take it.
    crf: its default quality from 0 to worst_crf; None where it has no such setting.
    tag: of MP4's sample entry, where fewer players accept FFmpeg's own choice.
    max_rate: the largest rate it accepts, in frames per second; packets keep their own times.
    min_side: the smallest side in pixels. Below it x265 writes outside its memory, and SVT-AV1 refuses.
    """

    encoder: str
    suffixes: tuple[str, ...]
    crf: int | None = None
    worst_crf: int = 51
    options: Mapping[str, str] = field(default_factory=dict)
    supports_interlaced: bool = False
    tag: str = ""
    max_rate: int = 1000
    min_side: int = 1

    @property
    def formats(self) -> frozenset[str]:
        """Return the names of the pixel formats that the encoder takes."""
        return frozenset(f.name for f in av.Codec(self.encoder, "w").video_formats or ())


# At the default quality every codec keeps at least 50 dB of luma outside an edit on every clip tried (docs/kept.md).
# No B-frames: with them the last packet is not the last frame, and the container's duration and rate drift from
# the source's.
CODECS = {
    "h264": Codec(
        "libx264",
        MP4_OR_MKV,
        8,
        options={"bf": "0", "preset": "medium"},
        supports_interlaced=True,
    ),
    "h265": Codec(
        "libx265",
        MP4_OR_MKV,
        5,
        options={"x265-params": "bframes=0:log-level=error"},
        tag="hvc1",
        min_side=64,
    ),
    "vp9": Codec("libvpx-vp9", (".webm", ".mkv", ".mp4"), 5, 63, {"b:v": "0"}),
    "av1": Codec(
        "libsvtav1", (".mp4", ".mkv", ".webm"), 8, 63, {"preset": "6"}, max_rate=240, min_side=64
    ),
    "prores": Codec(
        "prores_ks", (".mov", ".mkv"), options={"bits_per_mb": "8000"}, supports_interlaced=True
    ),
    "ffv1": Codec("ffv1", (".mkv",), options={"level": "3"}),
    "lossless": Codec(
        "libx264", MP4_OR_MKV, options={"qp": "0", "bf": "0"}, supports_interlaced=True
    ),
    "lossless-rgb": Codec("libx264rgb", MP4_OR_MKV, options={"qp": "0", "bf": "0"}),
}


@contextlib.contextmanager
def open_output(part: Path, clip: Clip) -> Iterator[OutputContainer]:
    """Open a container to write into, with flags that keep the most of the clip's metadata.

    Raise OSError where FFmpeg cannot write.
    """
    suffix = part.suffix.lower()
    flags = {"movflags": mov_flags(clip.metadata, suffix)} if suffix in MP4 else {}
    if suffix in (".mkv", ".webm"):  # otherwise a time before zero would shift all others
        flags = {"avoid_negative_ts": "disabled"}
    form = "mp4" if suffix == ".m4v" else None  # FFmpeg's own .m4v holds only an elementary stream
    try:
        with av.open(str(part), "w", format=form, options=flags) as out:
            yield out
    except FFmpegError as error:
        raise OSError(error.errno, f"could not write {part.name}: {error.strerror}") from error


def write_video(
    part: Path, clip: Clip, frames: Iterable[ndarray | OutputFrame], codec: str, crf: int | None
) -> None:
    """Encode frames with the times, tags and audio of `clip`. codec: a name of CODECS. Raise OSError."""
    with open_output(part, clip) as out:
        stream = _add_video_stream(out, clip, codec, crf)
        write_metadata(out, stream, clip.metadata, clip.time_offset)
        tracks = TrackCopier(out, clip)
        durations = dict(zip(clip.times, clip.durations, strict=False))
        converter, layout = VideoReformatter(), pick_pixel_format(clip, codec)
        for i, frame in enumerate(frames):
            converted = to_video_frame(as_output_frame(frame), clip, layout, converter)
            with preserve_scheduler():  # the first frame opens the encoder
                packets = stream.encode(set_frame_time(converted, i, clip))
            out.mux(set_durations(packets, durations))
            tracks.copy_until(float(clip.times[i] * clip.time_base))
        out.mux(set_durations(stream.encode(None), durations))
        tracks.close()


@contextlib.contextmanager
def preserve_scheduler() -> Iterator[None]:
    """Restore this thread's scheduling policy after the block.

    SVT-AV1, opened by root, turns the thread that opens it into a real-time thread, which then takes precedence over
    everything else on the machine.
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


def _add_video_stream(
    out: OutputContainer, clip: Clip, codec: str, crf: int | None
) -> av.VideoStream:
    rate = min(clip.rate, Fraction(CODECS[codec].max_rate))
    stream = out.add_stream(CODECS[codec].encoder, rate=rate)
    assert isinstance(stream, av.VideoStream)
    context = stream.codec_context
    context.width, context.height = clip.stored_size
    context.pix_fmt = pick_pixel_format(clip, codec)
    context.time_base = stream.time_base = clip.time_base
    tag_colours(context, clip)
    if clip.pixel_aspect:
        context.sample_aspect_ratio = clip.pixel_aspect
    tag_stream(stream, clip)
    context.options = encoder_options(codec, crf)
    if CODECS[codec].tag and Path(out.name).suffix.lower() in MP4:
        context.codec_tag = CODECS[codec].tag
    tag_interlacing(context, clip, codec)
    return stream


def tag_stream(stream: av.VideoStream, clip: Clip) -> None:
    """Write the clip's display matrix and its timecode to a stream."""
    stream.disposition = Disposition.default
    if clip.orientation.matrix:
        stream.set_display_matrix(clip.orientation.matrix)
    if clip.timecode:
        stream.metadata["timecode"] = clip.timecode


def tag_interlacing(context: av.VideoCodecContext, clip: Clip, codec: str) -> None:
    """Make the encoder code interlaced frames as fields."""
    if not (clip.field_order and CODECS[codec].supports_interlaced):
        return
    context.flags |= INTERLACED_FLAGS
    context.field_order = FIELD_ORDERS[clip.field_order]
    if CODECS[codec].encoder == "libx264":  # which ignores the field order
        params = context.options.get("x264-params")
        first = "tff=1" if clip.field_order == "top" else "bff=1"
        joined = ":".join(filter(None, (params, first)))
        context.options = dict(context.options) | {"x264-params": joined}


def set_durations(
    packets: Sequence[av.Packet], durations: Mapping[int, int]
) -> Sequence[av.Packet]:
    """Give packets their frames' durations, by time. Otherwise the last packet's duration is a guess."""
    for packet in packets:
        if packet.pts is not None and packet.pts in durations:
            packet.duration = durations[packet.pts]
    return packets


def tag_colours(context: av.VideoCodecContext, clip: Clip) -> None:
    """Write the clip's colour tags and range to an encoder."""
    has_range = clip.colour.get("range") or clip.pixel_format.startswith("yuvj")
    is_rgb = (context.pix_fmt or "").startswith(("rgb", "gbr"))
    context.color_range = colour_range(clip) if has_range else 0
    context.color_primaries = clip.colour.get("primaries", UNTAGGED)
    context.color_trc = clip.colour.get("trc", UNTAGGED)
    # 0 means RGB, which YUV must not be tagged as.
    context.colorspace = 0 if is_rgb else clip.colour.get("space") or UNTAGGED


def encoder_options(codec: str, crf: int | None) -> dict[str, str]:
    """Return FFmpeg's options for a codec at a quality; by default the codec's own."""
    chosen = CODECS[codec]
    quality = chosen.crf if crf is None else crf
    return dict(chosen.options) | ({} if chosen.crf is None else {"crf": str(quality)})


def pick_codec(codec: str, suffix: str, clip: Clip) -> str:
    """Return the name of CODECS that a setting selects for a clip.

    "auto" is H.264 (VP9 in webm); "lossless" is the codec that keeps the clip's own samples. Raise UserError for a
    codec that the file cannot hold.
    """
    if codec == "auto":
        return "vp9" if suffix == ".webm" else "h264"
    if codec not in CODECS:
        raise UserError(f"unknown codec {codec!r}", f"choose one of auto, {', '.join(CODECS)}")
    name = _pick_lossless(clip) if codec == "lossless" else codec
    chosen = CODECS[name]
    if min(clip.size) < chosen.min_side:
        raise UserError(
            f"{codec} cannot encode {clip.size[0]}x{clip.size[1]}: it needs {chosen.min_side} pixels "
            "a side or more",
            "choose another codec",
        )
    if suffix not in chosen.suffixes:
        what = codec if name == codec else f"{codec} (here {name}, for {clip.pixel_format})"
        raise UserError(f"{suffix} cannot hold {what}", f"write {' or '.join(chosen.suffixes)}")
    return name


def _pick_lossless(clip: Clip) -> str:
    """Return H.264 where it has the clip's own samples, H.264 in RGB for 8-bit RGB, otherwise FFV1."""
    if _keeps_layout(clip, "lossless"):
        return "lossless"
    return "lossless-rgb" if clip.bits == 8 and not is_yuv(clip.pixel_format) else "ffv1"


def pick_pixel_format(clip: Clip, codec: str) -> str:
    """Return the clip's own pixel format where the codec has it, otherwise the nearest.

    Chroma is not subsampled where a side is odd. Raise UserError where no format fits.
    """
    formats = CODECS[codec].formats
    if codec in ("ffv1", "lossless") and _keeps_layout(clip, codec):
        return _native_layout(clip)
    if codec == "lossless-rgb":
        return "rgb24"
    if not is_yuv(clip.pixel_format) and codec == "ffv1":
        is_deep = clip.bits > 8
        opaque = "gbrp16le" if is_deep else "bgr0"
        return "bgra" if clip.has_transparency and not is_deep and "bgra" in formats else opaque
    alphas = ("a", "") if clip.has_transparency else ("",)
    for a, chroma, depth in itertools.product(alphas, _preferred_chroma(clip), _depths(clip.bits)):
        if f"yuv{a}{chroma}p{depth}" in formats:
            return f"yuv{a}{chroma}p{depth}"
    raise UserError(f"{codec} cannot encode {clip.size[0]}x{clip.size[1]}", "choose another codec")


def _depths(bits: int) -> tuple[str, ...]:
    """Return the endings of pixel formats for a depth, the best first."""
    if bits > 12:
        return ("16le", "12le", "10le", "")
    if bits > 10:
        return ("12le", "10le", "")
    return ("10le", "") if bits > 8 else ("", "10le")


def _native_layout(clip: Clip) -> str:
    """Return the clip's pixel format in the byte order that encoders take."""
    own = strip_range_prefix(clip.pixel_format)
    return f"{own.removesuffix('be')}le" if own.endswith("be") else own


def _keeps_layout(clip: Clip, codec: str) -> bool:
    """Return whether a codec takes the clip's own samples. They must be planar, and H.264 cannot halve an odd side."""
    own = _native_layout(clip)
    layout = av.VideoFormat(own)
    halves = layout.chroma_width(2) == 1 or layout.chroma_height(2) == 1
    odd = any(side % 2 for side in clip.size)
    return (
        own in CODECS[codec].formats
        and (is_planar(own) or not is_yuv(own))
        and not (codec == "lossless" and halves and odd)
    )


def _preferred_chroma(clip: Clip) -> tuple[str, ...]:
    """Return the subsamplings of chroma to try, the one that keeps most first."""
    width, height = clip.size
    if width % 2 or height % 2:
        return ("444",)
    if (
        not clip.colour or clip.path.suffix.lower() == ".gif"
    ):  # not a video before: as players expect
        return ("420", "422", "444")
    own = strip_range_prefix(clip.pixel_format)
    factors = subsampling(own)  # not from the name: packed layouts are called vuya, y210, v30x
    if not is_yuv(own) or (has_chroma(own) and factors == (1, 1)):
        return ("444", "422", "420")
    return ("422", "444", "420") if factors == (2, 1) else ("420", "422", "444")


def set_frame_time(frame: av.VideoFrame, index: int, clip: Clip) -> av.VideoFrame:
    """Give a frame its presentation time and duration in the clip."""
    frame.pts = clip.times[index]
    frame.time_base = clip.time_base
    if clip.durations:
        frame.duration = clip.durations[index]
    return frame
