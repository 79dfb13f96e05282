"""Where a result goes, what lies beside it, and whether it can be written there: asked before any work is paid for."""

import os
import re
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..base.errors import UserError
from ..base.files import scratch
from ..media import video
from ..media.image_files import is_system_file
from .progress import SavedProgress
from .task import EditTask

# FFmpeg would take such a name for a place on the network or a pipe. One letter is a drive of Windows.
PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+,.-]+:")
# Of the raw frames, what a result takes up. Rather too little: a wrong guess that refuses does more harm, since the
# latents of an edit that could not be written are kept.
LOSSY_SHARE, LOSSLESS_SHARE = 1 / 100, 1 / 10


def manifest_path(output: Path) -> Path:
    return output.with_name(output.name + ".json")


def latents_path(output: Path) -> Path:
    return output.with_name(output.name + ".latents.safetensors")


def adapters_path(output: Path) -> Path:
    return output.with_name(output.name + ".adapters.safetensors")


def first_frame_path(output: Path) -> Path:
    """Of the first frame that an image model made."""
    return output.with_name(output.name + ".first.png")


def mask_picture_path(output: Path) -> Path:
    """Of the picture that shows an automatic mask."""
    return output.with_name(output.name + ".mask.png")


def all_paths(output: Path) -> tuple[Path, ...]:
    """All files that an edit may write."""
    beside = (manifest_path, latents_path, adapters_path, first_frame_path, mask_picture_path)
    return output, *(path(output) for path in beside)


def saved_progress(task: EditTask) -> SavedProgress:
    """Where the latents of a task with an output are kept."""
    return SavedProgress(latents_path(parse_output(task.output)), task.latent_key())


def parse_output(output: str | Path) -> Path:
    """An output as a path. Raises ValueError for what is the name of no file or folder."""
    if PROTOCOL.match(str(output)):
        raise UserError(
            f"{output} begins as an address does, and results go to files; write ./{output} for a file of that name"
        )
    path = Path(output)
    if path.name in ("", "..") or "\0" in str(output):
        raise UserError(f"{str(output)!r} is no name of a file; give another --output")
    return path


def check_output_path(output: str | Path, made_from: Iterable[str]) -> None:
    """Raises ValueError where a result cannot be written, or would replace what it was made from or what is not ours.

    Whether a place takes a file is tried, for no flag tells it of every file system.
    """
    path = parse_output(output)
    try:
        _check_overwrite(path)
        _check_input_overwrite(path, made_from)
        _try_writing(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; give another --output"
        ) from error


def _check_overwrite(path: Path) -> None:
    """What lies there already must be an earlier result, or nothing that is missed."""
    for place in all_paths(path):
        folder = place == path and not path.suffix
        if place.is_dir() and not folder:
            raise UserError(f"{place} is a folder; give another --output")
        if place.exists() and not place.is_dir():
            if not stat.S_ISREG(place.stat().st_mode):
                raise UserError(f"{place} is no file but a device or a pipe; give another --output")
            if folder:
                raise UserError(
                    f"{place} is a file, and a name without an ending is a folder of frames; give another --output"
                )
    if path.is_dir() and not _is_own_folder(path):
        raise UserError(
            f"{path} is a folder that holds other things; give a file name, or a folder of its own"
        )


def _is_own_folder(folder: Path) -> bool:
    """Whether a folder is empty, or an earlier result with nothing else put into it."""
    names = [f for f in folder.iterdir() if not is_system_file(f)]
    known = manifest_path(folder).exists() or latents_path(folder).exists()
    return not names or (known and all(f.suffix == ".png" and f.is_file() for f in names))


def _check_input_overwrite(path: Path, made_from: Iterable[str]) -> None:
    written = {os.path.realpath(place) for place in all_paths(path)}
    for name in made_from:
        source = Path(os.path.realpath(name))  # which bears a link to itself
        within = Path(os.path.realpath(path)) in source.parents
        if source.exists() and (str(source) in written or within):
            raise UserError(f"the result would replace {name}; give another --output")


def _try_writing(path: Path) -> None:
    """Make the folder and the longest name in it, and take away again what was not there."""
    absent = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch(max(all_paths(path), key=lambda p: len(p.name))):
            pass
    finally:
        for folder in absent:
            with suppress(OSError):  # not made, or somebody has put something there meanwhile
                folder.rmdir()


def check_disk_space(path: Path, clip: video.Clip, codec: str) -> None:
    """Raises ValueError where the disk has too little room for the result, by a guess."""
    width, height = clip.size
    raw = clip.frames * width * height * 3 * (1 if clip.bits == 8 else 2)
    plain = path.suffix.lower() not in video.CONTAINERS or codec in ("lossless", "ffv1", "prores")
    needed = raw * (LOSSLESS_SHARE if plain else LOSSY_SHARE)
    there = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"{path} takes about {needed / 2**20:.0f} MB, and {free / 2**20:.0f} MB are free there; "
            "free some, or give another --output"
        )
