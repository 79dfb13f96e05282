"""Files that are complete or absent: written under a temporary name, and renamed at the end. JSON and tensors."""

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
except ImportError:  # Windows does not tell whether a folder is in use, so stale folders stay
    fcntl = None

if TYPE_CHECKING:
    from torch import Tensor

SCRATCH = ".holdfast"  # suffix of the folders of running commands
REPLACED = "old"  # in such a folder: a folder of frames that is being replaced


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Make a folder next to `path` in which to write it, and remove the folder at the end of the block.

    The folder is locked until then. The folder of a killed run is not, so that the next run finds it
    (`remove_stale_scratch`). An OSError in the block names `path`.
    """
    # An absolute path, so that FFmpeg takes no part of it for a protocol ("take:2.mp4").
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
        except KeyboardInterrupt:  # do not leave half of it
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            if lock is not None:
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Return an open descriptor that holds a folder's lock while this process lives; None if it cannot be locked."""
    if fcntl is None:
        return None
    lock = None
    try:
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked by another process, or a file system without locks
        if lock is not None:
            os.close(lock)
        return None
    return lock


def remove_stale_scratch(paths: Iterable[Path]) -> None:
    """Remove the unlocked scratch folders that killed runs left next to these files."""
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
            # the run was killed after it moved the old folder away and before the new one was in place
            (folder / REPLACED).rename(path)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield the path under which to write a file. It gets its name when the block ends without an error."""
    with scratch_folder(path) as folder:
        yield folder / path.name
        publish(folder / path.name, path)


def publish(part: Path, path: Path) -> None:
    """Give a finished file its name, after it is on the disk: a file that exists is complete, whatever happens."""
    if part.is_file():
        with part.open("rb+") as file:
            os.fsync(file.fileno())
    part.replace(path)


def as_json(data: dict) -> str:
    """Return data as JSON that every reader accepts: an infinite number becomes "inf"."""
    return json.dumps(_finite(data), indent=2)


def parse_json(text: str) -> Any:
    """Return the data of a JSON text. Raise ValueError for invalid JSON, UserError for too many nested levels."""
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
    """Write a safetensors file, complete or not at all, with a digest of its content. Raise OSError if it cannot be
    written.
    """
    tensors = _separate({name: value.cpu().contiguous() for name, value in tensors.items()})
    metadata = dict(metadata) | {"digest": _digest(tensors, metadata)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, metadata)


def _separate(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Copy the tensors that share memory with another one: safetensors refuses them, and a state may be the latent."""
    seen, separate = set(), {}
    for name, value in tensors.items():
        address = value.untyped_storage().data_ptr()
        separate[name] = value.clone() if address in seen else value
        seen.add(address)
    return separate


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]) -> None:
    """Write tensors that share no memory, complete or not at all. Raise OSError if they cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with atomic_write(path) as part:
            save_file(dict(tensors), part, dict(metadata))
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        number = int(code[1]) if code else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def load_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Return the tensors and the metadata of a safetensors file. Raise UserError for a file that cannot be read or is
    damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read ({error})", "delete it to start over") from error
    if "digest" in metadata and metadata["digest"] != _digest(tensors, metadata):
        raise UserError(f"{path} is damaged: its content has changed", "delete it to start over")
    return tensors, metadata


def _digest(tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]) -> str:
    """Return a hash of all tensors and their metadata, except the key."""
    import torch

    digest = hashlib.blake2b(digest_size=16)
    described = {name: text for name, text in metadata.items() if name not in ("key", "digest")}
    digest.update(json.dumps(described, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        content: Any = value.reshape(-1).view(torch.uint8).numpy()  # hashed without a copy
        digest.update(content)
    return digest.hexdigest()
