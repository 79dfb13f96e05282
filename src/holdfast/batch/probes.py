"""Rows are read in threads while workers load and work: a thousand clips to decode hold up none of them."""

import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from . import rows
from .record import Job, Outcome

THREADS = max(1, min(4, (os.cpu_count() or 1) // 2))  # decoding has threads of its own


class Probes:
    """Probe every job, in the order of the rows."""

    def __init__(self, jobs: list[Job], elsewhere: bool):
        self.pool = ThreadPoolExecutor(THREADS, "probe")
        self.open: dict[Future, Job] = {
            self.pool.submit(rows.probe, job.task, elsewhere): job for job in jobs
        }
        self.bad: list[tuple[Job, Outcome]] = []

    def await_good(self) -> None:
        """Return once a row is found good, or all are probed: before that no worker is worth its start."""
        while self.open and not self._collect(None):
            pass

    def failures(self) -> Iterator[tuple[Job, Outcome]]:
        """Each row that was found bad since the last look."""
        self._collect(0)
        found, self.bad = self.bad, []
        yield from found

    def _collect(self, seconds: float | None) -> bool:
        """Take what is finished, after waiting so long for any (None: as long as it takes); whether one was good."""
        finished, _ = wait(self.open, seconds, FIRST_COMPLETED)
        results = [(self.open.pop(future), future.result()) for future in finished]
        self.bad += [(job, outcome) for job, outcome in results if outcome]
        return any(outcome is None for _, outcome in results)

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
