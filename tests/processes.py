"""Run the command line, or a small program, as a real process without paying for its imports.

Every process is forked from one server per test worker, which has imported the package (`preload.py`). It has a process
group, standard streams and a working directory of its own, and can be stopped by a signal like any other.
Tests of what is imported, and of `python -m holdfast.cli` itself, start an interpreter instead.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

from .patience import HANG, PATIENCE, wait_until

ROOT = Path(__file__).parent.parent
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.preload"])


@dataclass(frozen=True)
class Finished:
    """How a process ended. code: as the shell has it, negative for a signal; None where it was too slow."""

    code: int | None
    out: str
    err: str
    seconds: float


@dataclass(frozen=True)
class Limits:
    """Bytes that a process may map, and write to one file."""

    memory: int
    file: int


class Process:
    """A process that runs. Its output goes to files, which can be read at any time."""

    def __init__(
        self, target: Callable, arguments: tuple, folder: Path | None, limits: Limits | None
    ):
        self._logs = tempfile.TemporaryDirectory(prefix="process-")
        self.paths = [Path(self._logs.name, name) for name in ("out", "err")]
        for path in self.paths:
            path.touch()
        about = (target, arguments, self.paths, folder or Path.cwd(), limits, dict(os.environ))
        self._process = CONTEXT.Process(target=_become, args=about, daemon=True)
        with contextlib.chdir(ROOT):  # the server finds tests.preload there, when it starts
            forkserver.ensure_running()
        self._began = time.monotonic()
        self._process.start()
        self.pid: int = self._process.pid or 0

    @property
    def out(self) -> str:
        return self.paths[0].read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.paths[1].read_text(errors="replace")

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def wait_for(self, text: str) -> str:
        """Return standard output as soon as it has the text, or the process has ended."""
        wait_until(lambda: text in self.out or not self.is_alive())
        return self.out

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(
        self, seconds: float = HANG, stop: int = signal.SIGKILL, grace: float = 30
    ) -> Finished:
        """Wait for the end, and kill what is left of the process group.

        After so many seconds send the signal `stop`; the process then has `grace` times PATIENCE to end.
        """
        self._process.join(seconds)
        if self.is_alive() and stop != signal.SIGKILL:
            self.send(stop)
            self._process.join(grace * PATIENCE)
        took = time.monotonic() - self._began
        on_time = not self.is_alive()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join()
        finished = Finished(self._process.exitcode if on_time else None, self.out, self.err, took)
        self._process.close()
        self._logs.cleanup()
        return finished

    def kill(self) -> Finished:
        self.send(signal.SIGKILL)
        return self.wait()


def start(
    *argv, code: str = "", folder: Path | None = None, limits: Limits | None = None
) -> Process:
    """Start `holdfast *argv`, or the Python program `code` with these arguments."""
    return Process(_run_main, ([str(a) for a in argv], code), folder, limits)


def run(*argv, code: str = "", folder: Path | None = None) -> Finished:
    """Run `holdfast *argv`, or the Python program `code`, to its end."""
    return start(*argv, code=code, folder=folder).wait()


def _become(target, arguments, paths: list[Path], folder: Path, limits, environment) -> None:
    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in enumerate(paths, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    if limits:
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file, limits.file))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(folder)
    target(*arguments)


def _run_main(argv: list[str], code: str) -> None:
    sys.argv = ["holdfast", *argv]
    if code:
        exec(code, {"__name__": "__main__"})
    else:
        from holdfast.cli.app import main

        main()
