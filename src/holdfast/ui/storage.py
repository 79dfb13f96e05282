"""The files in the page's folder. Uploads and drawn masks are removed after a day without use, finished runs never."""

import contextlib
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base.files import SCRATCH

DAY = 86400  # seconds after which an unused upload is removed
GRACE = 600  # seconds for which a page may still use a file, however full the folder is


@dataclass(frozen=True)
class Usage:
    """Bytes in the page's folder, and bytes free on its disk."""

    runs: int
    uploads: int
    free: int


def measure_usage(root: Path) -> Usage:
    """Measure the page's folder. An upload that a run keeps (a hard link) counts once, as the run's."""
    counted: set[tuple[int, int]] = set()
    runs, uploads = (_count_bytes(root / name, counted) for name in ("runs", "uploads"))
    return Usage(runs, uploads, shutil.disk_usage(root).free)


def sweep(uploads: Path, limit: float, needed: Collection[Path] = ()) -> int:
    """Remove files that were not used for a day and, above `limit` bytes, the least recently used. Return the bytes.

    needed: files of queued and running edits. They stay, and so do files used within `GRACE`.
    """
    now, needed = time.time(), {path.resolve() for path in needed}
    files = sorted((_last_use(stat), path, stat) for path, stat in _walk_files(uploads))
    removable = [entry for entry in files if entry[1].resolve() not in needed]
    total, removed = sum(stat.st_size for _, _, stat in files), 0
    for used, path, stat in removable:
        is_old = now - used > DAY
        is_over = total - removed > limit and now - used > GRACE and SCRATCH not in str(path)
        if is_old or is_over:
            with contextlib.suppress(OSError):
                path.unlink()
                removed += stat.st_size
    _remove_empty_folders(uploads)
    return removed


def touch(path: str | Path) -> None:
    """Mark an upload as used. Its modification time stays, since it identifies the content."""
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), os.stat(path).st_mtime_ns))


def _last_use(stat: os.stat_result) -> float:
    return max(stat.st_atime, stat.st_mtime)


def _count_bytes(folder: Path, counted: set[tuple[int, int]]) -> int:
    total = 0
    for _, stat in _walk_files(folder):
        if (stat.st_dev, stat.st_ino) not in counted:
            counted.add((stat.st_dev, stat.st_ino))
            total += stat.st_size
    return total


def _walk_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield all files below a folder, except those that disappear meanwhile."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with contextlib.suppress(OSError):
                yield path, path.lstat()


def _remove_empty_folders(folder: Path) -> None:
    """Remove empty folders, except young ones: an upload may be about to be written there."""
    for parent, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            if parent != str(folder) and time.time() - os.stat(parent).st_mtime > GRACE:
                Path(parent).rmdir()
