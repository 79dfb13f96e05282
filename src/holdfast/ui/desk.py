"""The desk behind the page: edits one after another in one thread, each in a folder of its own, found again after a
restart. It knows nothing of the page.
"""

import contextlib
import json
import os
import queue
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from .. import intake, registry
from ..errors import Missing, UserError
from ..files import from_json, whole, write_json
from ..jobs import FAILURES
from ..media import showing, video
from ..media.images import eight_bits, to_array
from ..memory import ran_out
from ..places import manifest_path, store_of
from ..task import EditTask

RECORD, STRIP, SIDE = "run.json", "strip.png", "side-by-side.mp4"  # of a run, in its folder
WAITING, RUNNING, DONE, STOPPED, FAILED = "waiting", "running", "done", "stopped", "failed"
PREVIEW_EVERY = 2.0  # seconds between two previews, at least
PREVIEW_SHARE = 0.05  # of the time, at most, goes into previews


class Stopped(Exception):
    """The user stopped the run that is on."""


@dataclass(frozen=True)
class Limits:
    """What the page takes. anywhere: paths on this machine may be typed; else only uploads are taken."""

    frames: int = 2000
    megabytes: int = 2000
    anywhere: bool = True


@dataclass
class Run:
    """One edit and how far it is."""

    folder: Path
    task: EditTask
    status: str = WAITING
    said: str = ""  # why it failed, or what it came to
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

    def manifest(self) -> dict | None:
        """What was written of it; None where it is not done."""
        path = manifest_path(self.output)
        return json.loads(path.read_text()) if self.status == DONE and path.exists() else None

    def keep(self) -> None:
        """Write down what a restart needs to know."""
        said = {"task": self.task.to_dict(), "status": self.status, "said": self.said}
        write_json(self.folder / RECORD, said)


class Desk:
    """Runs in a folder, one at a time. load: a backbone by name, weights, device and dtype; the last one stays."""

    def __init__(self, root: Path, load: Callable[..., Any] = registry.load_backbone):
        self.root, self.load = root, load
        self.folder = root / "runs"
        self.uploads = (root / "uploads").resolve()
        for folder in (self.folder, self.uploads):
            folder.mkdir(parents=True, exist_ok=True)
        self.lock = threading.Lock()
        self.warm: tuple[tuple, Any] | None = None
        self.all = {run.name: run for run in found(self.folder)}
        self.waiting: queue.Queue[Run | None] = queue.Queue()
        self.using = threading.Lock()  # the model: an edit, or a look at what one would cost
        self.worker = threading.Thread(target=self._work, name="desk", daemon=True)
        self.worker.start()

    def runs(self) -> list[Run]:
        """All there are, the newest first."""
        with self.lock:
            return sorted(self.all.values(), key=lambda run: run.name, reverse=True)

    def ahead(self, run: Run) -> int:
        """How many come before a run that waits."""
        busy = [other for other in self.runs() if other.status in (WAITING, RUNNING)]
        return sum(other.name < run.name for other in busy)

    def submit(self, task: EditTask, ending: str = ".mp4") -> Run:
        """Queue an edit; its output is a file in a folder of its own. Raises as `intake.taken` does."""
        folder = self._named(task)
        try:
            own = {name: self._own(path, folder) for name, path in files_of(task).items()}
            run = Run(folder, replace(task, output=str(folder / f"edited{ending}"), **own))
            intake.taken(run.task)
            run.keep()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return self._queue(run)

    def resume(self, run: Run) -> Run:
        """Queue a run again that was stopped or failed: it goes on from what it saved."""
        if run.status not in (STOPPED, FAILED):
            raise UserError(f"{run.name} is {run.status}; only a run that was stopped can go on")
        return self._queue(Run(run.folder, run.task))

    def cancel(self, run: Run) -> None:
        """Stop a run; what it did is saved. One that waits is taken out of the queue."""
        run.stop = True
        if run.status == WAITING:
            run.status = STOPPED
            run.keep()

    def remove(self, run: Run) -> None:
        """Take a run and all of its files away."""
        if run.status in (WAITING, RUNNING):
            raise UserError(f"{run.name} is {run.status}; stop it first")
        with self.lock:
            self.all.pop(run.name, None)
        shutil.rmtree(run.folder, ignore_errors=True)

    def close(self) -> None:
        """Stop what runs, saved, and end."""
        for run in self.runs():
            if run.status in (WAITING, RUNNING):
                self.cancel(run)
        self.waiting.put(None)
        self.worker.join()

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

    def _own(self, path: str, folder: Path) -> str:
        """A file that was uploaded, kept with its run, for uploads go after a day. Others stay where they are."""
        if self.uploads not in Path(path).resolve().parents:
            return path
        kept = folder / Path(path).name
        with contextlib.suppress(FileExistsError):
            try:
                os.link(path, kept)
            except OSError:  # another disk, or one without links
                shutil.copy2(path, kept)
        return str(kept)

    def _queue(self, run: Run) -> Run:
        with self.lock:
            self.all[run.name] = run
        self.waiting.put(run)
        return run

    def _work(self) -> None:
        while (run := self.waiting.get()) is not None:
            if run.status == WAITING:
                self._do(run)

    def _do(self, run: Run) -> None:
        """One run, whatever comes of it."""
        run.status = RUNNING
        run.keep()
        try:
            with self.using, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # notes are events here, and end in the manifest
                self._edit(run)
            run.status, run.said = DONE, ""
        except Stopped:
            run.status, run.said = STOPPED, ""
        except FAILURES as error:  # the page's worker outlives any one edit
            run.status, run.said = FAILED, sentence(error)
        run.preview = None
        run.keep()

    def _edit(self, run: Run) -> None:
        from .. import editing
        from ..result import Result

        clip = intake.taken(run.task).clip
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
        look(run, event.clip)

    def _seen(self, run: Run, event: Any, backbone: Any, size: tuple[int, int]) -> None:
        """Keep what an event says of a run."""
        from ..step import Step
        from ..walk import Note, Progress

        if isinstance(event, Note):
            run.notes.append(event.text)
        elif isinstance(event, Progress):
            run.moved(event.stage, event.done, event.count)
        elif isinstance(event, Step):
            run.moved(event.stage, event.index, event.count)
            if event.stage == "edit" and due(run):
                asked = time.monotonic()
                run.preview = preview(event.clean, backbone, size)
                run.shown = time.monotonic()
                run.cost = run.shown - asked

    def backbone(self, task: EditTask) -> Any:
        """The one warm backbone."""
        key = (task.backbone, task.weights, task.device, task.dtype)
        if self.warm is None or self.warm[0] != key:
            self.warm = None  # the room first
            self.warm = key, self.load(*key)
        return self.warm[1]


def files_of(task: EditTask) -> dict[str, str]:
    """The files of a task that may have been uploaded, by field."""
    named = {name: getattr(task, name) for name in ("input", "mask", "first_frame")}
    return {name: path for name, path in named.items() if path and Path(path).is_file()}


def due(run: Run) -> bool:
    """Whether it is time for a preview: often enough to follow, and not so often that it slows the edit."""
    since = time.monotonic() - run.shown
    return run.preview is None or since > max(PREVIEW_EVERY, run.cost / PREVIEW_SHARE)


def look(run: Run, clip: video.Clip) -> None:
    """Beside a result, for the page: a strip, and the source beside the result as a clip that every browser plays."""
    both = {"source": clip, "edited": video.probe(run.output)}
    frames = [map(eight_bits, video.read(file)) for file in both.values()]
    with whole(run.folder / SIDE) as part:
        part.write_bytes(showing.small(frames, clip.size, float(clip.rate)))
    wanted = showing.evenly(clip.frames)
    rows = {name: some(file, wanted) for name, file in both.items()}
    with whole(run.folder / STRIP) as part:
        showing.strip(rows, showing.WIDTH / len(wanted) / clip.size[0]).save(part)


def some(clip: video.Clip, wanted: list[int]) -> list[np.ndarray]:
    """Frames of a clip by their places, H W 3 uint8."""
    return [eight_bits(frame) for i, frame in enumerate(video.read(clip)) if i in wanted]


def preview(clean: Any, backbone: Any, size: tuple[int, int]) -> np.ndarray:
    """The first frame of a latent 1 c f h w, at a clip's size (width, height)."""
    import torch

    from ..media.fit import resize

    with torch.no_grad():
        frames = next(iter(backbone.decode(clean[:, :, :1])))
        return to_array(resize(frames[:1].float().cpu(), size[::-1])[0], 8)


def found(folder: Path) -> Iterator[Run]:
    """The runs that lie in a folder. One that was on when the page ended was stopped by that."""
    for record in sorted(folder.glob(f"*/{RECORD}")):
        try:
            said = from_json(record.read_text())
            run = Run(record.parent, EditTask.from_dict(said["task"]))
            run.status, run.said = said["status"], said["said"]
        except (OSError, ValueError, KeyError, TypeError):  # not ours, or of a newer version
            continue
        if run.status in (WAITING, RUNNING):
            run.status = STOPPED
        yield run


@contextlib.contextmanager
def errors(said: dict[str, str]) -> Iterator[None]:
    """What goes wrong for a user as the sentence that the command line gives, in said["error"]."""
    try:
        yield
    except FAILURES as error:
        said["error"] = f"**{sentence(error)}**"


def sentence(error: Exception) -> str:
    """What the command line would say."""
    from ..console import LESS, one_line, said

    if ran_out(error):
        return LESS
    if isinstance(error, OSError):
        return one_line(said(error))
    if isinstance(error, (UserError, Missing)):
        return one_line(error)
    return f"a bug: {type(error).__name__}: {one_line(error)}"
