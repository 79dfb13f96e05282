"""Stream the frames of a clip in, with PyAV: video files, GIFs, image folders and single images."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from ..errors import UserError
from . import images, opacity

SCALING = (
    Interpolation.LANCZOS
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
UNTAGGED = 2
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}


@dataclass(frozen=True)
class Clip:
    """What is known of a clip after it was read once from end to end."""

    path: Path
    size: tuple[int, int]  # width, height, as displayed
    rate: Fraction  # average frames per second
    time_base: Fraction
    times: tuple[int, ...]  # presentation time of each frame, in time_base
    durations: tuple[int, ...] = ()
    rotation: int = 0  # degrees counter-clockwise, as tagged
    bits: int = 8
    pixel_format: str = "rgb24"
    # range, primaries, trc, space: the numbers of ISO/IEC 23091-2
    colour: dict[str, int] = field(default_factory=dict)
    aspect: Fraction | None = None  # of a pixel
    audio: int = 0
    files: tuple[Path, ...] = ()  # of an image folder
    opacity: bool = False  # whether some of it is seen through
    fields: str = ""  # of interlaced frames, which field is first: top or bottom
    notes: tuple[str, ...] = ()
    # on request: what lies behind a picture that is seen through, and whether fields become frames
    background: tuple[int, int, int] | None = None
    deinterlaced: bool = False

    @property
    def frames(self) -> int:
        return len(self.times)

    @property
    def stored_size(self) -> tuple[int, int]:
        """Before the rotation."""
        return self.size[::-1] if self.rotation % 180 else self.size

    @property
    def variable(self) -> bool:
        return len({b - a for a, b in itertools.pairwise(self.times)}) > 1


# What is opened: files on this machine, of kinds that hold their own picture. A playlist, a list of parts or a script
# would have FFmpeg open whatever it names.
_KINDS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,"
    "flv,asf,ogg,mxf,nut,dv,rm,yuv4mpegpipe,webp_pipe,png_pipe,jpeg_pipe,bmp_pipe,tiff_pipe"
)
_LOCAL = {"protocol_whitelist": "file", "format_whitelist": _KINDS}


def container_of(path: Path):
    """With its protocol said, a name with a colon in it is a name."""
    return av.open(f"file:{path.absolute()}", container_options=_LOCAL)


@contextlib.contextmanager
def opened(path: Path) -> Iterator:
    """A PyAV container with a picture. Raises ValueError for a file that is none."""
    try:
        container = container_of(path)
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or error
        raise UserError(f"{path} is not a video that can be read: {reason}") from error
    with container:
        if not container.streams.video:
            raise UserError(f"{path} has no video track")
        if any(track.codec_context is None for track in container.streams.video):
            raise UserError(f"{path} has a picture in a codec that nobody knows")
        yield container


def pictures(container, stream, path: Path) -> Iterator[av.VideoFrame]:
    """Decode a video. Raises ValueError where it is damaged."""
    stream.thread_type = "AUTO"
    count = 0
    try:
        for frame in _with_opacity(container, stream) or container.decode(stream):
            yield frame
            count += 1
    except av.FFmpegError as error:
        raise UserError(f"{path} is damaged after frame {count}: {error.strerror}") from error


def _with_opacity(container, stream) -> Iterator[av.VideoFrame] | None:
    """Of a track whose opacity lies beside it (WebM), which FFmpeg's own decoder passes over; None for others."""
    other = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if other is None or stream.metadata.get("alpha_mode") != "1":
        return None
    decoder = av.CodecContext.create(other, "r")
    packets = (packet if packet.size else None for packet in container.demux(stream))
    return itertools.chain.from_iterable(map(decoder.decode, packets))


def treated(clip: Clip, deinterlace: bool, background: str | None) -> Clip:
    """A clip whose fields become frames, and which is laid over a colour, as far as it has any of that."""
    behind = opacity.colour(background) if background is not None else None
    if clip.opacity and behind:
        clip = replace(clip, background=behind, opacity=False)
    if clip.fields and deinterlace:
        clip = replace(clip, deinterlaced=True, fields="")
    return clip


def read(clip: Clip) -> Iterator[np.ndarray]:
    """The clip's frames in order, upright."""
    converter = VideoReformatter()  # one for all frames: making it takes longer than a small frame
    return (upright(frame, clip, converter) for frame in stored(clip))


def stored(clip: Clip) -> Iterator[av.VideoFrame | np.ndarray]:
    """The frames in order as they lie in the file: of a video in its own samples, of images as arrays."""
    if clip.files:
        yield from (_image(file, clip) for file in clip.files)
        return
    with opened(clip.path) as container:
        stream = container.streams.best("video")
        frames = pictures(container, stream, clip.path)
        yield from _deinterlaced(frames, stream) if clip.deinterlaced else frames


def _image(file: Path, clip: Clip) -> np.ndarray:
    array, alpha = images.read(file), opacity.of_image(file) if clip.background else None
    if alpha is None:
        return array
    return opacity.over(np.dstack((array, alpha)), clip.background)


def _deinterlaced(frames: Iterator[av.VideoFrame], stream) -> Iterator[av.VideoFrame]:
    """One frame for each, both of its fields from the same moment (FFmpeg's bwdif)."""
    graph = av.filter.Graph()
    ends = graph.add_buffer(template=stream), graph.add("bwdif", "mode=send_frame")
    graph.link_nodes(*ends, graph.add("buffersink")).configure()
    for frame in itertools.chain(frames, [None]):
        graph.push(frame)
        with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                yield graph.pull()


def upright(
    frame: av.VideoFrame | np.ndarray, clip: Clip, converter: VideoReformatter
) -> np.ndarray:
    """A frame as it is shown, H W 3 in RGB."""
    if isinstance(frame, np.ndarray):
        return frame
    layout = "rgb24" if clip.bits == 8 else "rgb48le"
    if clip.background:
        layout = "rgba" if clip.bits == 8 else "rgba64le"
    rgb = converter.reformat(
        frame,
        format=layout,
        src_colorspace=matrix(clip),
        src_color_range=colour_range(clip),
        interpolation=SCALING,
    )
    array = rgb.to_ndarray()
    if clip.background:
        array = opacity.over(array, clip.background)
    return np.ascontiguousarray(np.rot90(array, clip.rotation // 90))


def matrix(clip: Clip) -> Colorspace:
    """The tagged YUV matrix; where there is no tag, the usual one of the size, the same on the way in and out."""
    tagged = clip.colour.get("space", UNTAGGED)
    if tagged in (0, UNTAGGED):
        return Colorspace.ITU709 if max(clip.size) >= 1280 else Colorspace.ITU601
    return _MATRICES.get(tagged, Colorspace.ITU601)


def colour_range(clip: Clip) -> int:
    """1 narrow, 2 full."""
    if clip.pixel_format.startswith("yuvj"):
        return 2
    return clip.colour.get("range") or 1
