"""Which properties of a clip an output file keeps and which it loses: one list, for promises and for warnings."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av

from . import image_writing, metadata
from .copying import split_tracks
from .encoding import CODECS, pick_codec, pick_pixel_format
from .reading import Clip
from .samples import bit_depth, has_alpha, holds_samples, is_yuv
from .tracks import CONTAINERS
from .writing import count_audio_tracks, describe_lost_track

# Players assume one of these values for a picture without tags.
DEFAULT_TAGS = {"primaries": {0, 1, 2, 5, 6}, "trc": {0, 1, 2, 6, 13}}


@dataclass(frozen=True)
class ClipProperty:
    """A property of a clip. name: as a promise lists it. loss: a sentence on its loss, empty where it is kept."""

    name: str
    loss: str = ""


@dataclass(frozen=True)
class OutputFormat:
    """The format of an output file.

    codec: of a video, a name of CODECS. pixel_format: of a video. Both are empty for images.
    """

    name: str
    suffix: str
    codec: str = ""
    pixel_format: str = ""

    @classmethod
    def for_path(cls, path: Path, clip: Clip, codec: str) -> "OutputFormat":
        """Return the format that a path and a codec select. Raise UserError as `pick_codec` does."""
        suffix = path.suffix.lower()
        if suffix not in CONTAINERS:
            return cls(path.name, suffix)
        chosen = pick_codec(codec, suffix, clip)
        return cls(path.name, suffix, chosen, pick_pixel_format(clip, chosen))

    @property
    def bits(self) -> int:
        """Return the bits a channel."""
        if self.codec:
            return bit_depth(self.pixel_format)
        return 16 if self.suffix in image_writing.SIXTEEN_BIT else 8


def losses(path: Path, clip: Clip, codec: str = "auto") -> list[str]:
    """Return a sentence for each property of a clip that a file cannot hold."""
    return [p.loss for p in clip_properties(path, clip, codec) if p.loss]


def kept_properties(path: Path, clip: Clip, codec: str = "auto") -> list[str]:
    """Return the names of the properties of a clip that a file keeps."""
    return [p.name for p in clip_properties(path, clip, codec) if not p.loss]


def is_lossless(path: Path, clip: Clip, codec: str = "auto") -> bool:
    """Return whether a file keeps every pixel that is written to it."""
    to = OutputFormat.for_path(path, clip, codec)
    if to.codec:
        lossless = to.codec in ("ffv1", "lossless", "lossless-rgb")
        exact = lossless and holds_samples(to.pixel_format, clip.pixel_format)
    else:
        exact = to.suffix in image_writing.WITH_ALPHA | {".bmp"}
    return exact and to.bits >= clip.bits


def clip_properties(path: Path, clip: Clip, codec: str = "auto") -> Iterator[ClipProperty]:
    """Yield every property of a clip, kept or lost in a file of this name."""
    to = OutputFormat.for_path(path, clip, codec)
    yield ClipProperty("frame count")
    yield from _times(clip, to)
    yield ClipProperty("size")
    yield from _tracks(path, clip, to, codec)
    yield from _colours(clip, to)
    yield from _depth(clip, to)
    yield from _transparency(clip, to)
    if clip.field_order:
        loss = f"{to.name} cannot mark its frames as interlaced; write H.264, or give --deinterlace"
        yield ClipProperty(
            "fields", "" if to.codec and CODECS[to.codec].supports_interlaced else loss
        )
    if clip.pixel_aspect and clip.pixel_aspect != 1:
        loss = f"{to.name} has square pixels; the source's are {clip.pixel_aspect} as wide as high"
        yield ClipProperty("pixel aspect", "" if to.codec else loss)
    yield from _metadata_of(clip, to)


def _tracks(path: Path, clip: Clip, to: OutputFormat, codec: str) -> Iterator[ClipProperty]:
    """Yield the audio, the other tracks, and the tags of the video track."""
    if clip.audio_tracks and not to.codec:
        yield ClipProperty("sound", f"{to.name} cannot hold the source's audio, which is left out")
    elif count_audio_tracks(path, clip):
        yield ClipProperty("sound")
    if clip.orientation.angle is not None and not to.codec:
        loss = f"{to.name} is not displayed rotated by {clip.orientation.angle} degrees"
        yield ClipProperty("orientation", loss)
    if clip.timecode:
        loss = f"left out: the timecode {clip.timecode}, which {to.name} cannot hold"
        yield ClipProperty("timecode", "" if to.codec else loss)
    held, lost = split_tracks(clip, to.suffix)
    if any(track.kind != "audio" for track in held):
        yield ClipProperty("other tracks")
    for track in lost:
        if to.codec or track.kind != "audio":
            yield ClipProperty(str(track), describe_lost_track(path, clip, track, codec))


def _times(clip: Clip, to: OutputFormat) -> Iterator[ClipProperty]:
    seconds = [time * clip.time_base for time in clip.times]
    if not (to.codec or to.suffix == ".gif"):
        return  # images have no times, as their users know: none are promised
    if clip.is_retimed:
        return  # the clip's cautions report it
    unit = {".gif": 100, ".mkv": 1000, ".webm": 1000}.get(to.suffix)
    if unit is None or all((unit * s).denominator == 1 for s in seconds):
        yield ClipProperty("timestamps")
        return
    equal = len(seconds) - len({round(unit * s) for s in seconds})
    part = {100: "hundredth", 1000: "thousandth"}[unit]
    loss = f"{to.name} stores times in {part}s of a second: {equal} of its frames have the time of the one before"
    yield ClipProperty(f"timestamps to a {part} of a second", loss if equal else "")


def _colours(clip: Clip, to: OutputFormat) -> Iterator[ClipProperty]:
    tags = {name: value for name, value in clip.colour.items() if value not in (0, 2)}
    if to.codec and tags:
        yield ClipProperty("colour tags")
    unusual = [
        f"{name} {tags[name]}"
        for name in DEFAULT_TAGS
        if tags.get(name, 2) not in DEFAULT_TAGS[name]
    ]
    if unusual and not to.codec:
        loss = f"{to.name} has no colour tags ({', '.join(unusual)}): players show other colours"
        yield ClipProperty("colour tags", loss)


def _depth(clip: Clip, to: OutputFormat) -> Iterator[ClipProperty]:
    if clip.bits > 8:
        remedy = "write .mkv with --codec ffv1" if to.codec else "write .png, .tif or a folder"
        loss = f"{to.name} holds {to.bits} of the source's {clip.bits} bits a channel; {remedy}"
        yield ClipProperty("bit depth", loss if to.bits < clip.bits else "")
    if to.codec and is_yuv(clip.pixel_format) and is_yuv(to.pixel_format):
        pairs = zip(_chroma(to.pixel_format), _chroma(clip.pixel_format), strict=True)
        if any(written < own for written, own in pairs):
            loss = f"{to.name} ({to.codec}) holds less of the source's chroma: {to.pixel_format}"
            yield ClipProperty("chroma", loss)


def _chroma(pixel_format: str) -> tuple[int, int]:
    """Return how many samples of chroma 8 by 8 pixels have, across and down."""
    layout = av.VideoFormat(pixel_format)
    return layout.chroma_width(8), layout.chroma_height(8)


def _transparency(clip: Clip, to: OutputFormat) -> Iterator[ClipProperty]:
    if not clip.has_transparency:
        return
    images_hold = bool(clip.files) and to.suffix in image_writing.WITH_ALPHA
    held = has_alpha(to.pixel_format) if to.codec else images_hold
    loss = (
        f"{to.name} cannot hold the alpha channel, which is left out; write .webm, .mov with "
        "--codec prores or .mkv with --codec ffv1, or give a --background"
    )
    yield ClipProperty("transparency", "" if held else loss)


def _metadata_of(clip: Clip, to: OutputFormat) -> Iterator[ClipProperty]:
    holds = not to.codec and image_writing.keeps_metadata(to.suffix, min(clip.bits, to.bits))
    if clip.profile_names:
        loss = (
            f"{to.name} cannot hold the images' colour profile ({', '.join(clip.profile_names)}): "
            "it is left out, and their colours may look different"
        )
        yield ClipProperty("colour profile", "" if holds else loss)
    if clip.has_exif:
        loss = f"{to.name} cannot hold the camera's data (EXIF), which is left out"
        yield ClipProperty("camera data", "" if holds else loss)
    names = clip.metadata.names()
    lost = metadata.lost_names(clip.metadata, to.suffix if to.codec else "")
    if len(lost) < len(names):
        yield ClipProperty("metadata" if not lost else "most metadata")
    if lost:
        loss = f"{to.name} cannot hold of the source's metadata: {', '.join(lost)}"
        yield ClipProperty("metadata", loss)
