"""Which weights made a result: the files that are loaded, each known cheaply, and where they came from.

A file is known by the hash that the hub's cache gives it as a name; else, up to WHOLE bytes, by a hash of its content;
else by its size and the time of its last change, for no edit should wait until gigabytes are hashed.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from . import downloads, headers, hub
from . import weights as _weights
from .spec import Model

WHOLE = (
    16 * 2**20
)  # bytes: the embedded models' files, so that installing the package again changes nothing
HASHES = (40, 64)  # digits of the names in the hub's cache: Git's and SHA-256


def identify(model: Model, weights: str | None) -> dict[str, Any] | None:
    """Describe the weights that a model would be loaded from; None where they are not on this machine.

    Returns folder, hub_id and revision (None outside the hub's cache), files and, over all files, identity.
    """
    folder = _weights.locate(model, weights)
    if folder is None:
        return None
    hub_id, revision = hub.snapshot(folder) or (None, None)
    files = {str(f.relative_to(folder)): _describe_file(f) for f in list_used(folder, model.parts)}
    return {
        "folder": str(folder),
        "hub_id": hub_id,
        "revision": revision,
        "identity": _hash(json.dumps(files, sort_keys=True).encode()),
        "files": files,
    }


def list_used(folder: Path, parts: Sequence[str]) -> list[Path]:
    """The files of a diffusers folder that are read; all files of a folder without known parts."""
    if not folder.is_dir():
        return [folder]
    found = [folder / _weights.INDEX, folder / _weights.SCHEDULER]
    for part in parts:
        found += [folder / part / "config.json", *_files(folder / part)]
        if part in downloads.COMPANIONS:
            found += _inside(folder / downloads.COMPANIONS[part])
    if not parts:
        found += [*_inside(folder), *(f for place in _inside(folder) for f in _inside(place))]
    return [file for file in dict.fromkeys(found) if file.is_file()]


def _files(part: Path) -> list[Path]:
    try:
        return headers.files(part)
    except UserError:  # a damaged index: loading will say so
        return []


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _describe_file(file: Path) -> list:
    """A file's size, and what else it is known by."""
    about = file.stat()
    blob = file.resolve()
    if blob.parent.name == "blobs" and len(blob.name) in HASHES:
        return [about.st_size, "hub", blob.name]
    if about.st_size <= WHOLE:
        return [about.st_size, "content", _hash_content(file, about.st_size, about.st_mtime_ns)]
    return [about.st_size, "changed", about.st_mtime_ns]


@functools.lru_cache(maxsize=4096)
def _hash_content(file: Path, size: int, changed: int) -> str:
    """A hash of a file; size and changed: what the file's are, so that another state is another entry."""
    return _hash(file.read_bytes())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
