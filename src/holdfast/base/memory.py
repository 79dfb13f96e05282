"""Memory: errors of memory that ran out, and the peak memory of some work."""

import ctypes
import functools
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

_SAID = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "Insufficient memory",
)


_UNITS = {"B": 1, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_LIMIT = re.compile(r"(?:auto|(\d+(?:\.\d+)?)\s*([kmgt]i?b|b))(?:\s*,\s*(float8))?", re.IGNORECASE)


@dataclass(frozen=True)
class MemoryLimit:
    """The memory that an edit may take. bytes: None for what is free. storage: "float8", or empty for exact weights."""

    bytes: int | None = None
    storage: str = ""


def parse_limit(text: str) -> MemoryLimit:
    """Return what "auto", "12GB", "11.5 GiB" or "12GB,float8" stand for. Raise UserError for any other text."""
    found = _LIMIT.fullmatch(text.strip())
    if found is None or (found[2] and found[2].upper() not in _UNITS):
        raise UserError(
            f"memory is {text[:40]!r}",
            "use auto, or a size such as 12GB, 12GiB, 12000MB or 12GB,float8",
        )
    size = round(float(found[1]) * _UNITS[found[2].upper()]) if found[1] else None
    if size == 0:
        raise UserError(f"memory is {text!r}", "use a size above 0, or auto")
    return MemoryLimit(size, (found[3] or "").lower())


def format_size(size: int) -> str:
    """Return a number of bytes as a value of --memory, rounded up to 0.1 GB: "11.4GB"."""
    return f"{-(-size // 10**8) / 10:g}GB"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python, NumPy, OpenCV or torch means that memory ran out."""
    return isinstance(error, MemoryError) or any(said in str(error) for said in _SAID)


def return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library can. It keeps what lies between live objects."""
    trim = _find_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _find_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except AttributeError:  # not the GNU C library
        return None


class PeakMemory:
    """Measure the peak memory of this process during some work: `with peak: ...`, as often as needed.

    It covers RAM, and on each GPU the memory that torch allocates. If the system cannot reset an earlier peak (it is
    not Linux, or a container forbids it), a lower peak is unknown. Measurements may nest and overlap.
    """

    def __init__(self) -> None:
        self._most: dict[str, int] = {}  # bytes, by device
        self._begun: dict[str, int] = {}  # the peak before the work, if it cannot be reset
        self._bound = 0  # upper bound of RAM in bytes while the peak was unknown

    def __enter__(self) -> "PeakMemory":
        with _lock:
            _read_all()
            before = _forget()
            self._begun = {} if before is None else {"cpu": before}
            _running.append(self)
        return self

    def __exit__(self, *_) -> None:
        with _lock:
            _read_all()
            _running.remove(self)

    def megabytes(self, device: str) -> float | None:
        """Return the peak on a device as torch names it ("cpu", "cuda:0"), in MB; None where it is unknown."""
        name = "cuda:0" if device == "cuda" else device
        most = self._most.get(name)
        if most is None or (name == "cpu" and self._bound > most):
            return None
        return round(most / 2**20, 1)

    def _take(self, marks: dict[str, int]) -> None:
        """Update the peaks from the high-water marks since the last update."""
        for name, mark in marks.items():
            if mark > self._begun.get(name, 0):
                self._most[name] = max(mark, self._most.get(name, 0))
            else:
                self._bound = max(self._bound, mark)


_running: list[PeakMemory] = []
_lock = threading.Lock()


def _read_all() -> None:
    """Update every measurement. A mark belongs to the whole process, and the next measurement resets it."""
    if _running:
        marks = {"cpu": _ram_mark()} | _gpu_marks()
        for one in _running:
            one._take(marks)


def _forget() -> int | None:
    """Reset the high-water marks. Return the mark of RAM if the system cannot reset it."""
    for index in range(_gpus()):
        sys.modules["torch"].cuda.reset_peak_memory_stats(index)
    try:
        _RESET.write_text("5")
    except OSError:
        return _ram_mark()
    return None


def _gpus() -> int:
    """Return the number of GPUs on which torch may have allocated memory: 0 before its first use of them."""
    if "torch" not in sys.modules:
        return 0
    cuda = sys.modules["torch"].cuda
    return cuda.device_count() if cuda.is_available() and cuda.is_initialized() else 0


def _gpu_marks() -> dict[str, int]:
    return {f"cuda:{i}": sys.modules["torch"].cuda.max_memory_allocated(i) for i in range(_gpus())}


def _ram_mark() -> int:
    """Return the most RAM that this process has held since the mark was reset, in bytes."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    # This mark can be reset. The mark of getrusage is the parent's before exec, if that is larger.
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
