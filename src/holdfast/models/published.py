"""What the default models' repositories hold: configuration values and file lists, with their sources.

They are facts in files of our own (`published/`), and tests run every check against them. Each file says how its values
are known. verbatim: read in a copy of the repository's own history. proven: the text has the size and SHA-256 that are
quoted for the published file. values only: collected from a converter and reports.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "published"
MARKS = ("verbatim", "proven", "values only")
UNKNOWN = ("svd", "zeroscope")  # backbones whose repositories' files were not found


@dataclass(frozen=True)
class PublishedRepository:
    """A repository at one revision."""

    repository: str
    revision: str
    names: tuple[str, ...]  # its hub ids
    reuploads: tuple[str, ...]  # copies by others, who may have changed them since
    files: Mapping[str, Mapping[str, Any]]  # by path: mark, source, values
    listing: Mapping[str, tuple]  # by path: bytes, hash, how the row is known

    def values(self, path: str) -> dict[str, Any] | None:
        """Return the values of a JSON file; None if they are unknown."""
        return self.files[path]["values"] if path in self.files else None

    def has(self, pattern: str) -> bool:
        """Return whether a listed file matches a glob of the hub."""
        return any(is_included(path, [pattern]) for path in self.listing)

    def total_bytes(self, patterns: list[str]) -> int:
        """Return the size of the listed files that match one of the globs."""
        return sum(size for path, (size, *_) in self.listing.items() if is_included(path, patterns))


def is_included(path: str, patterns: list[str]) -> bool:
    """Return whether a path matches one of the globs, as the hub matches them."""
    return any(fnmatch(path, pattern) for pattern in patterns)


@functools.cache
def read(name: str) -> PublishedRepository:
    """Return what is known of a repository. name: one of `names()`."""
    held = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return PublishedRepository(
        repository=held["repository"],
        revision=held["revision"],
        names=(held["repository"], *held["same"]),
        reuploads=tuple(held["reuploads"]),
        files=held["files"],
        listing={path: tuple(row) for path, row in held["listing"].items()},
    )


def names() -> list[str]:
    """List the names of the files in `published/`."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def find_repository(hub_id: str) -> PublishedRepository | None:
    """Return what is known of a repository, or of the one that it is a copy of; None if nothing is."""
    for name in names():
        repository = read(name)
        if hub_id in (*repository.names, *repository.reuploads):
            return repository
    return None
