"""Probe rows in threads while workers load and work, so that decoding a thousand clips delays none of them."""

import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from . import rows
from .record import Job, Outcome

THREADS = max(1, min(4, (os.cpu_count() or 1) // 2))  # decoding uses threads of its own


class Probes:
    """Probe every job, in the order of the rows."""

    def __init__(self, jobs: list[Job], is_cluster: bool):
        self.pool = ThreadPoolExecutor(THREADS, "probe")
        self.open: dict[Future[Outcome | None], Job] = {
            self.pool.submit(rows.probe, job.valid_task, is_cluster): job for job in jobs
        }
        self.failed: list[tuple[Job, Outcome]] = []

    def wait_for_valid_row(self) -> None:
        """Return once one row is valid or all are probed: until then no worker needs to start."""
        while self.open and not self._collect(None):
            pass

    def take_failures(self) -> Iterator[tuple[Job, Outcome]]:
        """Yield each row that was found invalid since the last call."""
        self._collect(0)
        failed, self.failed = self.failed, []
        yield from failed

    def _collect(self, seconds: float | None) -> bool:
        """Wait up to `seconds` for a finished probe (None: no limit), and collect. Return whether a row is valid."""
        finished, _ = wait(self.open, seconds, FIRST_COMPLETED)
        results = [(self.open.pop(future), future.result()) for future in finished]
        self.failed += [(job, outcome) for job, outcome in results if outcome]
        return any(outcome is None for _, outcome in results)

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
