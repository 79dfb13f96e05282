"""Output locks: one run at a time makes a result.

A lock is a file next to the output, locked by the operating system, so that it disappears with a killed process.
"""

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from ..base.errors import UserError
from ..base.files import SCRATCH

if sys.platform != "win32":  # on Windows, two processes do not notice each other
    import fcntl

_locks: "weakref.WeakValueDictionary[Path, OutputLock]" = weakref.WeakValueDictionary()
_taking = threading.Lock()


class OutputLock:
    """Keep other processes from an output until `release`, or until the last reference to this object is gone.

    is_busy: whether a run of this process works on the output now. Between its edit and its saving, none does.
    """

    def __init__(self, path: Path):
        self.is_busy = False
        absent = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        lock_path = path.with_name(f".{path.name}.lock{SCRATCH}")
        descriptor = _lock_file(lock_path)
        self.release = weakref.finalize(self, _release, descriptor, lock_path, absent, os.getpid())


@contextlib.contextmanager
def lock_output(path: str | Path) -> Iterator[OutputLock]:
    """Lock an output while the block runs. Afterwards other processes stay out for as long as the yielded lock is
    referenced; where the block raises, it is released at once.

    Raises UserError where another run works on the output, in this process or in another.
    """
    lock = _take_lock(Path(os.path.realpath(Path(path).parent), Path(path).name))
    try:
        yield lock
    except BaseException:  # also where a run is cancelled
        lock.release()
        raise
    finally:
        lock.is_busy = False


def _take_lock(path: Path) -> OutputLock:
    with _taking:
        lock = _locks.get(path)
        try:
            if lock and lock.is_busy:
                raise BlockingIOError
            if lock is None or not lock.release.alive:
                lock = _locks[path] = OutputLock(path)
        except BlockingIOError as error:
            raise UserError(
                f"another run is writing {path.name} now",
                "wait until it has finished, or choose another --output",
            ) from error
        lock.is_busy = True
    return lock


def _lock_file(path: Path) -> int | None:
    """Create and lock a file. Return its open descriptor, or None where the system or the file system has no locks.

    Raises BlockingIOError where another process has locked it.
    """
    while sys.platform != "win32":
        descriptor = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:  # its last holder has just removed it
            pass
        except BlockingIOError:
            if descriptor is not None:
                os.close(descriptor)
            raise
        except OSError:  # a file system without locks, or a full one: the edit may still fit
            _release(descriptor, path, [], os.getpid())
            return None
        if descriptor is not None:
            os.close(descriptor)
    return None


def _release(descriptor: int | None, path: Path, folders: list[Path], process: int) -> None:
    """Remove a lock file and the folders that were made for it, where they are empty.

    process: the one that took the lock. A forked process has its descriptor too, and must not release it.
    """
    if os.getpid() != process:
        return
    if descriptor is not None:
        with contextlib.suppress(OSError):
            path.unlink()  # before the lock is released, so that no other run's file is removed
        os.close(descriptor)
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
