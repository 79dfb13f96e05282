"""`holdfast batch`: every row of a file, on this computer or a Ray cluster."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import Report, print_line, report_errors, rerun_command, screen, show_progress

if TYPE_CHECKING:
    from ..batch.record import BatchRecord, Job

SECONDS_BETWEEN_LINES = 10.0  # where there is no terminal for a bar
JOBS = (
    "The jobs: one a line, as JSON. An edit has the fields of holdfast edit (see: holdfast schema), a row with "
    '"source" and "edited" those of holdfast keep (see: holdfast schema keep). # begins a comment.'
)
OUTPUT = "Output folder; run the same command again to continue after a stop."
WORKERS = "Number of workers (default: one for each GPU, or one)."
RAY = "Address of a Ray cluster, HOST:PORT or auto (default: this computer)."
RETRIES = "How often to retry a job whose worker died or ran out of memory."
THREADS = "Torch threads per worker (default: as in a single run, for bit-identical results)."
TIMEOUT = "Maximum seconds per job, loading included; a job that takes longer fails, with its progress saved."
ANYWHERE = "Let rows write outside the output folder."
GPUS = "GPUs per worker; 0.5 puts two workers on one."
JSON = "Print the record, batch.json, on standard output, and nothing else there."


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
    json: Annotated[bool, typer.Option("--json", help=JSON)] = False,
) -> None:
    """Run many edits and keeps, each exactly once. Finished jobs are skipped; crashed workers are replaced."""
    with report_errors():
        from ..base.files import as_json
        from ..batch.record import exit_code
        from ..batch.run import BatchOptions, run_batch

        options = BatchOptions(workers, ray, retries, threads, gpus, timeout, anywhere)
        with show_progress(quiet=json or not screen.is_terminal) as bars:
            record = _run(lambda: run_batch(jobs, output, options, BatchProgress(bars, json)))
        if json:
            print(as_json(record.to_dict()))
        else:
            counts = format_counts(record.count_by_status())
            print_line(f"{counts} of {len(record.jobs)}; details in {output}/batch.json")
        code = exit_code(record.jobs)
    if code:
        raise typer.Exit(code)


def _run(work: Callable[[], "BatchRecord"]) -> "BatchRecord":
    """Run a batch. Print how to continue where the user stops it."""
    try:
        return work()
    except KeyboardInterrupt:
        print_line(f"stopped; progress is saved, continue with: {rerun_command()}")
        raise


class BatchProgress:
    """Progress of a batch: bars on a terminal, else a line every ten seconds; each failure once; nothing if quiet."""

    def __init__(self, bars: Report, quiet: bool):
        self.bars, self.quiet = bars, quiet
        self.start = self.last_line = time.monotonic()
        self.done_before: int | None = None
        self.failures: set[int] = set()
        self.line = ""

    def __call__(self, record: "BatchRecord") -> None:
        if self.quiet:
            return
        counts, total = record.count_by_status(), len(record.jobs)
        if self.done_before is None:
            self.done_before = record.count_finished()
            if counts["skipped"]:
                print_line(f"{counts['skipped']} of {total} were done before")
        self._print_failures(record)
        done, count = record.count_finished() - self.done_before, total - self.done_before
        self.bars("jobs", done, count)
        is_due = time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES
        if is_due and not screen.is_terminal:
            self._print_counts(counts, done, count)

    def _print_failures(self, record: "BatchRecord") -> None:
        for job in record.jobs:
            if job.status == "failed" and job.line not in self.failures:
                self.failures.add(job.line)
                print_line(describe_failure(job))

    def _print_counts(self, counts: Counter, done: int, count: int) -> None:
        from ..batch.record import remaining_text

        rest = remaining_text(done, count, time.monotonic() - self.start)
        line = f"{format_counts(counts)} of {counts.total()}{rest}"
        if line != self.line:
            print_line(line)
        self.line, self.last_line = line, time.monotonic()


def format_counts(counts: Counter) -> str:
    """Return counts as "37 done, 2 skipped, 1 failed"."""
    kinds = ("done", "skipped", "failed", "stopped")
    return ", ".join(f"{counts[k]} {k}" for k in kinds if counts[k] or k == "done")


def describe_failure(job: "Job") -> str:
    node = f" (on {job.node})" if job.node else ""
    bug = "; a bug, its traceback is in batch.json" if job.traceback else ""
    return f"line {job.line} failed: {job.sentence}{node}{bug}"
