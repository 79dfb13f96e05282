"""Write frames: a video file, a GIF, an image or a folder of images, whole or not at all."""

import io
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
from numpy import ndarray

from ..files import REPLACED, publish, scratch
from . import images, splicing
from .encoding import CODECS, pick_codec, sound_streams, write_video
from .reading import Clip, opened
from .samples import Picture, picture

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


def write(
    path: str | Path,
    clip: Clip,
    frames: Iterable[ndarray | Picture],
    codec: str = "auto",
    crf: int | None = None,
    edited: range | None = None,
) -> dict:
    """Write frames with the times, tags and audio of `clip`. The file appears under its name only when it is whole.

    edited: the frames that are not the source's own; where the container allows it the others are copied as they lie in
    the source. Returns what was copied, or why nothing could be.
    """
    path = Path(path)
    check_output(path, clip, codec, crf)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    with scratch(path) as folder:
        part = folder / (path.name or "frames")
        how: dict = {}
        if suffix in CONTAINERS:
            how = _write_contained(part, clip, frames, (codec, crf), edited)
        else:
            _write_images(part, clip, (picture(frame).rgb() for frame in frames))
        if path.is_dir() and not suffix:
            path.rename(folder / REPLACED)  # a folder cannot be replaced in one step
        publish(part, path)
    return how


def _write_contained(
    part: Path,
    clip: Clip,
    frames: Iterable[ndarray | Picture],
    quality: tuple[str, int | None],
    edited: range | None,
) -> dict:
    codec, crf = quality
    codec, how = pick_codec(codec, part.suffix.lower(), clip), {}
    if edited is not None and len(edited) < clip.frames:
        try:
            splice = splicing.plan(clip, part.suffix.lower(), codec, edited)
        except splicing.Unfit as reason:
            how = {"copied_frames": 0, "why": f"{reason}; all frames were encoded anew"}
        else:
            splicing.write_spliced(part, clip, frames, splice, crf)
            return splice.describe(clip.frames)
    write_video(part, clip, frames, codec, crf)
    return how


def write_frames(
    path: str | Path,
    frames: list[ndarray],
    rate: int,
    codec: str = "auto",
    crf: int | None = None,
) -> None:
    """Write a clip that exists only as frames H W 3, at so many a second."""
    write(path, clip_of(frames, rate), frames, codec, crf)


def clip_of(frames: list[ndarray], rate: int) -> Clip:
    """The description of a clip that exists only as frames."""
    height, width = frames[0].shape[:2]
    return Clip(
        path=Path(),
        size=(width, height),
        rate=Fraction(rate),
        time_base=Fraction(1, rate),
        times=tuple(range(len(frames))),
        durations=(1,) * len(frames),
    )


def check_output(path: Path, clip: Clip, codec: str = "auto", crf: int | None = None) -> None:
    """Refuse, before any work, a name, codec or quality that the clip cannot be written with."""
    suffix = path.suffix.lower()
    if suffix not in images.SUFFIXES | {"", ".gif"} | set(CONTAINERS):
        raise ValueError(
            f"cannot write {path}: use .mp4, .mov, .mkv, .webm, .gif, an image, or a folder"
        )
    if suffix in images.SUFFIXES and clip.frames > 1:
        raise ValueError(
            f"{path.name} takes one frame, and the clip has {clip.frames}; "
            "give a video name or a folder"
        )
    if suffix not in CONTAINERS:
        return
    codec = pick_codec(codec, suffix, clip)
    worst = CODECS[codec].worst
    if crf is not None and not 0 <= crf <= worst:
        raise ValueError(f"crf is between 0 and {worst} for {codec}, not {crf}")
    if clip.audio:
        nowhere = io.BytesIO()
        with (
            opened(clip.path) as source,
            av.open(nowhere, "w", format=CONTAINERS[suffix]) as out,
        ):
            sound_streams(out, source)


def _write_images(part: Path, clip: Clip, frames: Iterable[ndarray]) -> None:
    if not part.suffix:
        _write_folder(part, clip, frames)
    elif part.suffix.lower() in images.SUFFIXES:
        _write_image(part, frames)
    else:
        hundredths = [round(100 * t * clip.time_base) for t in clip.times]
        images.write_gif(part, clip.size, hundredths, frames)


def _write_folder(part: Path, clip: Clip, frames: Iterable[ndarray]) -> None:
    from PIL import Image

    part.mkdir()
    for i, frame in enumerate(frames):
        name = clip.files[i].stem if clip.files else f"{i:05d}"
        Image.fromarray(images.eight_bits(frame)).save(part / f"{name}.png")


def _write_image(part: Path, frames: Iterable[ndarray]) -> None:
    from PIL import Image

    for i, frame in enumerate(frames):
        if i:
            raise ValueError(
                f"{part.name} takes one frame; give a video name or a folder for a clip"
            )
        Image.fromarray(images.eight_bits(frame)).save(part)
