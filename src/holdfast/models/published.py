"""What the default models' repositories hold: configuration values and file lists, with their sources. These are facts
in files of our own (holdfast/published), which tests run every check against.

Each file says how far its values are known. verbatim: read in a copy of the repository's own history. proven: the text
has the size and SHA-256 that are quoted for the published file. values only: put together from a converter and reports.
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
class Published:
    """A repository at one revision."""

    repository: str
    revision: str
    names: tuple[str, ...]  # its hub ids
    reuploads: tuple[str, ...]  # of others, who may have changed it since
    files: Mapping[str, Mapping[str, Any]]  # by path: mark, source, values
    listing: Mapping[str, tuple]  # by path: bytes, hash, what the row rests on

    def values(self, path: str) -> dict[str, Any] | None:
        """What a JSON file holds; None where it is not known."""
        return self.files[path]["values"] if path in self.files else None

    def bytes_of(self, patterns: list[str]) -> int:
        """How large the listed files are that match one of the patterns, as the hub matches them."""
        return sum(size for path, (size, *_) in self.listing.items() if is_included(path, patterns))


def is_included(path: str, patterns: list[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


@functools.cache
def read(name: str) -> Published:
    """One of `names()`."""
    held = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    names = (held["repository"], *held["same"])
    listing = {path: tuple(row) for path, row in held["listing"].items()}
    return Published(
        held["repository"],
        held["revision"],
        names,
        tuple(held["reuploads"]),
        held["files"],
        listing,
    )


def names() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def of(hub_id: str) -> Published | None:
    """What is known of a repository, or of the one that it is a copy of."""
    for name in names():
        found = read(name)
        if hub_id in (*found.names, *found.reuploads):
            return found
    return None
