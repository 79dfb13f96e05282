"""How long a test may wait: deadlines that grow with the load of the machine.

A deadline in a test is only there to end a hang. Multiply each one by `PATIENCE`, so that a busy or slow machine does
not fail a correct program. HOLDFAST_PATIENCE sets the factor by hand, for example under a debugger.
"""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
NOMINAL = 0.05  # CPU seconds of the loop below on a machine of 2024


def measure_patience() -> float:
    """Return how much longer than on an idle machine of 2024 a piece of work takes here, at least 1.

    It is the time of a fixed loop, by its nominal time, times the number of processes that wait for each core.
    """
    began, total = time.process_time(), 0
    for i in range(600_000):
        total += i * i
    slowness = (time.process_time() - began) / NOMINAL
    queue = os.getloadavg()[0] / (os.cpu_count() or 1)
    return max(1.0, slowness) * max(1.0, queue)


PATIENCE = float(os.environ.get("HOLDFAST_PATIENCE", 0)) or measure_patience()
HANG = 300 * PATIENCE  # seconds after which a process counts as hung
BROWSER = 1000 * HANG  # the same for a browser, in milliseconds


def wait_until(ready: Callable[[], T], seconds: float = 300, every: float = 0.02) -> T:
    """Return what `ready` returns as soon as it is true. Raise TimeoutError after `seconds` times PATIENCE."""
    deadline = time.monotonic() + seconds * PATIENCE
    while not (value := ready()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds * PATIENCE:.0f} s for {ready}")
        time.sleep(every)
    return value
