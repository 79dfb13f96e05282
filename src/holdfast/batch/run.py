"""Run a batch: every row once, whatever dies on the way."""

import contextlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..claims import claimed
from ..console import FAILED, LESS, NO_MEMORY
from ..errors import UserError
from ..memory import ran_out
from ..notes import note
from . import rows
from .crew import Crew, Dead, Hand, session
from .record import NAME, Job, Record

TICK = 0.5  # seconds between two looks at the workers
Told = Callable[[Record], None]


@dataclass(frozen=True)
class Options:
    """How a batch is run. None of it changes a result, but for `threads` on some models."""

    workers: int | None = None  # None: one for every GPU, or one
    ray: str | None = None  # the cluster's address; None: this machine alone
    retries: int = 2  # of a job whose worker died, or ran out of memory
    threads: int | None = None  # of torch, in each worker; None: as many as a single run here has
    gpus: float = 1.0  # of a GPU, for each worker, where there are any


def run(file: Path, folder: Path, options: Options, told: Told = lambda record: None) -> Record:
    """Do all rows of a file that are not done. Returns what became of each; DIR/batch.json holds the same.

    told: called with the record as it goes. Raises ValueError for a file without rows, a folder that another batch
    works in, or workers that cannot start; Missing without Ray. Ctrl-C saves what is under way, and is raised.
    """
    jobs = rows.read(file, folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; results go into a folder")
    folder.mkdir(parents=True, exist_ok=True)
    about = {"jobs": str(file.absolute()), "run": uuid.uuid4().hex}
    record = Record(folder, jobs, about)
    with claimed(folder / NAME), _recorded(record):
        for job in jobs:
            if job.status == "waiting":
                rows.check(job, elsewhere=options.ray is not None)
        told(record)
        if record.counts()["waiting"]:
            _work(record, options, told)
    return record


@contextlib.contextmanager
def _recorded(record: Record) -> Iterator[None]:
    """Whatever happens: DIR/batch.json says what was done until then."""
    try:
        yield
    finally:
        record.write()


def _work(record: Record, options: Options, told: Told) -> None:
    waiting = [job for job in record.jobs if job.status == "waiting"]
    with session(options.ray, options.workers) as ray:
        crew = _crew(ray, record, options, waiting)
        record.write()  # before any worker looks for it
        try:
            _exhaust(waiting, crew, record, options.retries, told)
        finally:  # Ctrl-C, for one
            crew.stop()
            for job in record.jobs:
                job.status = "stopped" if job.status == "running" else job.status


def _crew(ray, record: Record, options: Options, waiting: list[Job]) -> Crew:
    import torch

    there = ray.cluster_resources()
    wanted = any(job.task.device != "cpu" for job in waiting)
    gpus = options.gpus if there.get("GPU") and wanted else 0.0
    room = int(there["GPU"] / gpus) if gpus else int(there.get("CPU", 0))
    size = options.workers or (max(1, room) if gpus else 1)
    if size > room:
        note(f"there is room for {room} of {size} workers; the others wait")
    if options.gpus != Options.gpus and not gpus:
        note("no GPU is used, so --gpus has no effect")
    threads = options.threads or torch.get_num_threads()
    record.about |= {"workers": size, "threads": threads, "gpus": gpus}
    return Crew(ray, size, threads, gpus, (str(record.folder.absolute()), record.about["run"]))


def _exhaust(waiting: list[Job], crew: Crew, record: Record, retries: int, told: Told) -> None:
    while waiting or crew.busy():
        crew.fill(len(waiting) + len(crew.busy()))
        for hand in crew.idle()[: len(waiting)]:
            job = chosen(waiting, hand, Counter(other.kind for other in crew.busy()))
            waiting.remove(job)
            job.status, job.attempts = "running", job.attempts + 1
            crew.give(hand, job)
        for hand, job, outcome in crew.settled(TICK):
            if _again(job, outcome, retries):
                waiting.insert(0, job)
            if isinstance(outcome, Exception) and ran_out(outcome):
                crew.dismiss(hand)  # a fresh process has all its memory again
        record.write_now_and_then()
        told(record)


def chosen(waiting: list[Job], hand: Hand, taken: Counter) -> Job:
    """The first job that the worker's backbone fits; else of the kind that has most jobs for the workers on it."""
    kinds = Counter(job.kind for job in waiting)
    kind = hand.kind
    if kind not in kinds:
        kind = max(kinds, key=lambda kind: kinds[kind] / (1 + taken[kind]))
    return next(job for job in waiting if job.kind == kind)


def _again(job: Job, outcome: Any, retries: int) -> bool:
    """Write down what came of a job; whether it is to be tried again."""
    memory = outcome.memory if isinstance(outcome, Dead) else _memory(outcome)
    if isinstance(outcome, Dead) or memory:
        if job.attempts <= retries:
            job.status = "waiting"
            return True
        died = f"its worker died {job.attempts} times: {getattr(outcome, 'sentence', '')}"
        job.fail(LESS if memory else died, NO_MEMORY if memory else FAILED)
    elif isinstance(outcome, BaseException):
        job.fail(*rows.why(outcome))
    elif outcome is None:
        job.status = "stopped"
    else:
        job.status, job.seconds = "done", outcome
    return False


def _memory(outcome: Any) -> bool:
    return isinstance(outcome, BaseException) and ran_out(outcome)
