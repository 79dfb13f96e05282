"""Files that are whole or not there: published under their name when they are finished; JSON; the store of latents."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError

try:
    import fcntl
except (
    ImportError
):  # Windows: nothing says there whether a folder is still in use, so nothing is tidied up
    fcntl = None

if TYPE_CHECKING:
    from torch import Tensor

SCRATCH = ".holdfast"  # ends the name of a folder that only a running command uses
REPLACED = "old"  # in such a folder: a folder of frames that is about to be replaced


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to make it in, gone when the block ends. Until then it is locked: a killed run's is not,
    which is how the next one knows it (`tidy`). An OSError within names `path`.
    """
    # A whole path, so that no part of it can look to FFmpeg like a protocol ("take:2.mp4").
    folder = Path(tempfile.mkdtemp(SCRATCH, f".{path.name}.", path.parent.absolute()))
    lock = _lock(folder)
    try:
        yield folder
    except OSError as error:
        named = os.fsdecode(error.filename or "")
        ours = named.startswith(str(folder)) if named else path.name not in str(error)
        if error.errno is None or not ours:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except KeyboardInterrupt:  # not a reason to leave half of it
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            if lock is not None:
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """An open descriptor that holds the folder's lock as long as this process lives; None where it is not to be had."""
    if fcntl is None:
        return None
    lock = None
    try:
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody else's, or a file system without locks
        if lock is not None:
            os.close(lock)
        return None
    return lock


def remove_stale_scratch(paths: Iterable[Path]) -> None:
    """Remove what killed runs left of their work on these files: folders of `scratch` that nobody holds."""
    for path in paths:
        ours = re.compile(rf"\.{re.escape(path.name)}\.\w{{8}}{re.escape(SCRATCH)}")
        for folder in _folders(path.parent):
            if ours.fullmatch(folder.name):
                _remove_unused(folder, path)


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    with os.scandir(parent) as entries:
        return [Path(e) for e in entries if e.is_dir(follow_symlinks=False)]


def _remove_unused(folder: Path, path: Path) -> None:
    lock = _lock(folder)
    if lock is None:
        return
    try:
        if (folder / REPLACED).exists() and not path.exists():
            (folder / REPLACED).rename(
                path
            )  # the run was killed between taking it away and putting the new one there
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Where to write a file that has its name only once the block has ended without an error."""
    with scratch_folder(path) as folder:
        yield folder / path.name
        publish(folder / path.name, path)


def publish(part: Path, path: Path) -> None:
    """Give a finished file its name, once it is on the disk: existence means complete, after a power cut too."""
    if part.is_file():
        with part.open("rb+") as file:
            os.fsync(file.fileno())
    part.replace(path)


def as_json(data: dict) -> str:
    """JSON that every reader takes: an infinite figure becomes "inf"."""
    return json.dumps(_finite(data), indent=2)


def parse_json(text: str) -> Any:
    """What a JSON text says. Raises ValueError for what is none, or is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UserError("it is nested too deeply") from error


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def write_json(path: Path, data: dict) -> None:
    with atomic_write(path) as part:
        part.write_text(as_json(data) + "\n")


def save_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all, with a digest of what it holds. Raises OSError where it cannot be
    written.
    """
    # A state may be the latent itself, and safetensors refuses two names for one memory.
    tensors = {name: value.contiguous().clone().cpu() for name, value in tensors.items()}
    metadata = dict(metadata) | {"digest": _digest(tensors, metadata)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, metadata)


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]) -> None:
    """Write tensors, each with memory of its own, whole or not at all. Raises OSError where they cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with atomic_write(path) as part:
            save_file(dict(tensors), part, dict(metadata))
    except SafetensorError as error:
        said = re.search(r"os error (\d+)", str(error))
        number = int(said[1]) if said else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def load_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """The tensors of a safetensors file and what it says of itself. Raises ValueError where it cannot be read, or does
    not hold what was saved.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
            about = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read ({error}); delete it to start over") from error
    if "digest" in about and about["digest"] != _digest(tensors, about):
        raise UserError(
            f"{path} is damaged: it does not hold what was saved; delete it to start over"
        )
    return tensors, about


def _digest(tensors: "Mapping[str, Tensor]", about: Mapping[str, str]) -> str:
    """A hash of all numbers, and of what is said of them but for whose they are."""
    import torch

    found = hashlib.blake2b(digest_size=16)
    said = {name: text for name, text in about.items() if name not in ("key", "digest")}
    found.update(json.dumps(said, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        content: Any = value.reshape(-1).view(torch.uint8).numpy()  # hashed without a copy
        found.update(content)
    return found.hexdigest()
