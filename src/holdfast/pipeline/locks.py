"""One run at a time makes a result: a claim on its name, which others see while it is held, and which a killed run's
death lets go.
"""

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from ..base.errors import UserError
from ..base.files import SCRATCH

try:
    import fcntl
except ImportError:  # Windows: two processes are not told apart there
    fcntl = None

_locks: "weakref.WeakValueDictionary[Path, OutputLock]" = weakref.WeakValueDictionary()
_taking = threading.Lock()


class OutputLock:
    """A result's name, kept from other processes until `release`, or until nobody refers to this.

    busy: whether a run of this process works on it right now; between its edit and its saving none does.
    """

    def __init__(self, path: Path):
        self.is_busy = False
        absent = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        place = path.with_name(f".{path.name}.lock{SCRATCH}")
        self.release = weakref.finalize(self, _release, _lock_file(place), place, absent, os.getpid())


@contextlib.contextmanager
def lock_output(path: str | Path) -> Iterator[OutputLock]:
    """Work on a result's name alone. What is yielded keeps other processes away for as long as it is kept, but for a
    block that ends with an error.

    Raises ValueError where another run works on it, in this process or another.
    """
    claim = _take_lock(Path(os.path.realpath(Path(path).parent), Path(path).name))
    try:
        yield claim
    except BaseException:  # a cancelled run too
        claim.release()
        raise
    finally:
        claim.is_busy = False


def _take_lock(path: Path) -> OutputLock:
    with _taking:
        claim = _locks.get(path)
        try:
            if claim and claim.busy:
                raise BlockingIOError
            if claim is None or not claim.release.alive:
                claim = _locks[path] = OutputLock(path)
        except BlockingIOError as error:
            raise UserError(
                f"another run is making {path.name} at this moment; wait for it, or give another --output"
            ) from error
        claim.busy = True
    return claim


def _lock_file(place: Path) -> int | None:
    """An open descriptor of a file that only this process has locked; None where locks are not to be had.

    Raises BlockingIOError where another process has it.
    """
    lock = None
    while fcntl:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), place.stat()):
                return lock
        except FileNotFoundError:  # its last holder has just taken it away
            pass
        except BlockingIOError:
            os.close(lock)
            raise
        except OSError:  # a file system without locks, or a full one: the edit may still fit
            _release(lock, place, [], os.getpid())
            return None
        if lock is not None:
            os.close(lock)
            lock = None
    return None


def _release(lock: int | None, place: Path, made: list[Path], process: int) -> None:
    """made: folders that were made for it, and are left only where something lies in them. process: whose it is; a
    forked one has the descriptor too.
    """
    if os.getpid() != process:
        return
    if lock is not None:
        with contextlib.suppress(OSError):
            place.unlink()  # before the lock goes, so that nobody else's is taken away
        os.close(lock)
    for folder in made:
        with contextlib.suppress(OSError):
            folder.rmdir()
