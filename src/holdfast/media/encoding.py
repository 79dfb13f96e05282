"""Encode frames as a video file with PyAV: a stream with the source's tags, its frames, and its sound beside them."""

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy import ndarray

from .reading import SCALING, UNTAGGED, Clip, colour_range, matrix

ROTATES = {".mp4", ".mov", ".m4v"}  # containers that carry a rotation tag
CODECS = {
    "h264": "libx264",
    "h265": "libx265",
    "vp9": "libvpx-vp9",
    "ffv1": "ffv1",
    "lossless": "libx264rgb",
}
CRF = {"h264": 15, "h265": 18, "vp9": 20}  # visually lossless
# No B-frames: with them the last packet is not the last frame, and the container's duration and rate drift from
# the source's.
_LOSSY = {
    "h264": {"bf": "0", "preset": "medium"},
    "h265": {"x265-params": "bframes=0:log-level=error"},
    "vp9": {"b:v": "0"},
}


def write_video(
    part: Path, clip: Clip, frames: Iterable[ndarray], codec: str, crf: int | None
) -> None:
    """Encode upright frames with the times, tags and sound of `clip`. codec: of CODECS. Raises OSError."""
    flags = {"movflags": "+faststart"} if part.suffix in ROTATES else {}
    keep_rotation = part.suffix.lower() in ROTATES
    turn = clip.rotation // 90 if keep_rotation else 0
    try:
        with av.open(str(part), "w", options=flags) as out:
            stream = _video_stream(out, clip, codec, crf, keep_rotation)
            sound = _Sound(out, clip) if clip.audio else None
            converter = VideoReformatter()
            for i, frame in enumerate(frames):
                turned = np.rot90(frame, -turn)
                picture = _converted(turned, clip, stream.codec_context.pix_fmt, converter)
                out.mux(stream.encode(_timed(picture, i, clip)))
                if sound:
                    sound.until(float(clip.times[i] * clip.time_base))
            out.mux(stream.encode(None))
            if sound:
                sound.until(float("inf"))
                sound.close()
    except av.FFmpegError as error:
        raise OSError(error.errno, f"could not write {part.name}: {error.strerror}") from error


def _video_stream(out, clip: Clip, codec: str, crf: int | None, keep_rotation: bool):
    stream = out.add_stream(CODECS[codec], rate=clip.rate)
    context = stream.codec_context
    sideways = bool(clip.rotation % 180)
    context.width, context.height = clip.size[::-1] if sideways and keep_rotation else clip.size
    context.pix_fmt = _pixel_format(clip, codec)
    context.time_base = stream.time_base = clip.time_base
    _tag_colours(context, clip)
    if clip.aspect:
        turned_by_us = sideways and not keep_rotation
        context.sample_aspect_ratio = 1 / clip.aspect if turned_by_us else clip.aspect
    if keep_rotation and clip.rotation:
        stream.set_display_rotation(clip.rotation)
    context.options = _options(codec, crf)
    return stream


def _tag_colours(context, clip: Clip) -> None:
    has_range = clip.colour.get("range") or clip.pixel_format.startswith("yuvj")
    is_rgb = context.pix_fmt.startswith(("rgb", "gbr"))
    context.color_range = colour_range(clip) if has_range else 0
    context.color_primaries = clip.colour.get("primaries", UNTAGGED)
    context.color_trc = clip.colour.get("trc", UNTAGGED)
    # 0 says RGB, which YUV must not be tagged as.
    context.colorspace = 0 if is_rgb else clip.colour.get("space") or UNTAGGED


def _options(codec: str, crf: int | None) -> dict[str, str]:
    if codec == "ffv1":
        return {"level": "3"}
    if codec == "lossless":
        return {"qp": "0", "bf": "0"}
    quality = CRF[codec] if crf is None else crf
    return {"crf": str(quality)} | _LOSSY[codec]


def _pixel_format(clip: Clip, codec: str) -> str:
    """The source's chroma and depth where the codec has them; full chroma where an odd side allows no halving."""
    if codec == "lossless":
        return "rgb24"
    if codec == "ffv1":
        return "bgr0" if clip.bits == 8 else "gbrp16le"
    depth = "10le" if clip.bits > 8 else ""
    return f"yuv{_chroma(clip)}p{depth}"


def _chroma(clip: Clip) -> str:
    width, height = clip.size
    if width % 2 or height % 2:
        return "444"
    if not clip.colour or clip.path.suffix.lower() == ".gif":  # no video before: as players like it
        return "420"
    for known in ("444", "422"):
        if known in clip.pixel_format:
            return known
    return "444" if clip.pixel_format.startswith(("gbr", "rgb", "bgr", "pal")) else "420"


def _converted(
    array: ndarray, clip: Clip, target: str, converter: VideoReformatter
) -> av.VideoFrame:
    """A frame in the stream's pixel format."""
    layout = "rgb24" if array.dtype == np.uint8 else "rgb48le"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), layout)
    if not target.startswith("yuv"):
        return converter.reformat(frame, format=target, interpolation=SCALING)
    space = matrix(clip)
    return converter.reformat(
        frame,
        format=target,
        src_colorspace=space,
        dst_colorspace=space,
        dst_color_range=colour_range(clip),
        interpolation=SCALING,
    )


def _timed(frame: av.VideoFrame, index: int, clip: Clip) -> av.VideoFrame:
    frame.pts = clip.times[index]
    frame.time_base = clip.time_base
    if clip.durations:
        frame.duration = clip.durations[index]
    return frame


def sound_streams(out, source) -> dict:
    """The source's audio tracks in another container, by the source's index, with their language and titles.

    Raises ValueError where the container cannot hold them.
    """
    streams = {}
    for track in source.streams.audio:
        try:
            stream = out.add_stream_from_template(track)
        except ValueError as error:
            raise ValueError(
                f"this container cannot hold the source's audio ({track.codec_context.name}); "
                "write .mkv or the source's own kind"
            ) from error
        stream.metadata.update(track.metadata)
        stream.disposition = track.disposition
        streams[track.index] = stream
    return streams


class _Sound:
    """Copies the audio tracks of a clip, packet by packet, in step with the picture."""

    def __init__(self, out, clip: Clip):
        self.out = out
        self.source = av.open(str(clip.path))
        self.streams = sound_streams(out, self.source)
        self.packets = self.source.demux(*self.source.streams.audio)
        self.waiting = None

    def until(self, seconds: float) -> None:
        while True:
            packet = self.waiting or next(self.packets, None)
            self.waiting = None
            if packet is None:
                return
            if packet.dts is None:  # the end mark of a track
                continue
            if float(packet.dts * packet.time_base) > seconds:
                self.waiting = packet
                return
            packet.stream = self.streams[packet.stream.index]
            self.out.mux(packet)

    def close(self) -> None:
        self.source.close()
