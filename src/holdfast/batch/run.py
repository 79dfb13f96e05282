"""Run a batch: every row once, whatever dies on the way."""

import contextlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import UserError
from ..base.exit_codes import FAILED, OUT_OF_MEMORY, NO_MEMORY
from ..base.notices import warn_user
from ..pipeline.locks import lock_output
from . import rows
from .crew import TICK, Crew, Dead, Hand
from .probes import Probes
from .record import NAME, Job, Outcome, Record
from .session import session

Told = Callable[[Record], None]


@dataclass(frozen=True)
class Options:
    """How a batch is run. None of it changes a result, but for `threads` on some models."""

    workers: int | None = None  # None: one for every GPU, or one
    ray: str | None = None  # the cluster's address; None: this machine alone
    retries: int = 2  # of a job whose worker died, or ran out of memory
    threads: int | None = None  # of torch, in each worker; None: as many as a single run here has
    gpus: float = 1.0  # of a GPU, for each worker, where there are any
    timeout: float | None = (
        None  # seconds that a job may take, with loading; None: as long as it takes
    )
    anywhere: bool = False  # outputs may lie outside the batch's folder


def run(file: Path, folder: Path, options: Options, told: Told = lambda record: None) -> Record:
    """Do all rows of a file that are not done. Returns what became of each; DIR/batch.json holds the same.

    told: called with the record as it goes. Raises ValueError for a file without rows, a folder that another batch
    works in, or workers that cannot start; Missing without Ray. Ctrl-C saves what is under way, and is raised.
    """
    jobs = rows.read(file, folder, options.anywhere)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; results go into a folder")
    folder.mkdir(parents=True, exist_ok=True)
    about = {"jobs": str(file.absolute()), "run": uuid.uuid4().hex}
    record = Record(folder, jobs, about)
    with lock_output(folder / NAME), _recorded(record):
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
    with contextlib.closing(Probes(waiting, options.ray is not None)) as probes:
        probes.await_good()
        _drop_bad(waiting, probes)
        told(record)
        if not waiting:
            return
        with session(options.ray, options.workers) as ray:
            crew = _crew(ray, record, options, waiting)
            record.write()  # before any worker looks for it
            try:
                _exhaust(waiting, crew, probes, Progress(record, options.retries, told))
            finally:  # Ctrl-C, for one
                _stop(crew, record)


def _drop_bad(waiting: list[Job], probes: Probes) -> None:
    """Fail rows that were found bad and that no worker has yet."""
    for job, outcome in probes.failures():
        if job in waiting:
            waiting.remove(job)
            job.end(outcome)


def _stop(crew: Crew, record: Record) -> None:
    try:
        for _, job, outcome in crew.stop():
            if isinstance(outcome, Outcome):
                job.end(outcome)
    finally:
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
        warn_user(f"there is room for {room} of {size} workers; the others wait")
    if options.gpus != Options.gpus and not gpus:
        warn_user("no GPU is used, so --gpus has no effect")
    threads = options.threads or torch.get_num_threads()
    worker = {"threads": threads, "gpus": gpus}
    record.about |= {"workers": size, **worker, "timeout": options.timeout}
    meeting = (str(record.folder.absolute()), record.about["run"])
    return Crew(ray, size, worker, meeting, options.timeout)


@dataclass(frozen=True)
class Progress:
    """Where a running batch writes down what it does, and how often it tries."""

    record: Record
    retries: int
    told: Told

    def say(self) -> None:
        self.record.write_now_and_then()
        self.told(self.record)


def _exhaust(waiting: list[Job], crew: Crew, probes: Probes, progress: Progress) -> None:
    while waiting or crew.busy():
        _drop_bad(waiting, probes)
        crew.fill(len(waiting) + len(crew.busy()))
        for hand in crew.idle()[: len(waiting)]:
            job = chosen(waiting, hand, Counter(other.kind for other in crew.busy()))
            waiting.remove(job)
            crew.give(hand, job)
        for hand, job, outcome in crew.settled(TICK):
            if _again(job, outcome, progress.retries):
                waiting.insert(0, job)
            if isinstance(outcome, Outcome) and outcome.code == NO_MEMORY and hand in crew.hands:
                crew.dismiss(hand)  # a fresh process has all its memory again
        progress.say()


def chosen(waiting: list[Job], hand: Hand, taken: Counter) -> Job:
    """The first job that the worker's backbone fits; else of the kind that has most jobs for the workers on it."""
    kinds = Counter(job.kind for job in waiting)
    kind = hand.kind
    if kind not in kinds:
        kind = max(kinds, key=lambda kind: kinds[kind] / (1 + taken[kind]))
    return next(job for job in waiting if job.kind == kind)


def _again(job: Job, outcome: Outcome | Dead, retries: int) -> bool:
    """Write down what came of a job; whether it is to be tried again."""
    if isinstance(outcome, Dead) and not outcome.begun:
        job.status = "waiting"
        return True
    memory = outcome.memory if isinstance(outcome, Dead) else outcome.code == NO_MEMORY
    if not (isinstance(outcome, Dead) or memory):
        job.end(outcome)
        return False
    if job.attempts <= retries:
        job.status = "waiting"
        return True
    died = f"its worker died {job.attempts} times: {outcome.sentence}"
    job.fail(OUT_OF_MEMORY if memory else died, NO_MEMORY if memory else FAILED)
    return False
