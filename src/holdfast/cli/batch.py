"""holdfast batch: every row of a file, on this machine or a Ray cluster."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ..base.exit_codes import one_line
from .console import command, exit_codes, screen, shown_progress

if TYPE_CHECKING:
    from ..batch.record import Job, Record

SAY_EVERY = 10.0  # seconds between two lines, where there is no terminal for a bar
JOBS = "The rows: an edit a line, as JSON with the fields of `holdfast edit`; # begins a comment."
OUTPUT = "Folder for results; the same command goes on where it stopped."
WORKERS = "How many work at once; by default one for every GPU, or one."
RAY = "Address of a Ray cluster, HOST:PORT or auto; by default this machine alone."
RETRIES = "How often a job is tried again whose worker died or ran out of memory."
THREADS = "Of each worker; by default as many as a single run here has, for the very same numbers."
TIMEOUT = "Seconds that a job may take, with loading; then it fails, with its latents saved."
ANYWHERE = "Let rows write outside the folder of -o."
GPUS = "Of a GPU, for each worker; 0.5 puts two workers on one."


def batch(
    jobs: Annotated[Path, typer.Argument(help=JOBS, metavar="JOBS.jsonl")],
    output: Annotated[Path, typer.Option("-o", "--output", help=OUTPUT)],
    workers: Annotated[int | None, typer.Option(help=WORKERS, min=1)] = None,
    ray: Annotated[str | None, typer.Option(help=RAY, metavar="ADDRESS")] = None,
    retries: Annotated[int, typer.Option(help=RETRIES, min=0)] = 2,
    threads: Annotated[int | None, typer.Option(help=THREADS, min=1)] = None,
    gpus: Annotated[float, typer.Option(help=GPUS, min=0.01)] = 1.0,
    timeout: Annotated[float | None, typer.Option(help=TIMEOUT, min=1)] = None,
    anywhere: Annotated[bool, typer.Option("--outputs-anywhere", help=ANYWHERE)] = False,
    json: Annotated[bool, typer.Option("--json", help="Print DIR/batch.json, alone.")] = False,
) -> None:
    """Edit many clips: each row once, whatever dies on the way. What is done already is skipped."""
    with exit_codes():
        from ..base.files import as_json
        from ..batch.record import exit_code
        from ..batch.run import Options, run

        options = Options(workers, ray, retries, threads, gpus, timeout, anywhere)
        with shown_progress(quiet=json or not screen.is_terminal) as bars:
            record = _run(lambda: run(jobs, output, options, Shown(bars, json)))
        if json:
            print(as_json(record.data()))
        else:
            say(
                f"{counted(record.counts())} of {len(record.jobs)}; all of it in {output}/batch.json"
            )
        code = exit_code(record.jobs)
    if code:
        raise typer.Exit(code)


def _run(work: Callable[[], "Record"]) -> "Record":
    """Where the user stops it, say how to go on."""
    try:
        return work()
    except KeyboardInterrupt:
        say(f"stopped; what was under way is saved, and the same command goes on: {command()}")
        raise


class Shown:
    """A batch as it goes: bars on a terminal, else a line now and then; each failure once; nothing with --json."""

    def __init__(self, bars, quiet: bool):
        self.bars, self.quiet = bars, quiet
        self.begun, self.skipped, self.last = time.monotonic(), None, time.monotonic()
        self.failures: set[int] = set()
        self.line = ""

    def __call__(self, record: "Record") -> None:
        if self.quiet:
            return
        counts = record.counts()
        if self.skipped is None:
            self.skipped = record.finished()
            if counts["skipped"]:
                say(f"{counts['skipped']} of {len(record.jobs)} are done already")
        for job in record.jobs:
            if job.status == "failed" and job.line not in self.failures:
                self.failures.add(job.line)
                say(failure(job))
        done, count = record.finished() - self.skipped, len(record.jobs) - self.skipped
        self.bars("jobs", done, count)
        if not screen.is_terminal and time.monotonic() - self.last > SAY_EVERY:
            self._line(counts, done, count)

    def _line(self, counts: Counter, done: int, count: int) -> None:
        from ..batch.record import left

        rest = left(done, count, time.monotonic() - self.begun)
        line = f"{counted(counts)} of {counts.total()}{rest}"
        if line != self.line:
            say(line)
        self.line, self.last = line, time.monotonic()


def counted(counts: Counter) -> str:
    """37 done, 2 skipped, 1 failed"""
    kinds = ("done", "skipped", "failed", "stopped")
    said = [f"{counts[kind]} {kind}" for kind in kinds if counts[kind] or kind == "done"]
    return ", ".join(said)


def failure(job: "Job") -> str:
    where = f" (on {job.node})" if job.node else ""
    bug = "; a bug, whose traceback is in batch.json" if job.traceback else ""
    return f"line {job.line} failed: {job.sentence}{where}{bug}"


def say(text: str) -> None:
    screen.print(escape(one_line(text)), highlight=False, soft_wrap=True)
