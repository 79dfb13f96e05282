"""The run queue behind the page: runs one after another in one thread, each in its own folder, kept across restarts.

It does not depend on the page.
"""

import contextlib
import os
import shutil
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from ..base.errors import MissingDependencyError, UserError
from ..base.notices import collect_notices
from ..conform.task import KeepTask
from ..models import registry
from ..models.source_store import SourceStore
from ..pipeline import validation
from ..pipeline.loading import choose_placements
from ..pipeline.locks import lock_output
from ..pipeline.progress import saved_progress
from ..pipeline.task import EditTask
from . import keep_runs, storage
from .messages import describe_error
from .pictures import decode_preview, write_pictures
from .proxies import Proxies
from .runs import DONE, FAILED, RUNNING, STOPPED, WAITING, Run, RunStoppedError, load_runs

SWEEP_INTERVAL = 3600.0  # seconds
MEASURE_INTERVAL = 30.0  # seconds
Task: TypeAlias = EditTask | KeepTask


@dataclass(frozen=True)
class Limits:
    """What the page accepts.

    max_frames: of a clip. max_upload_mb: megabytes of one upload.
    allows_paths: paths on this machine may be typed; otherwise only uploads are accepted.
    max_storage_gb: gigabytes of uploads and drawn masks to keep.
    """

    max_frames: int = 2000
    max_upload_mb: int = 2000
    allows_paths: bool = True
    max_storage_gb: float = 20


class RunQueue:
    """The runs in a folder, executed one at a time.

    load: returns a backbone by name, weights, device and dtype; the last one stays in memory.
    Raise UserError where another page works in the folder.
    """

    def __init__(
        self,
        root: Path,
        load: Callable[..., Any] = registry.load_backbone,
        limits: Limits | None = None,
    ):
        self.root, self.load, self.limits = root.resolve(), load, limits or Limits()
        self.folder, self.uploads = self.root / "runs", self.root / "uploads"
        for folder in (self.folder, self.uploads):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder_lock = lock_folder(self.root)
        self.proxies = Proxies(self.uploads)
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)  # a run was queued, or the queue closes
        self.closing = threading.Event()
        self.loaded: tuple[tuple[Any, ...], Any] | None = None
        self.runs_by_name = {run.name: run for run in load_runs(self.folder)}
        self.model_lock = threading.Lock()  # held by an edit, or by an estimate of one
        self.usage, self.measured = storage.measure_usage(self.root), time.monotonic()
        work = (self._supervise, self._sweep)
        self.threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in self.threads:
            thread.start()

    def runs(self) -> list[Run]:
        """Return all runs, the newest first."""
        with self.lock:
            return sorted(self.runs_by_name.values(), key=lambda run: run.name, reverse=True)

    def active_runs(self) -> list[Run]:
        """Return the current run and those that wait, in the order in which they are executed."""
        active = [run for run in self.runs() if run.status in (WAITING, RUNNING)]
        return sorted(active, key=lambda run: (run.status != RUNNING, run.queued_at))

    def running_run(self) -> Run | None:
        """Return the current run, or None where there is none."""
        return next((run for run in self.runs() if run.status == RUNNING), None)

    def count_ahead(self, run: Run) -> int:
        """Return how many runs are executed before a waiting run."""
        active = self.active_runs()
        return active.index(run) if run in active else 0

    def submit(self, task: EditTask, suffix: str = ".mp4") -> Run:
        """Queue an edit. Its output is a file in a folder of its own. Raise as `validate` does."""
        with self._open_run_folder(task.input) as folder:
            kept = {
                name: self._keep_upload(path, folder, name) for name, path in files_of(task).items()
            }
            run = Run(folder, replace(task, output=str(folder / f"edited{suffix}"), **kept))
            validate(run)
            self._enqueue(run)
        return run

    def submit_pair(self, task: KeepTask, is_comparison: bool = False) -> Run:
        """Queue a clip that was edited elsewhere. Raise as `validate` does.

        is_comparison: only report what the editor changed.
        """
        with self._open_run_folder(task.edited) as folder:
            kept = keep_runs.replace_files(
                task, lambda field, path: self._keep_upload(path, folder, field)
            )
            run = keep_runs.make_run(kept, folder, is_comparison)
            validate(run)
            self._enqueue(run)
        return run

    def resume(self, run: Run | None) -> Run:
        """Queue a stopped or failed run again. It continues from its saved progress."""
        if run is None or self.runs_by_name.get(run.name) is not run:
            raise UserError("that run was removed", "start it again from the form")
        if run.status not in (STOPPED, FAILED):
            raise UserError(f"{run.name} is {run.status}", "resume only a run that was stopped")
        validate(run)
        again = Run(run.folder, run.task, is_comparison=run.is_comparison)
        self._enqueue(again)
        return again

    def cancel(self, run: Run) -> None:
        """Stop a run and save its progress. A waiting run is taken out of the queue."""
        with self.lock:
            if self.runs_by_name.get(run.name) is not run:
                return
            run.should_stop = True
            if run.status != WAITING:
                return
            run.status = STOPPED
        self._record(run)

    def remove(self, run: Run) -> None:
        """Remove a run and all of its files. Raise UserError where it waits or is in progress."""
        with self.lock:
            if run.status in (WAITING, RUNNING):
                raise UserError(f"{run.name} is {run.status}", "stop it first")
            self.runs_by_name.pop(run.name, None)
        shutil.rmtree(run.folder, ignore_errors=True)

    def close(self) -> None:
        """Stop the current run with its progress saved, and end the threads."""
        for run in self.active_runs():
            self.cancel(run)
        self.closing.set()
        with self.changed:
            self.changed.notify_all()
        for thread in self.threads:
            thread.join()
        self.folder_lock.close()

    def measure(self) -> storage.Usage:
        """Return the folder's usage, measured at most every `MEASURE_INTERVAL` seconds."""
        if time.monotonic() - self.measured > MEASURE_INTERVAL:
            self.measured = time.monotonic()
            self.usage = storage.measure_usage(self.root)
        return self.usage

    @contextlib.contextmanager
    def _open_run_folder(self, clip: str) -> Iterator[Path]:
        """Create a folder for a run of a clip, and remove it where the run cannot be queued."""
        folder = self._make_run_folder(clip)
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _make_run_folder(self, clip: str) -> Path:
        """Create a folder named by the time and the clip, so that names sort in the order of submission."""
        stem = "".join(c if c.isalnum() else "-" for c in Path(clip).stem)[:24]
        now = datetime.now()
        while True:
            folder = self.folder / f"{now:%Y%m%d-%H%M%S-%f}-{stem}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
            now = datetime.now()

    def _keep_upload(self, path: str, folder: Path, field: str) -> str:
        """Keep an uploaded file with its run, since uploads are removed after a day. Leave other files in place."""
        if self.uploads not in Path(path).resolve().parents:
            return path
        kept = folder / Path(path).name
        if kept.exists():  # a mask may have the clip's name
            kept = folder / f"{field}-{Path(path).name}"
        try:
            os.link(path, kept)
        except OSError:  # another disk, or one without links
            shutil.copy2(path, kept)
        return str(kept)

    def _enqueue(self, run: Run) -> None:
        run.save()
        with self.changed:
            run.queued_at = time.time_ns()
            self.runs_by_name[run.name] = run
            self.changed.notify_all()

    # the worker thread, and the threads that supervise it and clean up

    def _supervise(self) -> None:
        """Start the worker, and start another one whenever it ends too early."""
        while not self.closing.is_set():
            worker = threading.Thread(target=self._work, name="run-queue", daemon=True)
            worker.start()
            worker.join()
            for run in self.runs():
                if run.status == RUNNING:
                    self._finish(run, FAILED, "its worker thread ended; see the terminal")

    def _work(self) -> None:
        while self._wait_for_run():
            with self.model_lock:
                run = self._start_next()
                if run:
                    self._execute(run)

    def _wait_for_run(self) -> bool:
        """Wait until a run is queued. Return False when the queue closes."""
        with self.changed:
            while not self.closing.is_set():
                if any(run.status == WAITING for run in self.runs_by_name.values()):
                    return True
                self.changed.wait()
        return False

    def _start_next(self) -> Run | None:
        """Mark the run that has waited longest as running and return it."""
        with self.lock:
            waiting = [run for run in self.runs_by_name.values() if run.status == WAITING]
            if not waiting or self.closing.is_set():
                return None
            run = min(waiting, key=lambda run: run.queued_at)
            run.status, run.was_started = RUNNING, True
            return run

    def _execute(self, run: Run) -> None:
        """Execute one run. No error, of any library, ends the thread."""
        try:
            run.save()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # notices are events here, and end in the manifest
                self._perform(run)
            self._finish(run, DONE)
        except RunStoppedError:
            self._finish(run, STOPPED)
        except (Exception, SystemExit) as error:
            self._finish(run, FAILED, describe_error(error), isinstance(error, UserError))
            _report_bug(error)

    def _finish(
        self, run: Run, status: str, message: str = "", is_user_error: bool = False
    ) -> None:
        """Record how a run ended, and only then display it."""
        self._record(replace(run, status=status, message=message, is_user_error=is_user_error))
        run.preview, run.message, run.is_user_error = None, message, is_user_error
        run.status = status

    def _record(self, run: Run) -> None:
        """Save a run's record. A full disk becomes a note."""
        try:
            run.save()
        except OSError as error:
            run.notes.append(f"the end of this run could not be recorded: {describe_error(error)}")

    def _sweep(self) -> None:
        """Remove old uploads and drawn masks, now and every hour."""
        while True:
            active = self.active_runs()
            needed = [Path(path) for run in active for path in files_of(run.task).values()]
            storage.sweep(self.uploads, self.limits.max_storage_gb * 1e9, needed)
            if self.closing.wait(SWEEP_INTERVAL):
                return

    def _perform(self, run: Run) -> None:
        if isinstance(run.task, EditTask):
            self._write_pictures(run, self._edit(run))
        else:
            self._write_pictures(run, keep_runs.perform(run))

    def _edit(self, run: Run) -> Callable[[], None]:
        """Perform an edit and save it. Return a function that writes its pictures for the page."""
        from ..pipeline import run as editing
        from ..pipeline.result import Result

        assert isinstance(run.task, EditTask)
        clip = validation.validate(run.task).clip
        run.update_progress("load", 0, 1)
        backbone = self.backbone(run.task)
        events = editing.edit_events(
            run.task, backbone, resume=saved_progress(run.task).choose_resume()
        )
        result = None
        with contextlib.closing(events):
            for event in events:
                if run.should_stop:
                    raise RunStoppedError
                self._handle_event(run, event, backbone, clip.size)
                result = event
        assert isinstance(result, Result)
        result.save(on_progress=run.report_progress)
        return partial(write_pictures, run, result.clip)

    def _write_pictures(self, run: Run, write: Callable[[], None]) -> None:
        """Make the pictures for the page. The result exists already, and stays where they fail."""
        try:
            write()
        except Exception as error:
            run.notes.append(f"the pictures of this run failed: {describe_error(error)}")
            _report_bug(error)

    def _handle_event(self, run: Run, event: Any, backbone: Any, size: tuple[int, int]) -> None:
        """Update a run from an event of its edit. size: the clip's width and height."""
        from ..pipeline.events import NoticeIssued, Progress
        from ..sampling.field import Step

        if isinstance(event, NoticeIssued):
            run.notes.append(event.text)
        elif isinstance(event, Progress):
            run.update_progress(event.stage, event.done, event.count)
        elif isinstance(event, Step):
            run.update_progress(event.stage, event.index, event.count)
            if event.stage == "edit" and run.needs_preview():
                start = time.monotonic()
                run.preview = decode_preview(event.preview, backbone, size)
                run.preview_time = time.monotonic()
                run.preview_cost = run.preview_time - start

    def backbone(self, task: EditTask) -> Any:
        """Return the task's backbone, loaded once for consecutive tasks."""
        placements = choose_placements(task)
        own = () if placements.is_default else (placements,)
        choice = (task.backbone, task.weights, task.device, task.dtype, *own)
        key = (registry.weights_identity(task.backbone, task.weights), *choice)
        if self.loaded is None or self.loaded[0] != key:
            self.loaded = None  # free its memory before another is loaded
            self.loaded = key, self.load(*choice)
            self.loaded[1].source_store = SourceStore(self.loaded[1])
        return self.loaded[1]


def files_of(task: Task) -> dict[str, str]:
    """Return the files of a task that may have been uploaded, by field."""
    if isinstance(task, KeepTask):
        return keep_runs.files_of(task)
    paths = {name: getattr(task, name) for name in ("input", "mask", "first_frame")}
    # A list of masks, which a run of the command line may have, holds no uploads.
    named = {name: path for name, path in paths.items() if path and isinstance(path, str)}
    return {name: path for name, path in named.items() if Path(path).is_file()}


def lock_folder(root: Path) -> contextlib.ExitStack:
    """Lock a folder until the returned stack is closed. Raise UserError where another page has it."""
    stack = contextlib.ExitStack()
    try:
        claim = stack.enter_context(lock_output(root / "page"))
    except UserError as error:
        raise UserError(
            f"another page is open on {root}", "use that one, end it, or give another --folder"
        ) from error
    stack.callback(claim.release)
    return stack


def validate(run: Run) -> None:
    """Raise UserError or MissingDependencyError for a run that cannot work, before it is queued."""
    if isinstance(run.task, KeepTask):
        return keep_runs.validate(run)
    from ..models.devices import pick_device
    from ..pipeline.run import open_session

    pick_device(run.task.device)
    with collect_notices():
        open_session(run.task, None, validation.validate(run.task))


def _report_bug(error: BaseException) -> None:
    """Print the traceback of an error that the input does not explain."""
    if not isinstance(error, (UserError, MissingDependencyError, OSError)):
        traceback.print_exception(error, file=sys.stderr)
