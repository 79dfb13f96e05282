"""Stream the frames of a clip in: video files and GIFs with PyAV, animated pictures, image folders, single images."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from ..base.errors import UserError
from . import animations, images, opacity, sizes
from .matrices import matrix_of
from .metadata import Metadata
from .orientation import Orientation
from .tracks import Track

SCALING = (
    Interpolation.LANCZOS
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
STILL = Disposition.attached_pic | Disposition.timed_thumbnails


@dataclass(frozen=True)
class Clip:
    """What is known of a clip after it was read once from end to end."""

    path: Path
    size: tuple[int, int]  # width, height, as displayed
    rate: Fraction  # average frames per second
    time_base: Fraction
    times: tuple[int, ...]  # presentation time of each frame, in time_base
    durations: tuple[int, ...] = ()
    orientation: Orientation = Orientation()
    bits: int = 8
    pixel_format: str = "rgb24"
    # range, primaries, trc, space: the numbers of ISO/IEC 23091-2
    colour: dict[str, int] = field(default_factory=dict)
    aspect: Fraction | None = None  # of a pixel
    audio: int = 0  # tracks of it
    tracks: tuple[Track, ...] = ()  # all that a file holds next to the picture
    timecode: str = ""  # of its first frame
    cautions: tuple[str, ...] = ()  # what a user should know before any work
    start: Fraction = Fraction(0)  # seconds that were taken from all times of the file
    joins: tuple[Fraction, ...] = ()  # seconds by which each recording but the first is moved
    is_retimed: bool = False  # whether times are not the file's own, which could not be right
    resizes: bool = False  # whether frames of other sizes or layouts are fitted to this one
    is_animation: bool = False  # an animated picture, not a video
    files: tuple[Path, ...] = ()  # of an image folder
    opacity: bool = False  # whether some of it is seen through
    fields: str = ""  # of interlaced frames, which field is first: top or bottom
    notes: tuple[str, ...] = ()
    # on request: what lies behind a picture that is seen through, and whether fields become frames
    background: tuple[int, int, int] | None = None
    deinterlaced: bool = False
    metadata: Metadata = Metadata()  # title, time, place, chapters
    cautions: tuple[str, ...] = ()  # what a user should know before any work
    profiles: tuple[str, ...] = ()  # what the ICC profiles of images call themselves, without sRGB
    has_exif: bool = False  # whether images hold what a camera wrote

    @property
    def frames(self) -> int:
        return len(self.times)

    @property
    def stored_size(self) -> tuple[int, int]:
        """Before it is turned."""
        return self.size[::-1] if self.orientation.swaps_sides else self.size

    @property
    def is_as_stored(self) -> bool:
        """Whether its frames and their times are those of the file's packets."""
        changed = self.start or self.is_retimed or self.resizes
        return not (self.files or self.is_animation or changed)

    @property
    def rotation(self) -> int:
        """Degrees counter-clockwise by which the picture is turned to be shown, before it is mirrored."""
        return 90 * self.orientation.quarters

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
    # Tags that are not UTF-8 are read with a mark in place of what cannot be read, which `probe` tells the user.
    return av.open(f"file:{path.absolute()}", container_options=_LOCAL, metadata_errors="replace")


def is_moving(stream) -> bool:
    """Whether a video track is more than a picture on a cover or a thumbnail."""
    return not stream.disposition & STILL


def picture_of(container):
    """The video track that is the clip: the one that is meant to be shown first, then the largest."""
    moving = [s for s in container.streams.video if is_moving(s)]
    return max(
        moving, key=lambda s: (bool(s.disposition & Disposition.default), _area(s), -s.index)
    )


def _area(stream) -> int:
    context = stream.codec_context
    return context.width * context.height if context else 0


@contextlib.contextmanager
def opened(path: Path) -> Iterator:
    """A PyAV container with a picture. Raises ValueError for a file that is none."""
    try:
        container = container_of(path)
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or error
        raise UserError(f"{path} is not a video that can be read: {reason}") from error
    with container:
        if not any(map(is_moving, container.streams.video)):
            pictured = " but a picture on its cover" if container.streams.video else ""
            raise UserError(f"{path} has no video track{pictured}")
        if picture_of(container).codec_context is None:
            raise UserError(f"{path} has a picture in a codec that nobody knows")
        yield container


def pictures(
    container, stream, path: Path, watch: Callable[[av.Packet], None] | None = None
) -> Iterator[av.VideoFrame]:
    """Decode a video. Raises ValueError where it is damaged. watch: is shown each packet before it is decoded."""
    stream.thread_type = "AUTO"
    count, decode = 0, _decoder_of(stream)
    try:
        for packet in container.demux(stream):
            is_end = packet.dts is None and not packet.size
            if watch and not is_end:
                watch(packet)
            if packet.size or is_end:  # an empty one is a frame that was dropped, not the end
                for frame in decode(packet):
                    yield frame
                    count += 1
    except av.FFmpegError as error:
        raise UserError(f"{path} is damaged after frame {count}: {error.strerror}") from error


def _decoder_of(stream) -> Callable[[av.Packet], list[av.VideoFrame]]:
    """FFmpeg's own decoder passes over an opacity that has a track of its own (WebM); libvpx's does not."""
    other = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if other is None or stream.metadata.get("alpha_mode") != "1":
        return av.Packet.decode
    decoder = av.CodecContext.create(other, "r")
    return lambda packet: decoder.decode(packet if packet.size else None)


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


def read_layers(clip: Clip) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """The frames in order, upright, each with its opacity, H W 3 and H W; None where a frame is solid."""
    converter = VideoReformatter()
    if clip.files:
        yield from (_image_layers(file, clip) for file in clip.files)
    elif not clip.opacity:
        yield from ((frame, None) for frame in read(clip))
    else:
        for frame in stored(clip):
            array = _upright_samples(frame, clip, converter, "rgba")
            yield array[..., :3], array[..., 3]


def stored(clip: Clip) -> Iterator[av.VideoFrame | np.ndarray]:
    """The frames in order as they lie in the file: of a video in its own samples, of images as arrays."""
    if clip.files:
        yield from (_image(file, clip) for file in clip.files)
        return
    if clip.is_animation:
        yield from animations.read(clip.path, clip.pixel_format == "rgba")
        return
    with opened(clip.path) as container:
        stream = picture_of(container)
        frames = pictures(container, stream, clip.path)
        if clip.resizes:
            frames = sizes.unify(frames, clip.stored_size, clip.pixel_format)
        yield from _deinterlaced(frames, clip) if clip.deinterlaced else frames


def _image(file: Path, clip: Clip) -> np.ndarray:
    array, alpha = _image_layers(file, clip)
    if clip.background and alpha is not None:
        return opacity.over(np.dstack((array, alpha)), clip.background)
    return array


def _image_layers(file: Path, clip: Clip) -> tuple[np.ndarray, np.ndarray | None]:
    """An image and its opacity at the depth of the clip, whose images may differ in it."""
    array, alpha = images.read_layers(file)
    if clip.bits == 8:
        return array, alpha
    return images.sixteen_bits(array), None if alpha is None else images.sixteen_bits(alpha)


def _deinterlaced(frames: Iterator[av.VideoFrame], clip: Clip) -> Iterator[av.VideoFrame]:
    """One frame for each, both of its fields from the same moment (FFmpeg's bwdif)."""
    graph = av.filter.Graph()
    buffer = sizes.add_buffer(graph, clip.stored_size, clip.pixel_format, clip.time_base)
    ends = buffer, graph.add("bwdif", "mode=send_frame")
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
    array = _upright_samples(frame, clip, converter, "rgba" if clip.background else "rgb")
    return opacity.over(array, clip.background) if clip.background else array


def _upright_samples(
    frame: av.VideoFrame, clip: Clip, converter: VideoReformatter, channels: str
) -> np.ndarray:
    """A video's frame as it is shown, H W 3 ("rgb") or H W 4 ("rgba")."""
    shallow = {"rgb": "rgb24", "rgba": "rgba"}
    layout = shallow[channels] if clip.bits == 8 else f"{channels}{16 * len(channels)}le"
    rgb = converter.reformat(
        frame,
        format=layout,
        src_colorspace=matrix(clip),
        src_color_range=colour_range(clip),
        interpolation=SCALING,
    )
    array = rgb.to_ndarray()
    return np.ascontiguousarray(clip.orientation.turn(array))


def matrix(clip: Clip) -> Colorspace:
    """The tagged YUV matrix; where there is no tag, the usual one of the size, the same on the way in and out."""
    usual = Colorspace.ITU709 if max(clip.size) >= 1280 else Colorspace.ITU601
    return matrix_of(clip.colour) or usual


def colour_range(clip: Clip) -> int:
    """1 narrow, 2 full."""
    if clip.pixel_format.startswith("yuvj"):
        return 2
    return clip.colour.get("range") or 1
