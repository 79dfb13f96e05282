"""What of a clip a file of some kind keeps, and what it loses: one list, from which promises and warnings are made."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av

from . import image_writing, metadata
from .copying import split_tracks
from .encoding import CODECS, pick_codec, pixel_format
from .reading import Clip
from .samples import has_opacity, holds_samples, is_yuv
from .tracks import CONTAINERS
from .writing import count_audio, say_lost

# A player takes a picture without tags for one of these.
USUAL = {"primaries": {0, 1, 2, 5, 6}, "trc": {0, 1, 2, 6, 13}}


@dataclass(frozen=True)
class Aspect:
    """Something of a clip. name: as a promise has it; loss: what becomes of it, in a sentence, where it is not kept."""

    name: str
    loss: str = ""


@dataclass(frozen=True)
class Target:
    """A file that a clip is written to."""

    name: str
    suffix: str
    codec: str = ""  # of a video, as pick_codec has it
    pixel_format: str = ""  # of a video

    @classmethod
    def of(cls, path: Path, clip: Clip, codec: str) -> "Target":
        suffix = path.suffix.lower()
        if suffix not in CONTAINERS:
            return cls(path.name, suffix)
        chosen = pick_codec(codec, suffix, clip)
        return cls(path.name, suffix, chosen, pixel_format(clip, chosen))

    @property
    def bits(self) -> int:
        if self.codec:
            return max(c.bits for c in av.VideoFormat(self.pixel_format).components)
        return 16 if self.suffix in image_writing.DEEP else 8


def losses(path: Path, clip: Clip, codec: str = "auto") -> list[str]:
    """Return what of a clip a file cannot hold, in a sentence each."""
    return [aspect.loss for aspect in aspects(path, clip, codec) if aspect.loss]


def promises(path: Path, clip: Clip, codec: str = "auto") -> list[str]:
    """Return what of a clip a file keeps, by name."""
    return [aspect.name for aspect in aspects(path, clip, codec) if not aspect.loss]


def is_exact(path: Path, clip: Clip, codec: str = "auto") -> bool:
    """Return whether a file keeps every pixel that is written to it."""
    to = Target.of(path, clip, codec)
    if to.codec:
        lossless = to.codec in ("ffv1", "lossless", "lossless-rgb")
        exact = lossless and holds_samples(pixel_format(clip, to.codec), clip.pixel_format)
    else:
        exact = to.suffix in image_writing.SEEN_THROUGH | {".bmp"}
    return exact and to.bits >= clip.bits


def aspects(path: Path, clip: Clip, codec: str = "auto") -> Iterator[Aspect]:
    """Yield everything that a clip has, kept or lost in a file of this name."""
    to = Target.of(path, clip, codec)
    yield Aspect("frame count")
    yield from _times(clip, to)
    yield Aspect("size")
    yield from _tracks(path, clip, to, codec)
    yield from _colours(clip, to)
    yield from _depth(clip, to)
    yield from _opacity(clip, to)
    if clip.fields:
        loss = f"{to.name} does not say that its frames are interlaced; write H.264, or give --deinterlace"
        yield Aspect("fields", "" if to.codec and CODECS[to.codec].fields else loss)
    if clip.aspect and clip.aspect != 1:
        loss = f"{to.name} has square pixels, the source's are {clip.aspect} as wide as high"
        yield Aspect("pixel aspect", "" if to.codec else loss)
    yield from _metadata_of(clip, to)


def _tracks(path: Path, clip: Clip, to: Target, codec: str) -> Iterator[Aspect]:
    """Sound, and what else lies next to the picture."""
    if clip.audio and not to.codec:
        yield Aspect("sound", f"{to.name} cannot hold the source's audio, which is left out")
    elif count_audio(path, clip):
        yield Aspect("sound")
    if clip.orientation.angle is not None and not to.codec:
        loss = f"{to.name} is not shown turned by {clip.orientation.angle} degrees"
        yield Aspect("orientation", loss)
    if clip.timecode:
        loss = f"left out: the timecode {clip.timecode}, which {to.name} cannot hold"
        yield Aspect("timecode", "" if to.codec else loss)
    held, lost = split_tracks(clip, to.suffix)
    if any(track.kind != "audio" for track in held):
        yield Aspect("other tracks")
    for track in lost:
        if to.codec or track.kind != "audio":
            yield Aspect(str(track), say_lost(path, clip, track, codec))


def _times(clip: Clip, to: Target) -> Iterator[Aspect]:
    seconds = [time * clip.time_base for time in clip.times]
    if not (to.codec or to.suffix == ".gif"):
        return  # images have no times, as whoever asks for them knows: none are promised
    if clip.is_retimed:
        return  # as its cautions say
    unit = {".gif": 100, ".mkv": 1000, ".webm": 1000}.get(to.suffix)
    if unit is None or all((unit * s).denominator == 1 for s in seconds):
        yield Aspect("timestamps")
        return
    together = len(seconds) - len({round(unit * s) for s in seconds})
    part = {100: "hundredth", 1000: "thousandth"}[unit]
    loss = f"{to.name} has times in {part}s of a second: {together} of its frames have that of the one before"
    yield Aspect(f"timestamps to a {part} of a second", loss if together else "")


def _colours(clip: Clip, to: Target) -> Iterator[Aspect]:
    tags = {name: value for name, value in clip.colour.items() if value not in (0, 2)}
    if to.codec and tags:
        yield Aspect("colour tags")
    odd = [f"{name} {tags[name]}" for name in USUAL if tags.get(name, 2) not in USUAL[name]]
    if odd and not to.codec:
        loss = f"{to.name} has no colour tags ({', '.join(odd)}): players show it in other colours"
        yield Aspect("colour tags", loss)


def _depth(clip: Clip, to: Target) -> Iterator[Aspect]:
    if clip.bits > 8:
        cure = "write .mkv with --codec ffv1" if to.codec else "write .png, .tif or a folder"
        loss = f"{to.name} holds {to.bits} of the source's {clip.bits} bits a channel; {cure}"
        yield Aspect("bit depth", loss if to.bits < clip.bits else "")
    if to.codec and is_yuv(clip.pixel_format) and is_yuv(to.pixel_format):
        fewer = [_chroma(to.pixel_format)[i] < _chroma(clip.pixel_format)[i] for i in (0, 1)]
        if any(fewer):
            loss = f"{to.name} ({to.codec}) holds less of the source's chroma: {to.pixel_format}"
            yield Aspect("chroma", loss)


def _chroma(pixel_format: str) -> tuple[int, int]:
    """How many samples of chroma 8 by 8 pixels have, across and down."""
    known = av.VideoFormat(pixel_format)
    return known.chroma_width(8), known.chroma_height(8)


def _opacity(clip: Clip, to: Target) -> Iterator[Aspect]:
    if not clip.opacity:
        return
    images_hold = bool(clip.files) and to.suffix in image_writing.SEEN_THROUGH
    held = has_opacity(to.pixel_format) if to.codec else images_hold
    loss = (
        f"{to.name} cannot hold what is seen through (alpha), which is left out; write .webm, .mov with "
        "--codec prores or .mkv with --codec ffv1, or give a --background"
    )
    yield Aspect("what is seen through", "" if held else loss)


def _metadata_of(clip: Clip, to: Target) -> Iterator[Aspect]:
    holds = not to.codec and image_writing.holds_description(to.suffix, min(clip.bits, to.bits))
    if clip.profiles:
        loss = (
            f"{to.name} cannot hold the images' colour profile ({', '.join(clip.profiles)}): "
            "it is left out, and their colours may look otherwise"
        )
        yield Aspect("colour profile", "" if holds else loss)
    if clip.has_exif:
        loss = f"{to.name} cannot hold what the camera wrote (EXIF), which is left out"
        yield Aspect("camera data", "" if holds else loss)
    names = clip.metadata.names()
    lost = metadata.lost(clip.metadata, to.suffix if to.codec else "")
    if len(lost) < len(names):
        yield Aspect("metadata" if not lost else "most metadata")
    if lost:
        loss = f"{to.name} cannot hold of the source's metadata: {', '.join(lost)}"
        yield Aspect("metadata", loss)
