"""Run a batch: every row exactly once, also if workers crash."""

import contextlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.exit_codes import FAILED, NO_MEMORY, OUT_OF_MEMORY
from ..base.notices import warn_user
from ..pipeline.locks import lock_output
from . import rows
from .probes import Probes
from .record import RECORD_NAME, BatchRecord, Job, Outcome
from .session import connect_ray
from .worker_pool import POLL_INTERVAL, WorkerDeath, WorkerHandle, WorkerPool

ProgressCallback = Callable[[BatchRecord], None]


@dataclass(frozen=True)
class BatchOptions:
    """How to run a batch. No option changes a result, except `threads` on some models."""

    workers: int | None = None  # None: one for every GPU, or one
    ray: str | None = None  # the cluster's address; None: this machine only
    retries: int = 2  # of a job whose worker died or ran out of memory
    threads: int | None = None  # torch threads of each worker; None: as many as a single run has
    gpus: float = 1.0  # GPUs for each worker, if there are any
    timeout: float | None = None  # seconds that a job may take, loading included; None: no limit
    anywhere: bool = False  # outputs may lie outside the batch's folder


def run_batch(
    file: Path,
    folder: Path,
    options: BatchOptions,
    on_progress: ProgressCallback = lambda record: None,
) -> BatchRecord:
    """Do all rows of a file that are not done. Return the state of each; DIR/batch.json holds the same.

    on_progress: called with the record as it changes. Raise UserError for a file without rows, a folder that another
    batch uses, or workers that cannot start; MissingDependencyError without Ray. Ctrl-C saves running jobs, and is
    raised again.
    """
    jobs = rows.read_jobs(file, folder, options.anywhere)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file", "choose a folder for the results")
    folder.mkdir(parents=True, exist_ok=True)
    record = BatchRecord(folder, jobs, {"jobs": str(file.absolute()), "run": uuid.uuid4().hex})
    with lock_output(folder / RECORD_NAME), _write_finally(record):
        for job in jobs:
            if job.status == "waiting":
                rows.check(job, is_cluster=options.ray is not None)
        on_progress(record)
        if record.count_by_status()["waiting"]:
            _do_waiting(record, options, on_progress)
    return record


@contextlib.contextmanager
def _write_finally(record: BatchRecord) -> Iterator[None]:
    """Write DIR/batch.json when the block ends, also after an error."""
    try:
        yield
    finally:
        record.write()


def _do_waiting(record: BatchRecord, options: BatchOptions, on_progress: ProgressCallback) -> None:
    waiting = [job for job in record.jobs if job.status == "waiting"]
    with contextlib.closing(Probes(waiting, options.ray is not None)) as probes:
        probes.wait_for_valid_row()
        _drop_invalid(waiting, probes)
        on_progress(record)
        if not waiting:
            return
        with connect_ray(options.ray, options.workers) as ray:
            pool = _make_pool(ray, record, options, waiting)
            record.write()  # before a worker looks for it
            try:
                _run_jobs(waiting, pool, probes, Progress(record, options.retries, on_progress))
            finally:  # also after Ctrl-C
                _stop(pool, record)


def _drop_invalid(waiting: list[Job], probes: Probes) -> None:
    """Fail the rows that were found invalid and that no worker has yet."""
    for job, outcome in probes.take_failures():
        if job in waiting:
            waiting.remove(job)
            job.finish(outcome)


def _stop(pool: WorkerPool, record: BatchRecord) -> None:
    try:
        for _, job, outcome in pool.stop():
            if isinstance(outcome, Outcome):
                job.finish(outcome)
    finally:
        for job in record.jobs:
            job.status = "stopped" if job.status == "running" else job.status


def _make_pool(
    ray: Any, record: BatchRecord, options: BatchOptions, waiting: list[Job]
) -> WorkerPool:
    import torch

    resources = ray.cluster_resources()
    may_use_gpu = any(job.may_use_gpu for job in waiting)
    gpus = options.gpus if resources.get("GPU") and may_use_gpu else 0.0
    capacity = int(resources["GPU"] / gpus) if gpus else int(resources.get("CPU", 0))
    size = options.workers or (max(1, capacity) if gpus else 1)
    if size > capacity:
        warn_user(f"only {capacity} of {size} workers fit; the rest will be queued")
    if options.gpus != BatchOptions.gpus and not gpus:
        warn_user("no GPU is used, so --gpus has no effect")
    threads = options.threads or torch.get_num_threads()
    worker = {"threads": threads, "gpus": gpus}
    record.info |= {"workers": size, **worker, "timeout": options.timeout}
    rendezvous = (str(record.folder.absolute()), record.info["run"])
    return WorkerPool(ray, size, worker, rendezvous, options.timeout)


@dataclass(frozen=True)
class Progress:
    """The record of a running batch, how often a job is retried, and who is informed."""

    record: BatchRecord
    retries: int
    on_progress: ProgressCallback

    def update(self) -> None:
        self.record.write_if_due()
        self.on_progress(self.record)


def _run_jobs(waiting: list[Job], pool: WorkerPool, probes: Probes, progress: Progress) -> None:
    while waiting or pool.busy():
        _drop_invalid(waiting, probes)
        pool.scale_up(len(waiting) + len(pool.busy()))
        for worker in pool.idle()[: len(waiting)]:
            in_use = Counter(other.backbone_key for other in pool.busy())
            job = choose_job(waiting, worker, in_use)
            waiting.remove(job)
            pool.assign(worker, job)
        for worker, job, outcome in pool.wait_any(POLL_INTERVAL):
            if _needs_retry(job, outcome, progress.retries):
                waiting.insert(0, job)
            is_full = isinstance(outcome, Outcome) and outcome.code == NO_MEMORY
            if is_full and worker in pool.workers:
                pool.remove(worker)  # a new process has all of its memory
        progress.update()


def choose_job(waiting: list[Job], worker: WorkerHandle, in_use: Counter) -> Job:
    """Choose the first job for the worker's loaded backbone, else one for the backbone with most jobs a worker.

    in_use: workers by backbone key.
    """
    counts = Counter(job.backbone_key for job in waiting)
    chosen = worker.backbone_key
    if chosen not in counts:
        chosen = max(counts, key=lambda key: counts[key] / (1 + in_use[key]))
    return next(job for job in waiting if job.backbone_key == chosen)


def _needs_retry(job: Job, outcome: Outcome | WorkerDeath, retries: int) -> bool:
    """Store the outcome of an attempt. Return whether the job is to be retried."""
    if isinstance(outcome, WorkerDeath) and not outcome.had_begun:
        job.status = "waiting"
        return True
    is_dead = isinstance(outcome, WorkerDeath)
    out_of_memory = outcome.out_of_memory if is_dead else outcome.code == NO_MEMORY
    if not (is_dead or out_of_memory):
        job.finish(outcome)
        return False
    if job.attempts <= retries:
        job.status = "waiting"
        return True
    died = f"its worker died {job.attempts} times: {outcome.sentence}"
    job.fail(OUT_OF_MEMORY if out_of_memory else died, NO_MEMORY if out_of_memory else FAILED)
    return False
