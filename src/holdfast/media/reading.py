"""Stream the frames of a clip: video files and GIFs with PyAV, animated pictures, image folders, single images."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.error import BlockingIOError as AgainError
from av.error import EOFError as EndError
from av.error import FFmpegError
from av.filter import Graph
from av.stream import Disposition, Stream
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from ..base.errors import UserError
from . import animations, frame_shapes, images, transparency
from .colour_matrices import tagged_matrix
from .metadata import Metadata
from .orientation import Orientation
from .tracks import Track

VideoPacket: TypeAlias = "av.Packet[av.VideoStream]"  # PyAV's class is generic only in its stubs

SCALING = (
    Interpolation.LANCZOS
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
STILL_DISPOSITIONS = Disposition.attached_pic | Disposition.timed_thumbnails


@dataclass(frozen=True)
class Sampling:
    """Which frames of a source a clip has.

    frames: their numbers. part: the frames that they were chosen from. source_frames: how many the source has.
    """

    frames: tuple[int, ...]
    part: range
    source_frames: int


@dataclass(frozen=True)
class Clip:
    """A clip as `probe` describes it after reading the file once from end to end."""

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
    pixel_aspect: Fraction | None = None
    audio_tracks: int = 0
    tracks: tuple[Track, ...] = ()  # all tracks except the video
    timecode: str = ""  # of the first frame
    time_offset: Fraction = Fraction(0)  # seconds subtracted from all times of the file
    join_offsets: tuple[Fraction, ...] = ()  # seconds by which each recording but the first moved
    is_retimed: bool = False  # the file's own times were wrong and have been repaired
    changes_shape: bool = False  # frames of other sizes or layouts are fitted to this one
    is_animation: bool = False  # an animated picture, not a video
    files: tuple[Path, ...] = ()  # of an image folder
    has_transparency: bool = False
    field_order: str = ""  # of interlaced frames, which field is first: top or bottom
    notes: tuple[str, ...] = ()  # unusual properties, for the manifest
    cautions: tuple[str, ...] = ()  # what a user should know before any work
    # on request: the colour behind transparent frames, and whether fields become frames
    background: tuple[int, int, int] | None = None
    is_deinterlaced: bool = False
    metadata: Metadata = Metadata()  # title, time, place, chapters
    profile_names: tuple[str, ...] = ()  # of the images' ICC profiles, except sRGB
    has_exif: bool = False  # images hold EXIF data
    sampling: Sampling | None = None  # of a clip that has only some frames of its files

    @property
    def frames(self) -> int:
        """Return the number of frames."""
        return len(self.times)

    @property
    def stored_size(self) -> tuple[int, int]:
        """Return width and height before rotation."""
        width, height = self.size
        return (height, width) if self.orientation.swaps_sides else (width, height)

    @property
    def rotation(self) -> int:
        """Return the degrees counter-clockwise by which the picture is rotated for display, before it is mirrored."""
        return 90 * self.orientation.quarter_turns

    @property
    def has_variable_rate(self) -> bool:
        return len({b - a for a, b in itertools.pairwise(self.times)}) > 1


# Only local files in formats that contain their own pictures are opened. A playlist, a list of parts or a script would
# make FFmpeg open whatever it names.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,"
    "flv,asf,ogg,mxf,nut,dv,rm,yuv4mpegpipe,webp_pipe,png_pipe,jpeg_pipe,bmp_pipe,tiff_pipe"
)
_LOCAL_ONLY = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}


def open_container(path: Path) -> InputContainer:
    """Open a file with PyAV. The explicit protocol keeps a colon in a file's name from being read as one."""
    # Tags that are not UTF-8 are read with a replacement character; `probe` reports them.
    return av.open(
        f"file:{path.absolute()}", "r", container_options=_LOCAL_ONLY, metadata_errors="replace"
    )


def is_moving(stream: Stream) -> bool:
    """Return whether a video track is more than a cover picture or a thumbnail."""
    return not stream.disposition & STILL_DISPOSITIONS


def video_stream(container: InputContainer) -> av.VideoStream:
    """Return the video track to edit: the one marked as default, then the largest."""
    moving = [s for s in container.streams.video if is_moving(s)]
    return max(
        moving,
        key=lambda s: (bool(s.disposition & Disposition.default), _pixel_count(s), -s.index),
    )


def _pixel_count(stream: av.VideoStream) -> int:
    context = stream.codec_context
    return context.width * context.height if context else 0


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[InputContainer]:
    """Open a file that has a video track FFmpeg can decode. Raise UserError for any other file."""
    try:
        container = open_container(path)
    except (FFmpegError, OSError) as error:
        reason = error.strerror or error
        raise UserError(f"{path} is not a readable video: {reason}") from error
    with container:
        if not any(map(is_moving, container.streams.video)):
            cover = ", only a cover picture" if container.streams.video else ""
            raise UserError(f"{path} has no video track{cover}")
        if video_stream(container).codec_context is None:
            raise UserError(f"{path} uses an unsupported video codec", "convert it first")
        yield container


def decode_frames(
    container: InputContainer,
    stream: av.VideoStream,
    path: Path,
    on_packet: Callable[[VideoPacket], None] | None = None,
) -> Iterator[av.VideoFrame]:
    """Decode a video. Raise UserError where it is damaged. on_packet: called with each packet before it is decoded."""
    stream.thread_type = "AUTO"  # pyright: ignore[reportAttributeAccessIssue]  # PyAV takes names
    count, decode = 0, _pick_decoder(stream)
    try:
        for packet in container.demux(stream):
            is_end = packet.dts is None and not packet.size
            if on_packet and not is_end:
                on_packet(packet)
            if packet.size or is_end:  # an empty packet is a dropped frame, not the end
                for frame in decode(packet):
                    yield frame
                    count += 1
    except FFmpegError as error:
        raise UserError(f"{path} is damaged after frame {count}: {error.strerror}") from error


def _pick_decoder(stream: av.VideoStream) -> Callable[[VideoPacket], list[av.VideoFrame]]:
    """Return a function that decodes a packet.

    FFmpeg's own decoder ignores an alpha channel that has a track of its own (WebM); libvpx's does not.
    """
    libvpx = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if libvpx is None or stream.metadata.get("alpha_mode") != "1":
        return lambda packet: packet.decode()
    decoder = av.CodecContext.create(libvpx, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    return lambda packet: decoder.decode(packet if packet.size else None)


def apply_input_options(clip: Clip, deinterlace: bool, background: str | None) -> Clip:
    """Return the clip with its fields merged into frames and a colour behind its transparency, where it has them."""
    behind = transparency.parse_colour(background) if background is not None else None
    if clip.has_transparency and behind:
        clip = replace(clip, background=behind, has_transparency=False)
    if clip.field_order and deinterlace:
        clip = replace(clip, is_deinterlaced=True, field_order="")
    return clip


def read(clip: Clip) -> Iterator[np.ndarray]:
    """Yield the clip's frames in order, upright, H W 3."""
    converter = (
        VideoReformatter()
    )  # shared: creating one takes longer than converting a small frame
    return (to_rgb(frame, clip, converter) for frame in read_stored(clip))


def read_with_alpha(clip: Clip) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield the frames in order, upright, each with its alpha channel, H W 3 and H W; None where a frame is opaque."""
    converter = VideoReformatter()
    if clip.files:
        yield from (_read_image_with_alpha(file, clip) for file in clip.files)
    elif not clip.has_transparency:
        yield from ((frame, None) for frame in read(clip))
    else:
        for frame in read_stored(clip):
            assert isinstance(frame, av.VideoFrame)
            array = _to_upright_array(frame, clip, converter, "rgba")
            yield array[..., :3], array[..., 3]


def read_stored(clip: Clip) -> Iterator[av.VideoFrame | np.ndarray]:
    """Yield the frames in order as they are stored: video frames in their own samples, images as arrays."""
    if clip.files:
        yield from (_read_image(file, clip) for file in clip.files)
    elif clip.sampling:
        wanted = set(clip.sampling.frames)
        chosen = (number in wanted for number in range(clip.sampling.frames[-1] + 1))
        yield from itertools.compress(_read_all_stored(clip), chosen)
    else:
        yield from _read_all_stored(clip)


def _read_all_stored(clip: Clip) -> Iterator[av.VideoFrame | np.ndarray]:
    """Yield all frames of a clip's file as they are stored."""
    if clip.is_animation:
        yield from animations.read(clip.path, clip.pixel_format == "rgba")
        return
    with open_video(clip.path) as container:
        stream = video_stream(container)
        frames = decode_frames(container, stream, clip.path)
        if clip.changes_shape:
            frames = frame_shapes.unify(frames, clip.stored_size, clip.pixel_format)
        yield from _deinterlace(frames, clip) if clip.is_deinterlaced else frames


def _read_image(file: Path, clip: Clip) -> np.ndarray:
    array, alpha = _read_image_with_alpha(file, clip)
    if clip.background and alpha is not None:
        return transparency.composite(np.dstack((array, alpha)), clip.background)
    return array


def _read_image_with_alpha(file: Path, clip: Clip) -> tuple[np.ndarray, np.ndarray | None]:
    """Return an image and its alpha channel at the clip's depth. The images of a clip may differ in depth."""
    array, alpha = images.read_with_alpha(file)
    if clip.bits == 8:
        return array, alpha
    return images.to_16_bit(array), None if alpha is None else images.to_16_bit(alpha)


def _deinterlace(frames: Iterator[av.VideoFrame], clip: Clip) -> Iterator[av.VideoFrame]:
    """Yield one progressive frame for each interlaced one (FFmpeg's bwdif)."""
    graph = Graph()
    buffer = frame_shapes.add_buffer(graph, clip.stored_size, clip.pixel_format, clip.time_base)
    ends = buffer, graph.add("bwdif", "mode=send_frame")
    graph.link_nodes(*ends, graph.add("buffersink")).configure()
    for frame in itertools.chain(frames, [None]):
        graph.push(frame)
        with contextlib.suppress(AgainError, EndError):
            while True:
                pulled = graph.pull()
                assert isinstance(pulled, av.VideoFrame)
                yield pulled


def to_rgb(
    frame: av.VideoFrame | np.ndarray, clip: Clip, converter: VideoReformatter
) -> np.ndarray:
    """Return a stored frame as it is displayed, H W 3 in RGB."""
    if isinstance(frame, np.ndarray):
        return frame
    array = _to_upright_array(frame, clip, converter, "rgba" if clip.background else "rgb")
    return transparency.composite(array, clip.background) if clip.background else array


def _to_upright_array(
    frame: av.VideoFrame, clip: Clip, converter: VideoReformatter, channels: str
) -> np.ndarray:
    """Return a video frame as it is displayed, H W 3 ("rgb") or H W 4 ("rgba")."""
    shallow = {"rgb": "rgb24", "rgba": "rgba"}
    layout = shallow[channels] if clip.bits == 8 else f"{channels}{16 * len(channels)}le"
    rgb = converter.reformat(
        frame,
        format=layout,
        src_colorspace=colour_matrix(clip),
        src_color_range=colour_range(clip),
        interpolation=SCALING,
    )
    array = rgb.to_ndarray()
    return np.ascontiguousarray(clip.orientation.apply(array))


def colour_matrix(clip: Clip) -> Colorspace:
    """Return the tagged YUV matrix. Without a tag, return the usual one of the size, the same for input and output."""
    usual = Colorspace.ITU709 if max(clip.size) >= 1280 else Colorspace.ITU601
    return tagged_matrix(clip.colour) or usual


def colour_range(clip: Clip) -> int:
    """Return 1 for narrow (limited) range, 2 for full range."""
    if clip.pixel_format.startswith("yuvj"):
        return 2
    return clip.colour.get("range") or 1
