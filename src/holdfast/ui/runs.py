"""A run of the page: an edit, or a change that is put back or compared, its progress, and its record on disk."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..base.files import parse_json, write_json
from ..conform.task import KeepTask
from ..pipeline.output_paths import manifest_path
from ..pipeline.task import EditTask

RECORD, STRIP, SIDE_BY_SIDE = "run.json", "strip.png", "side-by-side.mp4"  # in a run's folder
EDIT, KEEP, COMPARE = "edit", "keep", "compare"  # kinds of runs
WAITING, RUNNING, DONE, STOPPED, FAILED = "waiting", "running", "done", "stopped", "failed"
PREVIEW_INTERVAL = 2.0  # seconds between two previews, at least
PREVIEW_SHARE = 0.05  # of the time, at most, is spent on previews


class RunStoppedError(Exception):
    """The user stopped the current run."""


@dataclass
class Run:
    """One run and its progress.

    task: an edit, or an edited clip from elsewhere and its source. is_comparison: such a pair is reported on, and no
    clip is written.
    message: why it failed. queued_at: when it was queued last, in nanoseconds.
    was_started: since it was queued last. is_user_error: it failed because of its input, and would fail again.
    stage_start: on the clock of time.monotonic. stage_offset: the progress of the stage when it began in this process.
    preview: the result's first frame so far, H W 3. preview_time: when it was made, on the clock of time.monotonic.
    preview_cost: how many seconds it took.
    """

    folder: Path
    task: EditTask | KeepTask
    status: str = WAITING
    message: str = ""
    queued_at: int = 0
    was_started: bool = False
    is_user_error: bool = False
    stage: str = ""
    done: int = 0
    count: int = 0
    stage_start: float = 0.0
    stage_offset: int = 0
    notes: list[str] = field(default_factory=list)
    preview: np.ndarray | None = None
    preview_time: float = 0.0
    preview_cost: float = 0.0
    should_stop: bool = False
    is_comparison: bool = False

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def output(self) -> Path:
        return Path(self.task.output)

    @property
    def kind(self) -> str:
        """EDIT, KEEP or COMPARE."""
        if isinstance(self.task, EditTask):
            return EDIT
        return COMPARE if self.is_comparison else KEEP

    @property
    def source(self) -> str:
        """The file of the clip before the edit."""
        return self.task.input if isinstance(self.task, EditTask) else self.task.source

    @property
    def can_resume(self) -> bool:
        if self.kind != EDIT:  # only edits save their progress
            return False
        return self.status == STOPPED or (self.status == FAILED and not self.is_user_error)

    def update_progress(self, stage: str, done: int, count: int) -> None:
        """Record that `done` of `count` steps of a stage are finished."""
        if stage != self.stage:
            self.stage, self.stage_start, self.stage_offset = stage, time.monotonic(), done
        self.done, self.count = done, count

    def report_progress(self, stage: str, done: int, count: int) -> None:
        """Record the progress. Raise RunStoppedError where the user stopped the run."""
        self.update_progress(stage, done, count)
        if self.should_stop:
            raise RunStoppedError

    def seconds_left(self) -> float | None:
        """Return the seconds that the stage still takes at its own pace, or None before its first step."""
        finished = self.done - self.stage_offset
        if self.status != RUNNING or finished <= 0:
            return None
        return (time.monotonic() - self.stage_start) / finished * (self.count - self.done)

    def needs_preview(self) -> bool:
        """Return whether a preview is due: often enough to follow, but not so often that it slows down the edit."""
        since = time.monotonic() - self.preview_time
        longest = max(PREVIEW_INTERVAL, self.preview_cost / PREVIEW_SHARE)
        return self.preview is None or since > longest

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest of the result, or None where the run is not done."""
        path = manifest_path(self.output)
        return json.loads(path.read_text()) if self.status == DONE and path.exists() else None

    def save(self) -> None:
        """Write what a restart of the page needs to know. Raise OSError."""
        record = {"task": self.task.to_dict(), "status": self.status, "message": self.message}
        record |= {
            "kind": self.kind,
            "was_started": self.was_started,
            "is_user_error": self.is_user_error,
        }
        write_json(self.folder / RECORD, record)


def load_runs(folder: Path) -> Iterator[Run]:
    """Yield the runs in a folder. A run that was in progress when the page ended is stopped."""
    for path in sorted(folder.glob(f"*/{RECORD}")):
        try:
            run = _load_run(path)
        except (OSError, ValueError, KeyError, TypeError):  # another file, or a newer version's
            continue
        if run.status in (WAITING, RUNNING):
            run.status = _final_status(run)
        yield run


def _load_run(path: Path) -> Run:
    record = parse_json(path.read_text())
    for old, new in (
        ("said", "message"),
        ("started", "was_started"),
        ("is_mistaken", "is_user_error"),
    ):
        if old in record:  # written by 0.1.0
            record[new] = record[old]
    values = record["task"]
    kind = record.get("kind", EDIT)  # 0.1.0 had edits alone
    if kind == EDIT:
        run = Run(path.parent, EditTask.from_dict(values, notify=False))
    else:
        run = Run(path.parent, KeepTask.from_dict(values), is_comparison=kind == COMPARE)
    run.status, run.message = record["status"], record["message"]
    run.was_started = bool(record.get("was_started", True))
    run.is_user_error = bool(record.get("is_user_error", False))
    return run


def _final_status(run: Run) -> str:
    """Return how a run ended that could not record it."""
    from ..pipeline.jobs import finished_manifest

    if isinstance(run.task, KeepTask):  # its manifest is written last
        return DONE if manifest_path(run.output).exists() else STOPPED
    return STOPPED if finished_manifest(run.task) is None else DONE
