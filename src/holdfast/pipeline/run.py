"""A whole edit of a file: read, plan, load, walk, and what is saved on the way. `events` is it; `edit` exhausts it."""

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from torch import Tensor

from ..base.files import load_tensors, save_tensors, tidy, whole
from ..base.memory import PeakMemory
from ..base.notices import Notice, gathered, note
from ..media import first_frame, images, masks, video
from ..media.images import to_tensor
from ..models import calibration, registry
from ..models.base import Backbone
from ..sampling.field import Step
from . import loop, mask_strip, unused_options
from .locks import lock_output
from .loop import EditFinished, Event, FirstFramePainted, NoticeIssued, Progress
from .output_paths import (
    adapters_path,
    all_paths,
    first_frame_path,
    mask_picture_path,
    saved_progress,
)
from .planning import Plan, make_plan
from .progress import SavedProgress
from .result import Clock, ProgressCallback, Result, make_manifest
from .task import EditTask
from .validation import ValidatedTask, keyframes_by_index, validate

SAVE_EVERY = 20.0  # seconds between two saves of a running edit


class EditCancelled(KeyboardInterrupt):
    """The user stopped a run, and the message says how far it came. saved: whether there is something to go on from."""

    def __init__(self, message: str, saved: bool):
        super().__init__(message)
        self.saved = saved


def edit(
    task: EditTask,
    backbone: Backbone | None = None,
    resume: bool = False,
    on_progress: ProgressCallback | None = None,
    validated: ValidatedTask | None = None,
    judge_result: bool = True,
) -> Result:
    """Run an edit up to the saved latent. `Result.save` decodes and writes it.

    backbone: one that is loaded already; else the task's is loaded. resume: go on from the latents beside the output.
    report: told (stage, done, count) as it goes. known: the task as it was taken in, where that is done already.
    judged: ask the model at the end whether it sees the target in the result (agreement.py).
    Raises ValueError for bad input, Missing for missing weights, Cancelled after Ctrl-C.
    """
    return run_to_end(edit_events(task, backbone, resume, validated, judge_result), task, on_progress)


def run_to_end(
    running: Generator[Event | Result], task: EditTask, on_progress: ProgressCallback | None = None
) -> Result:
    """The last of a task's events. Likewise, and what the report itself raises cancels the edit."""
    step = None
    store = saved_progress(task) if task.output else None  # now: its key is of files that may go
    try:
        with contextlib.closing(running):
            for event in running:
                if isinstance(event, NoticeIssued):
                    warnings.warn(event.text, Notice, stacklevel=3)
                elif isinstance(event, Step):
                    step = event
                if on_progress and isinstance(event, Progress):
                    on_progress(event.stage, event.done, event.count)
                elif on_progress and isinstance(event, Step):
                    on_progress(event.stage, event.index, event.count)
    except KeyboardInterrupt as error:
        where = "before a step was done"
        if step:
            where = f"after step {step.index} of {step.count}"
        saved = store is not None and store.can_resume()
        raise EditCancelled(f"stopped {where}", saved) from error
    return event


def edit_events(
    task: EditTask,
    backbone: Backbone | None = None,
    resume: bool = False,
    validated: ValidatedTask | None = None,
    judge_result: bool = True,
) -> Iterator[Event | Result]:
    """An edit as it goes: Progress, Note and Step; the Result is the last. Closing it cancels the edit and saves its
    latents.
    """
    notes: list[str] = []
    for event in gathered(_run_locked(task, backbone, resume, validated, judge_result), NoticeIssued):
        if isinstance(event, NoticeIssued):
            notes.append(event.text)
        elif isinstance(event, Result):
            event.manifest["notes"] = notes
        yield event


@dataclass
class EditSession:
    """A clip that was read and what was planned for it."""

    task: EditTask
    clip: video.Clip
    part: range
    mask: masks.Mask | None
    plan: Plan
    progress: SavedProgress | None
    first_frame: Tensor | None = None  # the wanted first frame, as the model takes it
    latent: Tensor | None = None  # the part, where it was encoded already
    keyframes: dict[int, Tensor] = dataclasses.field(default_factory=dict)  # and others, by place
    judges_result: bool = False  # whether the model is asked about the result

    def report_first_frame(self, made: FirstFramePainted) -> None:
        """Say that an image model made the wanted first frame, and write it beside the output."""
        said = f"{self.plan.first_frame_model.name} made the first frame from the prompts"
        if self.task.output:
            path = first_frame_path(Path(self.task.output))
            with whole(path) as part:
                images.write(part, made.frame)
            said += f": {path}"
        note(f"{said} ({made.evaluations} evaluations)")
        self.find({"first": made.frame})

    def find(self, found: dict[str, Tensor]) -> None:
        """What is from now on saved with every step, so that a resumed run goes on with the same."""
        if self.progress:
            self.progress = dataclasses.replace(self.progress, extra=self.progress.extra | found)

    def adapters_file(self) -> tuple[Path, str] | None:
        """Where adapters that the method fits to this clip are kept, and their key; None where there are none."""
        names = getattr(self.plan.method, "FITTED", ())
        if not (names and self.task.output):
            return None
        settings = {name: getattr(self.plan.config, name) for name in names}
        return adapters_path(Path(self.task.output)), self.task.adapters_key(settings)

    def frames(self) -> Iterator[Tensor]:
        """The part's frames as the model takes them."""
        arrays = islice(video.read(self.clip), self.part.start, self.part.stop)
        return self.plan.fit.to_model(to_tensor(array) for array in arrays)

    def save_step(self, step: Step | None) -> None:
        """Save a step, where there is one and a place for it."""
        if self.progress and step:
            with tolerate_full_disk(self.progress.path):
                self.progress.save(step)

    def use_auto_mask(self, grid, cells: Tensor) -> loop.MaskFrames:
        """The automatic mask of these cells, from now on the edit's own."""
        self.mask = loop.mask_from_cells(self.plan, grid, cells)
        self.find({"mask": cells.byte()})
        return self.mask.frames

    def report_mask(self) -> None:
        """Say that the automatic mask is a guess, and write a picture of it next to the output."""
        said = "the mask is a guess from what the words attend to"
        if self.task.output:
            path = mask_picture_path(Path(self.task.output))
            with tolerate_full_disk(path):
                mask_strip.write_strip(path, self.clip, self.part, self.mask)
            said += f": look at {path}"
        note(f"{said}; a box or a mask of your own is surer")


@contextlib.contextmanager
def tolerate_full_disk(path: Path) -> Iterator[None]:
    """What cannot be saved is noted. A full disk does not end the edit: its result may still fit."""
    try:
        yield
    except OSError as error:
        note(f"{path} cannot be saved ({error.strerror or error}): a stop would lose what is done")


def open_session(task: EditTask, backbone: Backbone | None, validated: ValidatedTask | None = None) -> EditSession:
    """Read the clip and choose everything, so that what cannot work fails before any of it is paid for."""
    validated = validated or validate(task, backbone)
    clip, part = validated.clip, validated.part
    bound = task.mask and task.mask != "auto"
    mask = loop.open_task_mask(task, clip, part, task.allow_any_mask) if bound else None
    unused_options.warn_unused_file_options(task, clip)
    if not task.changes_nothing:
        calibration.check_words(validated.info, task.prompts)
    keys = keyframes_by_index(task, part)
    chosen = make_plan(task, validated.info, len(part), (clip.size[1], clip.size[0]), keys)
    store = saved_progress(task) if task.output else None
    edit = EditSession(task, clip, part, mask, chosen, store, latent=validated.latent)
    if task.first_frame:
        edit.first_frame = first_frame.read(task.first_frame, chosen.fit, next(edit.frames()))
    for at, path in keys.items():
        shown = next(islice(edit.frames(), at, None))
        edit.keyframes[at] = first_frame.read(path, chosen.fit, shown)
    return edit


def _run_locked(
    task: EditTask, backbone: Backbone | None, resume: bool, known: ValidatedTask | None, judged: bool
) -> Iterator[Event | Result]:
    clock, memory = Clock(), PeakMemory()
    with memory:
        edit = open_session(task, backbone, known)
    edit.judges_result = judged
    if not task.output:
        with memory:
            result = yield from _load_and_run(edit, backbone, resume, clock)
        yield dataclasses.replace(result, memory=memory)
        return
    with lock_output(task.output) as claim, memory:
        tidy(all_paths(Path(task.output)))
        result = yield from _load_and_run(edit, backbone, resume, clock)
    yield dataclasses.replace(result, memory=memory, lock=claim)


def _load_and_run(edit: EditSession, backbone: Backbone | None, resume: bool, clock: Clock) -> Iterator[Event]:
    """Load and walk; returns the Result. Nobody else works on its output meanwhile."""
    task = edit.task
    saved = edit.progress.load() if resume and edit.progress and not task.changes_nothing else None
    # What a stopped run saved has those of the clip that it was in.
    known = task.changes_nothing or (saved is not None and edit.plan.windows.count == 1)
    adapters = None if known else load_adapters(edit.adapters_file())
    clock.lap("read")
    yield Progress("read", 1, 1)
    clock.restart()
    backbone = backbone or registry.load_backbone(
        task.backbone, task.weights, task.device, task.dtype
    )
    clock.lap("load")
    yield Progress("load", 1, 1)
    done = EditFinished(None, 0)
    if task.changes_nothing:
        alike = task.source_prompt.split() == task.target_prompt.split()
        how = "are equal" if alike else "differ in punctuation, case or spelling forms alone"
        note(f"the prompts {how}: the result is the source")
    else:
        if resume and saved is None:
            note("nothing was saved to go on from; starting over")
        done = yield from _run_and_save(edit, backbone, saved, adapters, clock)
        if not done.is_edited:
            note(f"{task.method} has nothing to walk with these settings: the result is the source")
    manifest = make_manifest(edit.plan, edit.clip, backbone, done)
    about = (edit.plan, edit.clip, edit.part, edit.mask, backbone)
    return Result(*about, done.z if done.is_edited else None, manifest, edit.progress, clock)


def load_adapters(fitted: tuple[Path, str] | None) -> dict[str, Tensor] | None:
    """Adapters that lie beside the output, if they were fitted to this clip with these settings. Broken ones count as
    none: they are a saving, which the edit can do without.
    """
    if fitted is None or not fitted[0].exists():
        return None
    try:
        tensors, about = load_tensors(fitted[0])
    except ValueError:
        tensors, about = {}, {"key": fitted[1]}
    if not tensors or not all(value.isfinite().all() for value in tensors.values()):
        note(f"{fitted[0]} is damaged: the clip's motion is learnt anew")
        return None
    if about.get("key") != fitted[1]:
        return None
    note(f"the clip's motion is known from an earlier run: {fitted[0]}")
    return tensors


def _run_and_save(
    edit: EditSession,
    backbone: Backbone,
    saved: tuple[Step, dict] | None,
    adapters: dict[str, Tensor] | None,
    clock: Clock,
) -> Iterator[Event]:
    """The walk, saved every now and then, when it is cancelled, and at its end; returns its Done."""
    step, found = saved or (None, {})
    place, fitted = edit.adapters_file(), dict(adapters or {})
    edit.find(found)

    def locate(cells: Tensor) -> loop.MaskFrames:
        frames = edit.use_auto_mask(backbone.clip_format, cells)
        edit.report_mask()
        return frames

    job = loop.LoopJob(
        edit.plan,
        frames=edit.frames,
        mask=edit.mask.frames if edit.mask else None,
        make_auto_mask=locate,
        cells=found["mask"] > 0 if "mask" in found else None,
        first_frame=found.get("first", edit.first_frame),
        keyframes=edit.keyframes,
        adapters=adapters,
        resume=step,
        source_latent=edit.latent,
        checks_footage=True,
        judges_result=edit.judges_result,
    )
    last = time.monotonic()
    clock.restart()
    try:
        for event in loop.run_loop(job, backbone):
            clock.lap(event.stage)
            if isinstance(event, EditFinished):
                break
            if isinstance(event, FirstFramePainted):
                edit.report_first_frame(event)
            if isinstance(event, Step):
                step = event
                if place and event.fitted:  # of a long clip's clips one after the other
                    fitted |= {name: value.cpu() for name, value in event.fitted.items()}
                    with tolerate_full_disk(place[0]):
                        save_tensors(place[0], fitted, {"key": place[1]})
                if time.monotonic() - last > SAVE_EVERY:
                    edit.save_step(step)
                    last = time.monotonic()
            yield event
            clock.restart()
        edit.save_step(step)  # before anything is decoded: an edit is never lost to what comes after it
    except (KeyboardInterrupt, GeneratorExit):
        edit.save_step(step)
        raise
    return event
