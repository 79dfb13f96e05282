"""The desk behind the page: edits one after another in one thread, each in a folder of its own, found again after a
restart. It knows nothing of the page.
"""

import contextlib
import os
import shutil
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ..base.errors import Missing, UserError
from ..base.notices import collected
from ..models import registry
from ..pipeline import validation
from ..pipeline.locks import claimed
from ..pipeline.output_paths import store_of
from ..pipeline.task import EditTask
from . import storage
from .looks import preview, write_looks
from .messages import sentence
from .proxies import Proxies
from .runs import DONE, FAILED, RUNNING, STOPPED, WAITING, Run, Stopped, found

SWEEP_EVERY = 3600.0  # seconds
MEASURE_EVERY = 30.0


@dataclass(frozen=True)
class Limits:
    """What the page takes. anywhere: paths on this machine may be typed; else only uploads are taken. gigabytes: of
    uploads and drawn masks that are kept.
    """

    frames: int = 2000
    megabytes: int = 2000
    anywhere: bool = True
    gigabytes: float = 20


class Desk:
    """Runs in a folder, one at a time. load: a backbone by name, weights, device and dtype; the last one stays.

    Raises UserError where another desk works in the folder.
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
        self.held = hold(self.root)
        self.proxies = Proxies(self.uploads)
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)  # there is a run to do, or none ever again
        self.closing = threading.Event()
        self.warm: tuple[tuple, Any] | None = None
        self.all = {run.name: run for run in found(self.folder)}
        self.using = threading.Lock()  # the model: an edit, or a look at what one would cost
        self.usage, self.measured = storage.measure(self.root), time.monotonic()
        work = (self._supervise, self._sweep)
        self.threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in self.threads:
            thread.start()

    def runs(self) -> list[Run]:
        """All there are, the newest first."""
        with self.lock:
            return sorted(self.all.values(), key=lambda run: run.name, reverse=True)

    def queue(self) -> list[Run]:
        """The run that is on, and those that wait, in the order in which they come."""
        busy = [run for run in self.runs() if run.status in (WAITING, RUNNING)]
        return sorted(busy, key=lambda run: (run.status != RUNNING, run.queued))

    def running(self) -> Run | None:
        return next((run for run in self.runs() if run.status == RUNNING), None)

    def ahead(self, run: Run) -> int:
        """How many come before a run that waits."""
        queue = self.queue()
        return queue.index(run) if run in queue else 0

    def submit(self, task: EditTask, ending: str = ".mp4") -> Run:
        """Queue an edit; its output is a file in a folder of its own. Raises as `validate` does."""
        folder = self._named(task)
        try:
            own = {name: self._own(path, folder, name) for name, path in files_of(task).items()}
            run = Run(folder, replace(task, output=str(folder / f"edited{ending}"), **own))
            validate(run.task)
            self._queue(run)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return run

    def resume(self, run: Run | None) -> Run:
        """Queue a run again that was stopped or failed: it goes on from what it saved."""
        if run is None or self.all.get(run.name) is not run:
            raise UserError("that run was removed", "start it again from the form")
        if run.status not in (STOPPED, FAILED):
            raise UserError(f"{run.name} is {run.status}; only a run that was stopped can go on")
        validate(run.task)
        again = Run(run.folder, run.task)
        self._queue(again)
        return again

    def cancel(self, run: Run) -> None:
        """Stop a run; what it did is saved. One that waits is taken out of the queue."""
        with self.lock:
            if self.all.get(run.name) is not run:
                return
            run.stop = True
            if run.status != WAITING:
                return
            run.status = STOPPED
        self._record(run)

    def remove(self, run: Run) -> None:
        """Take a run and all of its files away."""
        with self.lock:
            if run.status in (WAITING, RUNNING):
                raise UserError(f"{run.name} is {run.status}; stop it first")
            self.all.pop(run.name, None)
        shutil.rmtree(run.folder, ignore_errors=True)

    def close(self) -> None:
        """Stop what runs, saved, and end."""
        for run in self.queue():
            self.cancel(run)
        self.closing.set()
        with self.changed:
            self.changed.notify_all()
        for thread in self.threads:
            thread.join()
        self.held.close()

    def measure(self) -> storage.Usage:
        """What lies in the folder; looked at every half a minute at most."""
        if time.monotonic() - self.measured > MEASURE_EVERY:
            self.measured = time.monotonic()
            self.usage = storage.measure(self.root)
        return self.usage

    def _named(self, task: EditTask) -> Path:
        """A new folder, named by the time and the clip: names sort as the runs came."""
        stem = "".join(c if c.isalnum() else "-" for c in Path(task.input).stem)[:24]
        begun = datetime.now()
        while True:
            folder = self.folder / f"{begun:%Y%m%d-%H%M%S-%f}-{stem}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
            begun = datetime.now()

    def _own(self, path: str, folder: Path, field: str) -> str:
        """A file that was uploaded, kept with its run, for uploads go after a day. Others stay where they are."""
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

    def _queue(self, run: Run) -> None:
        run.keep()
        with self.changed:
            run.queued = time.time_ns()
            self.all[run.name] = run
            self.changed.notify_all()

    # the thread that works, and those that look after it

    def _supervise(self) -> None:
        """Start the worker, and another whenever one ends before it should."""
        while not self.closing.is_set():
            worker = threading.Thread(target=self._work, name="desk", daemon=True)
            worker.start()
            worker.join()
            for run in self.runs():
                if run.status == RUNNING:
                    self._end(run, FAILED, "the thread that ran it ended; see the terminal")

    def _work(self) -> None:
        while self._waits():
            with self.using:
                run = self._next()
                if run:
                    self._do(run)

    def _waits(self) -> bool:
        """Wait for a run; False when the desk closes."""
        with self.changed:
            while not self.closing.is_set():
                if any(run.status == WAITING for run in self.all.values()):
                    return True
                self.changed.wait()
        return False

    def _next(self) -> Run | None:
        """The run that has waited longest; it is on from now on."""
        with self.lock:
            waiting = [run for run in self.all.values() if run.status == WAITING]
            if not waiting or self.closing.is_set():
                return None
            run = min(waiting, key=lambda run: run.queued)
            run.status, run.started = RUNNING, True
            return run

    def _do(self, run: Run) -> None:
        """One run, whatever comes of it: no library's error ends the thread."""
        try:
            run.keep()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # notes are events here, and end in the manifest
                self._edit(run)
            self._end(run, DONE)
        except Stopped:
            self._end(run, STOPPED)
        except (Exception, SystemExit) as error:
            self._end(run, FAILED, sentence(error), isinstance(error, UserError))
            _report_bug(error)

    def _end(self, run: Run, status: str, said: str = "", is_mistaken: bool = False) -> None:
        """Write down how a run ended, and show it then."""
        self._record(replace(run, status=status, said=said, is_mistaken=is_mistaken))
        run.preview, run.said, run.is_mistaken = None, said, is_mistaken
        run.status = status

    def _record(self, run: Run) -> None:
        """Write a run down, if the disk takes it."""
        try:
            run.keep()
        except OSError as error:
            run.notes.append(f"how this run ended could not be written down: {sentence(error)}")

    def _sweep(self) -> None:
        """Remove old uploads and drawn masks, now and every hour."""
        while True:
            needed = [Path(path) for run in self.queue() for path in files_of(run.task).values()]
            storage.sweep(self.uploads, self.limits.gigabytes * 1e9, needed)
            if self.closing.wait(SWEEP_EVERY):
                return

    def _edit(self, run: Run) -> None:
        from ..pipeline import run as editing
        from ..pipeline.result import Result

        clip = validation.taken(run.task).clip
        run.moved("load", 0, 1)
        backbone = self.backbone(run.task)
        events = editing.events(run.task, backbone, resume=store_of(run.task).holds())
        with contextlib.closing(events):
            for event in events:
                if run.stop:
                    raise Stopped
                self._seen(run, event, backbone, clip.size)
        assert isinstance(event, Result)

        def report(*progress) -> None:
            run.moved(*progress)
            if run.stop:
                raise Stopped

        event.save(report=report)
        self._look_at(run, event.clip)

    def _look_at(self, run: Run, clip: Any) -> None:
        """Make the pictures for the page. The result is there already, and stays where they fail."""
        try:
            write_looks(run, clip)
        except Exception as error:
            run.notes.append(f"there are no pictures of this run: {sentence(error)}")
            _report_bug(error)

    def _seen(self, run: Run, event: Any, backbone: Any, size: tuple[int, int]) -> None:
        """Keep what an event says of a run."""
        from ..pipeline.loop import Note, Progress
        from ..sampling.field import Step

        if isinstance(event, Note):
            run.notes.append(event.text)
        elif isinstance(event, Progress):
            run.moved(event.stage, event.done, event.count)
        elif isinstance(event, Step):
            run.moved(event.stage, event.index, event.count)
            if event.stage == "edit" and run.is_due():
                asked = time.monotonic()
                run.preview = preview(event.clean, backbone, size)
                run.shown = time.monotonic()
                run.cost = run.shown - asked

    def backbone(self, task: EditTask) -> Any:
        """The one warm backbone."""
        asked = (task.backbone, task.weights, task.device, task.dtype)
        key = (registry.weights_identity(task.backbone, task.weights), *asked)
        if self.warm is None or self.warm[0] != key:
            self.warm = None  # the room first
            self.warm = key, self.load(*asked)
        return self.warm[1]


def files_of(task: EditTask) -> dict[str, str]:
    """The files of a task that may have been uploaded, by field."""
    named = {name: getattr(task, name) for name in ("input", "mask", "first_frame")}
    return {name: path for name, path in named.items() if path and Path(path).is_file()}


def hold(root: Path) -> contextlib.ExitStack:
    """Keep a folder from other pages until what is returned is closed. Raises UserError where one has it."""
    stack = contextlib.ExitStack()
    try:
        claim = stack.enter_context(claimed(root / "page"))
    except UserError as error:
        raise UserError(
            f"another page is open on {root}", "use that one, end it, or give another --folder"
        ) from error
    stack.callback(claim.release)
    return stack


def validate(task: EditTask) -> None:
    """Raise UserError or Missing for a task that cannot work, before it waits for its turn."""
    from ..models.weights import pick_device
    from ..pipeline.run import opened

    pick_device(task.device)
    with collected():
        opened(task, None, validation.taken(task))


def _report_bug(error: BaseException) -> None:
    """Show in the terminal what is no fault of the input."""
    if not isinstance(error, (UserError, Missing, OSError)):
        traceback.print_exception(error, file=sys.stderr)
