"""What became of every row of a batch, in memory and as DIR/batch.json."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.files import write_json
from ..pipeline.task import EditTask

NAME = "batch.json"
SHOWN = (
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
OPEN = ("waiting", "running", "stopped")  # nothing came of it yet
WRITE_EVERY = 0.5  # seconds between two writings of a running batch, at least
SHARE = 0.02  # of the time that writing may take, at most


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt of a job, as its worker says it."""

    status: str  # done, stopped, failed
    seconds: float | None = None
    sentence: str = ""
    code: int = 0
    traceback: str = ""  # of a bug


@dataclass
class Job:
    """A row and what became of it."""

    line: int  # of the file, from 1
    task: EditTask | None = None  # None: the row is none
    status: str = "waiting"  # waiting, running, done, skipped (was done before), failed, stopped
    sentence: str = ""  # why it failed
    code: int = 0  # as the exit codes of `holdfast edit`
    seconds: float | None = None  # on the worker, with loading and writing
    node: str | None = None  # the machine, and the process on it, of the last attempt
    pid: int | None = None
    attempts: int = 0
    traceback: str = ""  # of a bug

    @property
    def output(self) -> str | None:
        return self.task.output if self.task else None

    @property
    def kind(self) -> tuple:
        """What a worker has to load for it."""
        task = self.task
        return task.backbone, task.weights, task.image_model, task.device, task.dtype

    def fail(self, sentence: object, code: int, traceback: str = "") -> None:
        self.status, self.code, self.traceback = "failed", code, traceback
        self.sentence = " ".join(str(sentence).split())

    def end(self, outcome: Outcome) -> None:
        """Write down what came of it."""
        if outcome.status == "failed":
            self.fail(outcome.sentence, outcome.code, outcome.traceback)
        else:
            self.status, self.seconds = outcome.status, outcome.seconds

    def described(self) -> dict:
        return {name: getattr(self, name) for name in SHOWN}


def exit_code(jobs: Iterable[Job]) -> int:
    """0 where every row is done; the code that all failed rows share; 1 where they differ."""
    codes = {job.code for job in jobs if job.status == "failed"}
    return 0 if not codes else codes.pop() if len(codes) == 1 else 1


@dataclass
class Record:
    """DIR/batch.json while a batch runs."""

    folder: Path
    jobs: list[Job]
    about: dict[str, Any]  # how it is run
    began: float = field(default_factory=time.time)
    next: float = 0.0  # not to be written again before

    def counts(self) -> Counter:
        return Counter(job.status for job in self.jobs)

    def finished(self) -> int:
        return sum(job.status not in OPEN for job in self.jobs)

    def data(self) -> dict:
        counts = self.counts()
        kinds = ("done", "skipped", "failed")
        return {
            **self.about,
            "seconds": round(time.time() - self.began, 1),
            "count": len(self.jobs),
            **{kind: counts[kind] for kind in kinds},
            "open": sum(counts[kind] for kind in OPEN),
            "rows": [job.described() for job in self.jobs],
        }

    def write(self) -> None:
        begin = time.monotonic()
        write_json(self.folder / NAME, self.data())
        end = time.monotonic()
        self.next = end + max(WRITE_EVERY, (end - begin) / SHARE)

    def write_now_and_then(self) -> None:
        if time.monotonic() > self.next:
            self.write()


def left(finished: int, count: int, seconds: float) -> str:
    """The time that is left, as long as each took until now: " 4 min left"; empty before the first is finished."""
    if not finished or finished >= count:
        return ""
    rest = (count - finished) * seconds / finished
    for unit, size in (("h", 3600), ("min", 60)):
        if rest >= 1.5 * size:
            return f", {rest / size:.0f} {unit} left"
    return f", {rest:.0f} s left"
