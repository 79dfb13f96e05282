"""Run `holdfast` commands in processes forked from a warm server, with limits on memory, file size and time."""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from tests import processes
from tests.processes import ROOT as ROOT

LIMITS = processes.Limits(memory=12 << 30, file=256 << 20)
TIME_TO_END = 30.0  # seconds that a run has after a signal, times the suite's patience


@dataclass(frozen=True)
class Ran:
    """How a run ended. code: as the shell has it; negative for a signal; None where it was too slow."""

    code: int | None
    seconds: float
    out: str
    err: str


class Server:
    """Runs commands with an environment of their own. home: a folder for its hub cache."""

    def __init__(self, home: Path):
        self.home = home
        self.environment = {"HF_HOME": str(home / "hub"), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}

    def run(
        self,
        argv: list[str],
        folder: Path,
        limit: float = 10.0,
        code: str = "",
        stop: int = signal.SIGKILL,
    ) -> Ran:
        """Run `holdfast *argv` in a folder. limit: seconds until it is sent the signal `stop`, and killed if that does
        not end it. code: Python to run in its place.
        """
        with _environment(self.environment):
            process = processes.start(*argv, code=code, folder=folder, limits=LIMITS)
        done = process.wait(limit, stop, TIME_TO_END)
        return Ran(done.code, done.seconds, done.out, done.err)

    def close(self) -> None:
        """End nothing: the server of the processes ends with the tests."""


@contextlib.contextmanager
def _environment(values: dict[str, str]):
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
