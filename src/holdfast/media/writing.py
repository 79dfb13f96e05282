"""Write frames: a video file, a GIF, an image or a folder of images, whole or not at all."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

from numpy import ndarray

from ..base.errors import UserError
from ..base.files import REPLACED, publish, scratch
from . import image_writing, images, splicing
from .copying import can_hold, split_tracks
from .encoding import CODECS, pick_codec, pixel_format, write_video
from .reading import Clip
from .samples import Picture, picture
from .tracks import CONTAINERS, Track


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
    codec, crf, how = *quality, {}
    if edited is not None and len(edited) < clip.frames:
        try:
            splice = splicing.plan(clip, part.suffix.lower(), codec, edited)
        except splicing.Unfit as reason:
            how = {"copied_frames": 0, "why": f"{reason}; all frames were encoded anew"}
        else:
            splicing.write_spliced(part, clip, frames, splice, crf)
            return splice.describe(clip.frames)
    write_video(part, clip, frames, pick_codec(codec, part.suffix.lower(), clip), crf)
    return how


def write_frames(
    path: str | Path,
    frames: Sequence[ndarray],
    rate: int | Fraction,
    codec: str = "auto",
    crf: int | None = None,
) -> None:
    """Write a clip that exists only as frames H W 3, at so many a second."""
    write(path, clip_of(frames, rate), frames, codec, crf)


def clip_of(frames: Sequence[ndarray], rate: int | Fraction) -> Clip:
    """The description of a clip that exists only as frames."""
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
    """Refuse, before any work, a name, codec or quality that the clip cannot be written with."""
    suffix = path.suffix.lower()
    if suffix not in images.SUFFIXES | {"", ".gif"} | set(CONTAINERS):
        raise UserError(
            f"cannot write {path}: use .mp4, .mov, .mkv, .webm, .gif, an image, or a folder"
        )
    if suffix in images.SUFFIXES and clip.frames > 1:
        raise UserError(
            f"{path.name} takes one frame, and the clip has {clip.frames}; "
            "give a video name or a folder"
        )
    if suffix not in CONTAINERS:
        return
    chosen = pick_codec(codec, suffix, clip)
    pixel_format(clip, chosen)
    worst = CODECS[chosen].worst
    if crf is not None and not 0 <= crf <= worst:
        raise UserError(f"crf is between 0 and {worst} for {chosen}, not {crf}")
    _refuse_lost_sound(path, clip, codec)


def _refuse_lost_sound(path: Path, clip: Clip, codec: str) -> None:
    """Sound that another container keeps is not left out. What none of them takes is, and `losses` says so."""
    lost = [t for t in split_tracks(clip, path.suffix.lower())[1] if t.kind == "audio"]
    if not lost:
        return
    homes = {t: _homes(clip, t, codec) for t in clip.tracks if t.kind == "audio"}
    common = [s for s in CONTAINERS if all(s in home for home in homes.values() if home)]
    if common and any(homes[track] for track in lost):
        name = next(track.codec for track in lost if homes[track])
        raise UserError(
            f"{path.name} cannot hold the source's audio ({name})", f"write {' or '.join(common)}"
        )


def count_audio(path: Path, clip: Clip) -> int:
    """How many of the clip's audio tracks a file holds."""
    return sum(track.kind == "audio" for track in split_tracks(clip, path.suffix.lower())[0])


def _homes(clip: Clip, track: Track, codec: str) -> list[str]:
    """The endings of files that hold a track next to the picture in this codec."""
    takes = [suffix for suffix in CONTAINERS if _takes(suffix, clip, codec)]
    return [suffix for suffix in takes if can_hold(clip.path, track, suffix)]


def _takes(suffix: str, clip: Clip, codec: str) -> bool:
    try:
        pixel_format(clip, pick_codec(codec, suffix, clip))
    except UserError:
        return False
    return True


def _write_images(part: Path, clip: Clip, frames: Iterable[ndarray]) -> None:
    if not part.suffix:
        _write_folder(part, clip, frames)
    elif part.suffix.lower() in images.SUFFIXES:
        _write_image(part, clip, frames)
    else:
        ends = (*clip.times, clip.times[-1] + (clip.durations or (1,))[-1])
        hundredths = [round(100 * t * clip.time_base) for t in ends]
        images.write_gif(part, clip.size, hundredths, frames)


def say_lost(path: Path, clip: Clip, track: Track, codec: str) -> str:
    """Say that a file leaves out a track, and which kind of file keeps it."""
    homes = _homes(clip, track, codec)
    cure = f"; {' or '.join(homes)} keeps it" if homes else ""
    if track.kind == "audio" and not homes and track.is_decodable:
        cure = "; convert it to AAC first to keep it"
    return f"left out: {track}, which {path.name} cannot hold{cure}"


def _write_folder(part: Path, clip: Clip, frames: Iterable[ndarray]) -> None:
    part.mkdir()
    for i, frame in enumerate(frames):
        name = clip.files[i].stem if clip.files else f"{i:05d}"
        _save(part / f"{name}.png", frame, clip, i)


def _save(path: Path, frame: ndarray, clip: Clip, index: int) -> None:
    source = clip.files[index] if clip.files else None
    image_writing.save(path, frame, source, opaque=not clip.opacity)


def _write_image(part: Path, clip: Clip, frames: Iterable[ndarray]) -> None:
    for i, frame in enumerate(frames):
        if i:
            raise UserError(
                f"{part.name} takes one frame; give a video name or a folder for a clip"
            )
        _save(part, frame, clip, i)
