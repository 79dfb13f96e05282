"""Identify the weights that made a result: the files that are loaded, each identified cheaply, and their origin.

A file is identified by the hash that the hub's cache uses as its name; else, up to MAX_HASHED_BYTES, by a hash of its
content; else by its size and the time of its last change, because no edit should wait until gigabytes are hashed.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from . import hub
from .checkpoint import INDEX, SCHEDULER, Checkpoint
from .downloads import COMPANIONS
from .weight_files import list_folder, weight_files

# Includes the embedded models' files, so that installing the package again changes no identity.
MAX_HASHED_BYTES = 16 * 2**20
HASH_DIGITS = (40, 64)  # of the names in the hub's cache: Git's and SHA-256


def identify(checkpoint: Checkpoint, parts: Sequence[str]) -> dict[str, Any]:
    """Describe the weights that a model is loaded from.

    Return folder, hub_id and revision (None outside the hub's cache), files and the identity of all files together.
    """
    hub_id, revision = hub.read_snapshot(checkpoint.folder) or (None, None)
    files = {
        name: _identify_file(file) for name, file in list_read_files(checkpoint, parts).items()
    }
    return {
        "folder": str(checkpoint.folder),
        "hub_id": hub_id,
        "revision": revision,
        "identity": _hash(json.dumps(files, sort_keys=True).encode()),
        "files": files,
    }


def list_read_files(checkpoint: Checkpoint, parts: Sequence[str]) -> dict[str, Path]:
    """Return the files of a checkpoint that are read, by their path in it: all files if no parts are known."""
    folder = checkpoint.folder
    if not folder.is_dir():
        return {".": folder}
    names = [INDEX, SCHEDULER]
    for part in parts:
        files = _part_files(checkpoint.part(part))
        names += [f"{part}/config.json", *(f"{part}/{file.name}" for file in files)]
        names += _names_in(checkpoint, COMPANIONS[part]) if part in COMPANIONS else []
    found = {name: checkpoint.file(name) for name in names}
    if not parts:
        paths = [*list_folder(folder), *(f for p in list_folder(folder) for f in list_folder(p))]
        found |= {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: file for name, file in found.items() if file.is_file()}


def _names_in(checkpoint: Checkpoint, part: str) -> list[str]:
    return [f"{part}/{file.name}" for file in list_folder(checkpoint.part(part))]


def _part_files(part: Path) -> list[Path]:
    try:
        return weight_files(part)
    except UserError:  # a damaged index: loading reports it
        return []


def _identify_file(file: Path) -> list:
    """Return a file's size, the kind of its identifier, and the identifier."""
    status = file.stat()
    blob = file.resolve()
    if blob.parent.name == "blobs" and len(blob.name) in HASH_DIGITS:
        return [status.st_size, "hub", blob.name]
    if status.st_size <= MAX_HASHED_BYTES:
        digest = _hash_content(file, status.st_size, status.st_mtime_ns)
        return [status.st_size, "content", digest]
    return [status.st_size, "changed", status.st_mtime_ns]


@functools.lru_cache(maxsize=4096)
def _hash_content(file: Path, size: int, changed: int) -> str:
    """Hash a file. Its size and time of change are part of the cache's key."""
    return _hash(file.read_bytes())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
