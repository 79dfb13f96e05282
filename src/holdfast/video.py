"""Stream clips in and out with PyAV: mp4, mov, mkv, webm, gif, image folders and single images.

What comes in goes out again: frame count, exact timestamps, size, rotation, colour tags and range, bit depth, audio tracks.
Frames are arrays `H W 3`, upright RGB, uint8 or (above 8 bits a channel) uint16 that fills its whole range.
"""

import contextlib
import io
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation

from . import images

IMAGES = images.SUFFIXES
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
ROTATES = {".mp4", ".mov", ".m4v"}  # containers that carry a rotation tag
CODECS = {"h264": "libx264", "h265": "libx265", "vp9": "libvpx-vp9", "ffv1": "ffv1", "lossless": "libx264rgb"}
CRF = {"h264": 15, "h265": 18, "vp9": 20}  # visually lossless
_SCALING = Interpolation.LANCZOS | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
_UNTAGGED = 2


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
    colour: dict[str, int] = field(default_factory=dict)  # range, primaries, trc, space: the numbers of ISO/IEC 23091-2
    aspect: Fraction | None = None  # of a pixel
    audio: int = 0
    files: tuple[Path, ...] = ()  # of an image folder
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        return len(self.times)

    @property
    def variable(self) -> bool:
        return len({b - a for a, b in itertools.pairwise(self.times)}) > 1


def probe(path: str | Path) -> Clip:
    """Read a clip once to learn all of Clip. Raises ValueError, with the file's name, for what cannot be read whole."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    if path.is_dir() or path.suffix.lower() in IMAGES:
        return _probe_images(path)
    with _opened(path) as container:
        stream = container.streams.best("video")
        frames, first = [], None
        for frame in _decoded(container, stream, path):
            first = first or frame
            frames.append((frame.pts, frame.duration, frame.is_corrupt))
        if first is None:
            raise ValueError(f"{path} has no frames")
        _whole(path, container, stream, first, frames)
        return _described(path, container, stream, first, frames)


def _whole(path: Path, container, stream, first, frames: list[tuple]) -> None:
    """Refuse a clip that announces more than can be read: a count of frames, or (Matroska) a duration."""
    if stream.frames > len(frames):
        with _opened(path) as again:  # what an edit list cuts off is announced, but not meant to be seen
            hidden = sum(p.is_discard for p in again.demux(again.streams.best("video")) if p.size)
        if stream.frames > len(frames) + hidden:
            raise ValueError(f"{path} is truncated: it announces {stream.frames} frames, but only {len(frames)} can be read")
    if not stream.frames and frames[-1][0] is not None:
        seen = float((frames[-1][0] + (frames[-1][1] or 0)) * stream.time_base)
        tag = stream.metadata.get("DURATION")
        alone = container.duration / av.time_base if container.duration and not container.streams.audio else 0.0
        announced = sum(float(p) * 60**i for i, p in enumerate(reversed(tag.split(":")))) if tag else alone
        if seen < 0.98 * announced - 0.2:
            raise ValueError(f"{path} is truncated: it announces {announced:.2f} seconds, but only {seen:.2f} can be read")


def _described(path: Path, container, stream, first, frames: list[tuple]) -> Clip:
    context = stream.codec_context
    bits = max(c.bits for c in first.format.components)
    turned = round(first.rotation / 90) * 90 % 360
    width, height = first.width, first.height
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    step = round(1 / (rate * stream.time_base)) or 1
    times = tuple(p if p is not None else i * step for i, (p, _, _) in enumerate(frames))
    notes = [f"{sum(c for _, _, c in frames)} damaged frames were repaired"] if any(c for _, _, c in frames) else []
    notes += [f"rotation tag of {turned} degrees"] if turned else []
    notes += [f"{bits} bits a channel"] if bits > 8 else []
    others = [s.type for s in container.streams if s.type != "audio" and s.index != stream.index]
    notes += [f"left out: {', '.join(sorted(set(others)))} tracks"] if others else []
    clip = Clip(
        path=path,
        size=(height, width) if turned % 180 else (width, height),
        rate=Fraction(rate),
        time_base=stream.time_base,
        times=times,
        durations=tuple(d or step for _, d, _ in frames),
        rotation=turned,
        bits=bits,
        pixel_format=first.format.name,
        colour={
            "range": context.color_range,
            "primaries": context.color_primaries,
            "trc": context.color_trc,
            "space": context.colorspace,
        },
        aspect=stream.sample_aspect_ratio,
        audio=len(container.streams.audio),
        notes=tuple(notes),
    )
    if any(b <= a for a, b in itertools.pairwise(times)):
        raise ValueError(f"{path} has frames whose times do not rise; remux it first")
    return clip


@contextlib.contextmanager
def _opened(path: Path) -> Iterator:
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path} is not a video that can be read: {error.strerror or error}") from error
    with container:
        if not container.streams.video:
            raise ValueError(f"{path} has no video track")
        yield container


def _decoded(container, stream, path: Path) -> Iterator:
    stream.thread_type = "AUTO"
    count = 0
    try:
        for frame in container.decode(stream):
            yield frame
            count += 1
    except av.FFmpegError as error:
        raise ValueError(f"{path} is damaged after frame {count}: {error.strerror}") from error


def read(clip: Clip) -> Iterator[np.ndarray]:
    """The clip's frames in order, upright."""
    if clip.files:
        for file in clip.files:
            yield images.read(file)
        return
    layout = "rgb24" if clip.bits == 8 else "rgb48le"
    space = _matrix(clip)
    with _opened(clip.path) as container:
        for frame in _decoded(container, container.streams.best("video"), clip.path):
            rgb = frame.to_ndarray(format=layout, src_colorspace=space, src_color_range=_range(clip), interpolation=_SCALING)
            yield np.ascontiguousarray(np.rot90(rgb, clip.rotation // 90))


def _matrix(clip: Clip) -> Colorspace | None:
    """The tagged YUV matrix; where there is no tag, the usual one of the size, the same on the way in and out."""
    tagged = clip.colour.get("space", _UNTAGGED)
    if tagged in (0, _UNTAGGED):
        return Colorspace.ITU709 if max(clip.size) >= 1280 else Colorspace.ITU601
    return {1: Colorspace.ITU709, 4: Colorspace.FCC, 7: Colorspace.SMPTE240M, 9: Colorspace.BT2020}.get(tagged, Colorspace.ITU601)


def _range(clip: Clip) -> int:
    """1 narrow, 2 full."""
    if clip.pixel_format.startswith("yuvj"):
        return 2
    return clip.colour.get("range") or 1


def _probe_images(path: Path) -> Clip:
    files, size = images.listed(path)
    return Clip(path, size, Fraction(25), Fraction(1, 25), tuple(range(len(files))), files=tuple(files))


def write(path: str | Path, clip: Clip, frames: Iterable[np.ndarray], codec: str = "auto", crf: int | None = None) -> None:
    """Write frames with the timestamps, tags and audio of `clip`. The file appears under its name only when it is whole."""
    path = Path(path)
    check_output(path, clip, codec, crf)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        part = Path(folder) / (path.name or "frames")
        if not suffix:
            _write_folder(part, clip, frames)
        elif suffix in IMAGES:
            _write_image(part, frames)
        elif suffix == ".gif":
            images.write_gif(part, clip.size, [round(100 * t * clip.time_base) for t in clip.times], frames)
        else:
            _write_video(part, clip, frames, pick_codec(codec, suffix, clip), crf)
        if path.is_dir() and not suffix:
            path.rename(Path(folder) / "old")  # a folder cannot be replaced in one step
        publish(part, path)


def publish(part: Path, path: Path) -> None:
    """Give a finished file its name, once it is on the disk: existence means complete, after a power cut too."""
    if part.is_file():
        with part.open("rb+") as file:
            os.fsync(file.fileno())
    part.replace(path)


def check_output(path: Path, clip: Clip, codec: str = "auto", crf: int | None = None) -> None:
    """Refuse, before any work, a name, codec or quality that the clip cannot be written with."""
    suffix = path.suffix.lower()
    if suffix not in IMAGES | {"", ".gif"} | set(CONTAINERS):
        raise ValueError(f"cannot write {path}: use .mp4, .mov, .mkv, .webm, .gif, an image, or a folder")
    if suffix in IMAGES and clip.frames > 1:
        raise ValueError(f"{path.name} takes one frame, and the clip has {clip.frames}; give a video name or a folder")
    if suffix not in CONTAINERS:
        return
    codec = pick_codec(codec, suffix, clip)
    if crf is not None and not 0 <= crf <= (63 if codec == "vp9" else 51):
        raise ValueError(f"crf is between 0 and {63 if codec == 'vp9' else 51} for {codec}, not {crf}")
    if clip.audio:
        with _opened(clip.path) as source, av.open(io.BytesIO(), "w", format=CONTAINERS[suffix]) as out:
            _sound_streams(out, source)


def pick_codec(codec: str, suffix: str, clip: Clip) -> str:
    """The codec's name in CODECS: by default H.264 (VP9 in webm). Lossless above 8 bits is FFV1."""
    if codec == "auto":
        return "vp9" if suffix == ".webm" else "h264"
    if codec not in CODECS:
        raise ValueError(f"no codec is called {codec!r}; there are: auto, {', '.join(CODECS)}")
    if codec == "lossless" and clip.bits > 8:
        codec = "ffv1"
    if codec == "ffv1" and suffix != ".mkv":
        raise ValueError("ffv1 (also what lossless means above 8 bits) is written to .mkv")
    if suffix == ".webm" and codec != "vp9":
        raise ValueError(f"a .webm takes vp9, not {codec}")
    return codec


def _write_folder(part: Path, clip: Clip, frames: Iterable[np.ndarray]) -> None:
    from PIL import Image

    part.mkdir()
    for i, frame in enumerate(frames):
        name = clip.files[i].stem if clip.files else f"{i:05d}"
        Image.fromarray(images.eight_bits(frame)).save(part / f"{name}.png")


def _write_image(part: Path, frames: Iterable[np.ndarray]) -> None:
    from PIL import Image

    for i, frame in enumerate(frames):
        if i:
            raise ValueError(f"{part.name} takes one frame; give a video name or a folder for a clip")
        Image.fromarray(images.eight_bits(frame)).save(part)


def _write_video(part: Path, clip: Clip, frames: Iterable[np.ndarray], codec: str, crf: int | None) -> None:
    try:
        with av.open(str(part), "w", options={"movflags": "+faststart"} if part.suffix in ROTATES else {}) as out:
            stream = _video_stream(out, clip, codec, crf, keep_rotation=part.suffix.lower() in ROTATES)
            sound = _Sound(out, clip) if clip.audio else None
            turn = clip.rotation // 90 if part.suffix.lower() in ROTATES else 0
            for i, frame in enumerate(frames):
                out.mux(stream.encode(_video_frame(np.rot90(frame, -turn), i, clip, stream)))
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
    turned = keep_rotation and clip.rotation % 180
    context.width, context.height = clip.size[::-1] if turned else clip.size
    context.pix_fmt = _pixel_format(clip, codec)
    context.time_base = stream.time_base = clip.time_base
    rgb = context.pix_fmt.startswith(("rgb", "gbr"))
    context.color_range = _range(clip) if clip.colour.get("range") or clip.pixel_format.startswith("yuvj") else 0
    context.color_primaries = clip.colour.get("primaries", _UNTAGGED)
    context.color_trc = clip.colour.get("trc", _UNTAGGED)
    context.colorspace = 0 if rgb else clip.colour.get("space") or _UNTAGGED  # 0 says RGB, which YUV must not be tagged as
    if clip.aspect:
        turned_by_us = not keep_rotation and clip.rotation % 180
        context.sample_aspect_ratio = 1 / clip.aspect if turned_by_us else clip.aspect
    if keep_rotation and clip.rotation:
        stream.set_display_rotation(clip.rotation)
    context.options = _options(codec, crf)
    return stream


def _options(codec: str, crf: int | None) -> dict[str, str]:
    if codec == "ffv1":
        return {"level": "3"}
    if codec == "lossless":
        return {"qp": "0", "bf": "0"}
    options = {"crf": str(CRF[codec] if crf is None else crf)}
    # No B-frames: with them the last packet is not the last frame, and the container's duration and rate drift from the source's.
    extra = {"h264": {"bf": "0", "preset": "medium"}, "h265": {"x265-params": "bframes=0:log-level=error"}, "vp9": {"b:v": "0"}}
    return options | extra[codec]


def _pixel_format(clip: Clip, codec: str) -> str:
    """The source's chroma and depth where the codec has them; full chroma where an odd side allows no halving."""
    if codec == "lossless":
        return "rgb24"
    if codec == "ffv1":
        return "bgr0" if clip.bits == 8 else "gbrp16le"
    width, height = clip.size
    name = clip.pixel_format
    chroma = next((c for c in ("444", "422") if c in name), "444" if name.startswith(("gbr", "rgb", "bgr", "pal")) else "420")
    if not clip.colour or clip.path.suffix.lower() == ".gif":  # no video before: as players like it
        chroma = "420"
    if width % 2 or height % 2:
        chroma = "444"
    deep = "10le" if clip.bits > 8 else ""
    return f"yuv{chroma}p{deep}"


def _video_frame(array: np.ndarray, index: int, clip: Clip, stream) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), "rgb24" if array.dtype == np.uint8 else "rgb48le")
    target = stream.codec_context.pix_fmt
    if target.startswith("yuv"):
        space = _matrix(clip)
        frame = frame.reformat(
            format=target, src_colorspace=space, dst_colorspace=space, dst_color_range=_range(clip), interpolation=_SCALING
        )
    else:
        frame = frame.reformat(format=target, interpolation=_SCALING)
    frame.pts, frame.time_base = clip.times[index], clip.time_base
    if clip.durations:
        frame.duration = clip.durations[index]
    return frame


def _sound_streams(out, source) -> dict:
    """The source's audio tracks in another container, by the source's index, with their language and titles."""
    streams = {}
    for track in source.streams.audio:
        try:
            streams[track.index] = out.add_stream_from_template(track)
        except ValueError as error:
            name = track.codec_context.name
            raise ValueError(f"this container cannot hold the source's audio ({name}); write .mkv or the source's own kind") from error
        streams[track.index].metadata.update(track.metadata)
        streams[track.index].disposition = track.disposition
    return streams


class _Sound:
    """Copies the audio tracks of a clip, packet by packet, in step with the picture."""

    def __init__(self, out, clip: Clip):
        self.out, self.source = out, av.open(str(clip.path))
        self.streams = _sound_streams(out, self.source)
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
