"""The runs of the page: one edit, how far it is, and its record on disk."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..base.files import from_json, write_json
from ..pipeline.output_paths import manifest_path
from ..pipeline.task import EditTask

RECORD, STRIP, SIDE = "run.json", "strip.png", "side-by-side.mp4"  # of a run, in its folder
WAITING, RUNNING, DONE, STOPPED, FAILED = "waiting", "running", "done", "stopped", "failed"
PREVIEW_EVERY = 2.0  # seconds between two previews, at least
PREVIEW_SHARE = 0.05  # of the time, at most, goes into previews


class Stopped(Exception):
    """The user stopped the run that is on."""


@dataclass
class Run:
    """One edit and how far it is."""

    folder: Path
    task: EditTask
    status: str = WAITING
    said: str = ""  # why it failed, or what it came to
    queued: int = 0  # when it was queued last, in nanoseconds
    started: bool = False  # since it was queued
    is_mistaken: bool = False  # it failed by its input, and would again
    stage: str = ""
    done: int = 0
    count: int = 0
    began: float = 0.0  # of the stage, on the clock of time.monotonic
    behind: int = 0  # how far the stage was when it began here
    notes: list[str] = field(default_factory=list)
    preview: np.ndarray | None = None  # H W 3, how the result's first frame looks so far
    shown: float = 0.0  # when it was made, and how long that took
    cost: float = 0.0
    stop: bool = False

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def output(self) -> Path:
        return Path(self.task.output)

    @property
    def can_resume(self) -> bool:
        return self.status == STOPPED or (self.status == FAILED and not self.is_mistaken)

    def moved(self, stage: str, done: int, count: int) -> None:
        """It came so far."""
        if stage != self.stage:
            self.stage, self.began, self.behind = stage, time.monotonic(), done
        self.done, self.count = done, count

    def left(self) -> float | None:
        """Seconds that the stage still takes at its own pace; None where it has none yet."""
        moved = self.done - self.behind
        if self.status != RUNNING or moved <= 0:
            return None
        return (time.monotonic() - self.began) / moved * (self.count - self.done)

    def is_due(self) -> bool:
        """Whether it is time for a preview: often enough to follow, and not so often that it slows the edit."""
        since = time.monotonic() - self.shown
        return self.preview is None or since > max(PREVIEW_EVERY, self.cost / PREVIEW_SHARE)

    def manifest(self) -> dict | None:
        """What was written of it; None where it is not done."""
        path = manifest_path(self.output)
        return json.loads(path.read_text()) if self.status == DONE and path.exists() else None

    def keep(self) -> None:
        """Write down what a restart needs to know."""
        said = {"task": self.task.to_dict(), "status": self.status, "said": self.said}
        said |= {"started": self.started, "is_mistaken": self.is_mistaken}
        write_json(self.folder / RECORD, said)


def found(folder: Path) -> Iterator[Run]:
    """The runs that lie in a folder. One that was on when the page ended was stopped by that."""
    for record in sorted(folder.glob(f"*/{RECORD}")):
        try:
            said = from_json(record.read_text())
            run = Run(record.parent, EditTask.from_dict(said["task"], notify=False))
            run.status, run.said = said["status"], said["said"]
            run.started = bool(said.get("started", True))
            run.is_mistaken = bool(said.get("is_mistaken", False))
        except (OSError, ValueError, KeyError, TypeError):  # not ours, or of a newer version
            continue
        if run.status in (WAITING, RUNNING):
            run.status = _ended(run)
        yield run


def _ended(run: Run) -> str:
    """How a run ended whose record was not written any more."""
    from ..pipeline.jobs import done

    return STOPPED if done(run.task) is None else DONE
