"""Write frames as a video file, a GIF, an image or a folder of images, completely or not at all."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from numpy import ndarray

from ..base.errors import UserError
from ..base.files import REPLACED, publish, scratch_folder
from . import image_writing, images, splicing
from .copying import can_hold, split_tracks
from .encoding import CODECS, pick_codec, pick_pixel_format, write_video
from .reading import Clip
from .samples import OutputFrame, as_output_frame
from .tracks import CONTAINERS, Track


def write(
    path: str | Path,
    clip: Clip,
    frames: Iterable[ndarray | OutputFrame],
    codec: str = "auto",
    crf: int | None = None,
    edited: range | None = None,
) -> dict[str, Any]:
    """Write frames with the times, tags and audio of `clip`. The file appears under its name only when it is complete.

    edited: the frames that differ from the source's. Where the container allows it, the packets of others are copied.
    Return what was copied, or why nothing could be. Raise UserError as `check_output` does, and OSError.
    """
    path = Path(path)
    check_output(path, clip, codec, crf)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    with scratch_folder(path) as folder:
        part = folder / (path.name or "frames")
        record: dict[str, Any] = {}
        if suffix in CONTAINERS:
            record = _write_container(part, clip, frames, (codec, crf), edited)
        else:
            _write_images(part, clip, (as_output_frame(frame).rgb() for frame in frames))
        if path.is_dir() and not suffix:
            path.rename(folder / REPLACED)  # a folder cannot be replaced in one step
        publish(part, path)
    return record


def _write_container(
    part: Path,
    clip: Clip,
    frames: Iterable[ndarray | OutputFrame],
    quality: tuple[str, int | None],
    edited: range | None,
) -> dict[str, Any]:
    codec, crf = quality
    record: dict[str, Any] = {}
    if edited is not None and len(edited) < clip.frames:
        try:
            splice = splicing.plan_splice(clip, part.suffix.lower(), codec, edited)
        except splicing.CannotCopyError as reason:
            record = {"copied_frames": 0, "why": f"{reason}; all frames were encoded again"}
        else:
            splicing.write_spliced(part, clip, frames, splice, crf)
            return splice.describe(clip.frames)
    write_video(part, clip, frames, pick_codec(codec, part.suffix.lower(), clip), crf)
    return record


def write_frames(
    path: str | Path,
    frames: Sequence[ndarray] | ndarray,
    rate: int | Fraction,
    codec: str = "auto",
    crf: int | None = None,
) -> None:
    """Write a clip that exists only as frames H W 3. rate: frames per second."""
    write(path, clip_from_frames(frames, rate), frames, codec, crf)


def clip_from_frames(frames: Sequence[ndarray] | ndarray, rate: int | Fraction) -> Clip:
    """Describe a clip that exists only as frames H W 3."""
    height, width = frames[0].shape[:2]
    return Clip(
        path=Path(),
        size=(width, height),
        rate=Fraction(rate),
        time_base=1 / Fraction(rate),
        times=tuple(range(len(frames))),
        durations=(1,) * len(frames),
        bits=8 * frames[0].dtype.itemsize,
    )


def check_output(path: Path, clip: Clip, codec: str = "auto", crf: int | None = None) -> None:
    """Raise UserError, before any work, for a name, codec or quality with which the clip cannot be written."""
    suffix = path.suffix.lower()
    if suffix not in images.SUFFIXES | {"", ".gif"} | set(CONTAINERS):
        raise UserError(
            f"{path} has an unsupported suffix",
            "use .mp4, .mov, .mkv, .webm, .gif, an image, or a folder",
        )
    if suffix in images.SUFFIXES and clip.frames > 1:
        raise UserError(
            f"{path.name} holds one frame, but the clip has {clip.frames}",
            "give a video name or a folder",
        )
    if suffix not in CONTAINERS:
        return
    chosen = pick_codec(codec, suffix, clip)
    pick_pixel_format(clip, chosen)
    worst = CODECS[chosen].worst_crf
    if crf is not None and not 0 <= crf <= worst:
        raise UserError(f"crf is {crf}", f"use a value from 0 to {worst} for {chosen}")
    _refuse_lost_audio(path, clip, codec)


def _refuse_lost_audio(path: Path, clip: Clip, codec: str) -> None:
    """Raise UserError for audio that another container can hold. Audio that none can hold is reported by `losses`."""
    lost = [t for t in split_tracks(clip, path.suffix.lower())[1] if t.kind == "audio"]
    if not lost:
        return
    suffixes = {t: _suffixes_holding(clip, t, codec) for t in clip.tracks if t.kind == "audio"}
    common = [s for s in CONTAINERS if all(s in held for held in suffixes.values() if held)]
    if common and any(suffixes[track] for track in lost):
        name = next(track.codec for track in lost if suffixes[track])
        raise UserError(
            f"{path.name} cannot hold the source's audio ({name})", f"write {' or '.join(common)}"
        )


def count_audio_tracks(path: Path, clip: Clip) -> int:
    """Return how many of the clip's audio tracks a file can hold."""
    return sum(track.kind == "audio" for track in split_tracks(clip, path.suffix.lower())[0])


def _suffixes_holding(clip: Clip, track: Track, codec: str) -> list[str]:
    """Return the suffixes of files that can hold a track next to the video in this codec."""
    suffixes = [suffix for suffix in CONTAINERS if _can_encode(suffix, clip, codec)]
    return [suffix for suffix in suffixes if can_hold(clip.path, track, suffix)]


def _can_encode(suffix: str, clip: Clip, codec: str) -> bool:
    try:
        pick_pixel_format(clip, pick_codec(codec, suffix, clip))
    except UserError:
        return False
    return True


def describe_lost_track(path: Path, clip: Clip, track: Track, codec: str) -> str:
    """Return a sentence: a file leaves out a track, and which kind of file keeps it."""
    suffixes = _suffixes_holding(clip, track, codec)
    remedy = f"; {' or '.join(suffixes)} keeps it" if suffixes else ""
    if track.kind == "audio" and not suffixes and track.is_decodable:
        remedy = "; convert it to AAC first to keep it"
    return f"left out: {track}, which {path.name} cannot hold{remedy}"


def _write_images(part: Path, clip: Clip, frames: Iterable[ndarray]) -> None:
    if not part.suffix:
        _write_folder(part, clip, frames)
    elif part.suffix.lower() in images.SUFFIXES:
        _write_single_image(part, clip, frames)
    else:
        ends = (*clip.times, clip.times[-1] + (clip.durations or (1,))[-1])
        hundredths = [round(100 * t * clip.time_base) for t in ends]
        images.write_gif(part, clip.size, hundredths, frames)


def _write_folder(part: Path, clip: Clip, frames: Iterable[ndarray]) -> None:
    part.mkdir()
    for i, frame in enumerate(frames):
        name = clip.files[i].stem if clip.files else f"{i:05d}"
        _write_image(part / f"{name}.png", frame, clip, i)


def _write_single_image(part: Path, clip: Clip, frames: Iterable[ndarray]) -> None:
    for i, frame in enumerate(frames):
        if i:
            raise UserError(
                f"{part.name} holds one frame", "give a video name or a folder for a clip"
            )
        _write_image(part, frame, clip, i)


def _write_image(path: Path, frame: ndarray, clip: Clip, index: int) -> None:
    source = clip.files[index] if clip.files else None
    image_writing.write_image(path, frame, source, opaque=not clip.has_transparency)
