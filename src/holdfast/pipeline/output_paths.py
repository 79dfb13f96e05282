"""Where a result and its companion files are written, and whether they can be: checked before any work."""

import os
import re
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..base.errors import UserError
from ..base.files import scratch_folder
from ..media import video
from ..media.image_files import is_system_file

# FFmpeg would read such a name as a network address or a pipe. A single letter is a drive of Windows.
PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+,.-]+:")
# The size of a result as a share of its raw frames. They are low on purpose: a wrong refusal does more harm than a full
# disk, since the latents of an edit that cannot be written are kept.
LOSSY_SHARE, LOSSLESS_SHARE = 1 / 100, 1 / 10
OTHER_OUTPUT = "choose another --output"


def manifest_path(output: Path) -> Path:
    """Return the path of a result's manifest."""
    return output.with_name(output.name + ".json")


def latents_path(output: Path) -> Path:
    """Return the path of a result's saved progress."""
    return output.with_name(output.name + ".latents.safetensors")


def parts_path(latents: Path) -> Path:
    """Return the path of the folder of large tensors that belongs to saved progress."""
    return latents.with_suffix("")


def adapters_path(output: Path) -> Path:
    """Return the path of the adapters that were trained on the clip."""
    return output.with_name(output.name + ".adapters.safetensors")


def first_frame_path(output: Path) -> Path:
    """Return the path of the first frame that an image model made."""
    return output.with_name(output.name + ".first.png")


def mask_picture_path(output: Path) -> Path:
    """Return the path of the picture that shows an automatic mask."""
    return output.with_name(output.name + ".mask.png")


def all_paths(output: Path) -> tuple[Path, ...]:
    """Return every path that an edit may write, the output first."""
    companions = (manifest_path, latents_path, adapters_path, first_frame_path, mask_picture_path)
    return output, *(path(output) for path in companions), parts_path(latents_path(output))


def parse_output(output: str | Path) -> Path:
    """Return an output as a path. Raises UserError for a text that is not the name of a file or folder."""
    if PROTOCOL.match(str(output)):
        raise UserError(
            f"{output} looks like an address, and results are written to files",
            f"write ./{output} for a file of that name",
        )
    path = Path(output)
    if path.name in ("", "..") or "\0" in str(output):
        raise UserError(f"{str(output)!r} is not a valid file name", OTHER_OUTPUT)
    return path


def check_output_path(output: str | Path, inputs: Iterable[str]) -> None:
    """Raise UserError where a result cannot be written, or would overwrite an input or a file that is not ours.

    inputs: the files that the result is made from. Writing is tried, because no flag of a file system tells reliably
    whether it accepts a file.
    """
    path = parse_output(output)
    try:
        _check_overwrite(path)
        _check_input_overwrite(path, inputs)
        _try_writing(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}", OTHER_OUTPUT
        ) from error


def check_raw_path(raw: str | Path, output: str | Path, inputs: Iterable[str]) -> None:
    """Raise UserError where the raw clip cannot be written, or would overwrite an input or the result.

    output: of the result; empty where it has no file yet.
    """
    try:
        check_output_path(raw, inputs)
        if output:
            _check_apart(Path(raw), Path(output))
    except UserError as error:
        raise UserError(error.cause, "choose another file for --raw") from error


def _check_apart(raw: Path, output: Path) -> None:
    """Raise UserError where the raw clip and the result would share a file or a folder of frames."""
    place, result = Path(os.path.realpath(raw)), Path(os.path.realpath(output))
    written = {os.path.realpath(path) for path in all_paths(output)}
    if str(place) in written or result in place.parents or place in result.parents:
        raise UserError(f"the raw clip {raw} would overwrite the result {output}")


def _check_overwrite(path: Path) -> None:
    """Raise UserError where something other than an earlier result would be overwritten."""
    for place in all_paths(path):
        is_frames_folder = place == path and not path.suffix
        is_parts_folder = place == parts_path(latents_path(path))
        if place.is_dir() and not (is_frames_folder or is_parts_folder):
            raise UserError(f"{place} is a folder", OTHER_OUTPUT)
        if place.exists() and not place.is_dir():
            if not stat.S_ISREG(place.stat().st_mode):
                raise UserError(f"{place} is a device or a pipe, not a regular file", OTHER_OUTPUT)
            if is_frames_folder:
                raise UserError(
                    f"{place} is a file, and a name without an extension is a folder of frames",
                    OTHER_OUTPUT,
                )
    if path.is_dir() and not _is_own_folder(path):
        raise UserError(
            f"{path} is a folder that holds other files",
            "give a file name, or a new or empty folder",
        )


def _is_own_folder(folder: Path) -> bool:
    """Return whether a folder is empty, or holds an earlier result and nothing else."""
    files = [file for file in folder.iterdir() if not is_system_file(file)]
    is_result = manifest_path(folder).exists() or latents_path(folder).exists()
    return not files or (is_result and all(f.suffix == ".png" and f.is_file() for f in files))


def _check_input_overwrite(path: Path, inputs: Iterable[str]) -> None:
    written = {os.path.realpath(place) for place in all_paths(path)}
    for name in inputs:
        source = Path(os.path.realpath(name))  # it resolves a link to itself, too
        is_inside = Path(os.path.realpath(path)) in source.parents
        if source.exists() and (str(source) in written or is_inside):
            raise UserError(f"the output would overwrite {name}", OTHER_OUTPUT)


def _try_writing(path: Path) -> None:
    """Create the folder and the longest name in it, and remove what was not there before."""
    absent = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(max(all_paths(path), key=lambda p: len(p.name))):
            pass
    finally:
        for folder in absent:
            with suppress(OSError):  # it was not created, or another program has used it since
                folder.rmdir()


def check_disk_space(path: Path, clip: video.Clip, codec: str) -> None:
    """Raise UserError where the disk has clearly too little room for the result."""
    width, height = clip.size
    raw = clip.frames * width * height * 3 * (1 if clip.bits == 8 else 2)
    is_lossless = path.suffix.lower() not in video.CONTAINERS or codec in (
        "lossless",
        "ffv1",
        "prores",
    )
    needed = raw * (LOSSLESS_SHARE if is_lossless else LOSSY_SHARE)
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{path} needs about {needed / 2**20:.0f} MB, and {free / 2**20:.0f} MB are free there",
            f"free some space, or {OTHER_OUTPUT}",
        )
