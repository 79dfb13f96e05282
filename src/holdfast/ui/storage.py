"""What lies in the page's folder: uploads and drawn masks go when nobody used them for a day, finished runs never."""

import contextlib
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base.files import SCRATCH

DAY = 86400  # seconds after which an unused upload goes
GRACE = 600  # seconds for which a page may still hold one, however full the folder is


@dataclass(frozen=True)
class Usage:
    """Bytes in the page's folder, and what is free on its disk."""

    runs: int
    uploads: int
    free: int


def measure(root: Path) -> Usage:
    """Count each file once: an upload that a run keeps is the run's."""
    seen: set[tuple[int, int]] = set()
    runs, uploads = (_bytes(root / name, seen) for name in ("runs", "uploads"))
    return Usage(runs, uploads, shutil.disk_usage(root).free)


def sweep(uploads: Path, limit: float, needed: Collection[Path] = ()) -> int:
    """Remove what was not used for a day, and above `limit` bytes what was used longest ago. Return the bytes.

    needed: files that waiting and running edits read. They stay, and so does what was used a moment ago.
    """
    now, needed = time.time(), {path.resolve() for path in needed}
    found = sorted((_used(stat), path, stat) for path, stat in _files(uploads))
    free = [entry for entry in found if entry[1].resolve() not in needed]
    held, removed = sum(stat.st_size for _, _, stat in found), 0
    for used, path, stat in free:
        is_old = now - used > DAY
        is_over = held - removed > limit and now - used > GRACE and SCRATCH not in str(path)
        if is_old or is_over:
            with contextlib.suppress(OSError):
                path.unlink()
                removed += stat.st_size
    _remove_empty(uploads)
    return removed


def touch(path: str | Path) -> None:
    """Say that an upload is in use. Its time of change stays, by which it is known again."""
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), os.stat(path).st_mtime_ns))


def _used(stat: os.stat_result) -> float:
    return max(stat.st_atime, stat.st_mtime)


def _bytes(folder: Path, seen: set[tuple[int, int]]) -> int:
    total = 0
    for _, stat in _files(folder):
        if (stat.st_dev, stat.st_ino) not in seen:
            seen.add((stat.st_dev, stat.st_ino))
            total += stat.st_size
    return total


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the files of a folder and of those in it; what disappears meanwhile is passed over."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with contextlib.suppress(OSError):
                yield path, path.lstat()


def _remove_empty(folder: Path) -> None:
    """Remove empty folders; one that an upload is about to be written to is young."""
    for parent, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            if parent != str(folder) and time.time() - os.stat(parent).st_mtime > GRACE:
                Path(parent).rmdir()
