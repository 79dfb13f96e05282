"""The state of every row of a batch, in memory and as DIR/batch.json."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.files import write_json
from ..conform.task import KeepTask
from ..pipeline.task import EditTask

Task = EditTask | KeepTask
RECORD_NAME = "batch.json"
NO_BACKBONE = ()  # the key of jobs that need none
ROW_KEYS = (
    "line",
    "output",
    "status",
    "sentence",
    "code",
    "seconds",
    "node",
    "pid",
    "attempts",
    "traceback",
)
OPEN_STATUSES = ("waiting", "running", "stopped")  # rows without an outcome
WRITE_INTERVAL = 0.5  # seconds between two writes of a running batch, at least
WRITE_SHARE = 0.02  # of the time that writing may take, at most


@dataclass(frozen=True)
class Outcome:
    """The outcome of one attempt at a job, as its worker reports it."""

    status: str  # done, stopped, failed
    seconds: float | None = None
    sentence: str = ""
    code: int = 0
    traceback: str = ""  # of a bug


@dataclass
class Job:
    """A row and its state."""

    line: int  # of the file, from 1
    task: Task | None = None  # None: the row is invalid
    status: str = (
        "waiting"  # waiting, running, done, skipped (done by an earlier run), failed, stopped
    )
    sentence: str = ""  # why it failed
    code: int = 0  # as the exit codes of `holdfast edit`
    seconds: float | None = None  # on the worker, loading and writing included
    node: str | None = None  # machine and process of the last attempt
    pid: int | None = None
    attempts: int = 0
    traceback: str = ""  # of a bug

    @property
    def valid_task(self) -> Task:
        assert self.task is not None, "an invalid row has no task"
        return self.task

    @property
    def output(self) -> str | None:
        return self.task.output if self.task else None

    @property
    def outputs(self) -> list[str]:
        """The files that the job writes, without those next to them."""
        task = self.valid_task
        second = task.preview if isinstance(task, KeepTask) else task.raw
        return [task.output, *([second] if second else [])]

    @property
    def may_use_gpu(self) -> bool:
        """Whether a worker needs a GPU, if there is one: a kept clip needs it only for words."""
        task = self.valid_task
        return bool(task.words) if isinstance(task, KeepTask) else task.device != "cpu"

    @property
    def backbone_key(self) -> tuple:
        """What a worker has to load for the job; equal for jobs that share a loaded backbone."""
        task = self.valid_task
        if isinstance(task, KeepTask):
            return NO_BACKBONE
        return task.backbone, task.weights, task.image_model, task.device, task.dtype

    def fail(self, sentence: object, code: int, traceback: str = "") -> None:
        self.status, self.code, self.traceback = "failed", code, traceback
        self.sentence = " ".join(str(sentence).split())

    def finish(self, outcome: Outcome) -> None:
        """Store the outcome of an attempt."""
        if outcome.status == "failed":
            self.fail(outcome.sentence, outcome.code, outcome.traceback)
        else:
            self.status, self.seconds = outcome.status, outcome.seconds

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ROW_KEYS}


def exit_code(jobs: Iterable[Job]) -> int:
    """Return 0 if every row is done, the code that all failed rows share, or 1 if their codes differ."""
    codes = {job.code for job in jobs if job.status == "failed"}
    return 0 if not codes else codes.pop() if len(codes) == 1 else 1


@dataclass
class BatchRecord:
    """DIR/batch.json while a batch runs."""

    folder: Path
    jobs: list[Job]
    info: dict[str, Any]  # file, run token and settings of the batch
    start: float = field(default_factory=time.time)
    next_write: float = 0.0  # on the monotonic clock

    def count_by_status(self) -> Counter[str]:
        return Counter(job.status for job in self.jobs)

    def count_finished(self) -> int:
        return sum(job.status not in OPEN_STATUSES for job in self.jobs)

    def to_dict(self) -> dict[str, Any]:
        counts = self.count_by_status()
        statuses = ("done", "skipped", "failed")
        return {
            **self.info,
            "seconds": round(time.time() - self.start, 1),
            "count": len(self.jobs),
            **{status: counts[status] for status in statuses},
            "open": sum(counts[status] for status in OPEN_STATUSES),
            "rows": [job.to_dict() for job in self.jobs],
        }

    def write(self) -> None:
        begin = time.monotonic()
        write_json(self.folder / RECORD_NAME, self.to_dict())
        end = time.monotonic()
        self.next_write = end + max(WRITE_INTERVAL, (end - begin) / WRITE_SHARE)

    def write_if_due(self) -> None:
        if time.monotonic() > self.next_write:
            self.write()


def remaining_text(finished: int, count: int, seconds: float) -> str:
    """Return the remaining time at the pace so far, ", 4 min left"; empty before the first job is finished."""
    if not finished or finished >= count:
        return ""
    rest = (count - finished) * seconds / finished
    for unit, size in (("h", 3600), ("min", 60)):
        if rest >= 1.5 * size:
            return f", {rest / size:.0f} {unit} left"
    return f", {rest:.0f} s left"
