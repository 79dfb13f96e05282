"""Write frames: a video file, a GIF, an image or a folder of images, whole or not at all."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from numpy import ndarray

from ..errors import UserError
from ..files import REPLACED, publish, scratch
from . import images, opacity, splicing
from .copying import can_hold, split_tracks
from .encoding import CODECS, pick_codec, pixel_format, write_video
from .reading import Clip
from .samples import Picture, has_opacity, picture
from .tracks import CONTAINERS, Track

if TYPE_CHECKING:
    from PIL import Image

SEEN_THROUGH = {"", ".png", ".webp", ".tif", ".tiff"}  # images, and the folder of them


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


def losses(path: Path, clip: Clip, codec: str = "auto") -> list[str]:
    """What of a clip the file cannot hold, in a sentence each."""
    suffix, said = path.suffix.lower(), []
    chosen = pick_codec(codec, suffix, clip) if suffix in CONTAINERS else ""
    images_hold = bool(clip.files) and suffix in SEEN_THROUGH
    held = has_opacity(pixel_format(clip, chosen)) if chosen else images_hold
    if clip.opacity and not held:
        said.append(
            f"{path.name} cannot hold what is seen through (alpha), which is left out; write .webm, .mov with "
            "--codec prores or .mkv with --codec ffv1, or give a --background"
        )
    if clip.fields and not (chosen and CODECS[chosen].fields):
        said.append(
            f"{path.name} does not say that its frames are interlaced; write H.264, or give --deinterlace"
        )
    if clip.orientation.angle is not None and not chosen:
        said.append(f"{path.name} is not shown turned by {clip.orientation.angle} degrees")
    if clip.audio and not chosen:
        said.append(f"{path.name} cannot hold the source's audio, which is left out")
    if clip.timecode and not chosen:
        said.append(f"left out: the timecode {clip.timecode}, which {path.name} cannot hold")
    lost = split_tracks(clip, suffix)[1]
    return said + [_say_lost(path, clip, t, codec) for t in lost if chosen or t.kind != "audio"]


def _say_lost(path: Path, clip: Clip, track: Track, codec: str) -> str:
    homes = _homes(clip, track, codec)
    cure = f"; {' or '.join(homes)} keeps it" if homes else ""
    if track.kind == "audio" and not homes and track.is_decodable:
        cure = "; convert it to AAC first to keep it"
    return f"left out: {track}, which {path.name} cannot hold{cure}"


def _write_folder(part: Path, clip: Clip, frames: Iterable[ndarray]) -> None:
    part.mkdir()
    for i, frame in enumerate(frames):
        name = clip.files[i].stem if clip.files else f"{i:05d}"
        _seen_through(frame, clip, i).save(part / f"{name}.png")


def _seen_through(frame: ndarray, clip: Clip, index: int) -> "Image.Image":
    """An image with the opacity that the source's has."""
    from PIL import Image

    made = Image.fromarray(images.eight_bits(frame))
    alpha = opacity.of_image(clip.files[index]) if clip.opacity and clip.files else None
    if alpha is not None:
        made.putalpha(Image.fromarray(alpha))
    return made


def _write_image(part: Path, clip: Clip, frames: Iterable[ndarray]) -> None:
    for i, frame in enumerate(frames):
        if i:
            raise UserError(
                f"{part.name} takes one frame; give a video name or a folder for a clip"
            )
        made = _seen_through(frame, clip, i)
        (made if part.suffix.lower() in SEEN_THROUGH else made.convert("RGB")).save(part)
