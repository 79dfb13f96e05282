"""Run an edit of a file: read, plan, load, run the sampling loop, and save its progress on the way.

`edit_events` yields its events; `edit` runs them to the end.
"""

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ..base.files import atomic_write, remove_stale_scratch
from ..base.memory import PeakMemory, is_out_of_memory
from ..base.notices import Notice, warn_user, with_notices
from ..media import first_frame, images, masks, video
from ..media.clip_format import ClipFormat
from ..media.images import to_tensor
from ..models import calibration
from ..models.base import Backbone
from ..sampling.field import Step
from . import controls, loop, mask_strip, unused_options
from .edited_clip import EditedClip
from .events import (
    EditFinished,
    Event,
    FirstFramePainted,
    NoticeIssued,
    Progress,
    ProgressCallback,
    report_progress,
)
from .in_memory import HELPERS
from .loading import check_windows, load_planned
from .locks import lock_output
from .manifest_content import make_manifest
from .memory_limits import propose_smaller_plan
from .output_paths import adapters_path, all_paths, first_frame_path, mask_picture_path
from .planning import Plan, make_plan
from .progress import (
    AdapterFile,
    BackgroundSaver,
    SavedProgress,
    saved_progress,
    tolerate_full_disk,
)
from .result import Result
from .task import EditTask
from .validation import ValidatedTask, keyframes_by_index, validate
from .writer import StageTimer, Writer

SAVE_SECONDS = 20.0  # between two saves of a running edit


class EditCancelled(KeyboardInterrupt):
    """The user stopped a run. The message says how far it came. saved: whether its progress can be resumed."""

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
    """Run an edit up to its latent. `Result.save` decodes it and writes the file.

    backbone: a loaded one; by default the task's is loaded. resume: continue from the progress saved next to the
    output. on_progress: called with (stage, done, count). validated: the task's validation, where it is done already.
    judge_result: let the model score the result (agreement.py).

    Raises UserError for bad input, MissingDependencyError for missing weights, EditCancelled after Ctrl-C.
    """
    events = edit_events(task, backbone, resume, validated, judge_result)
    return run_to_end(events, task, on_progress)


def run_to_end(
    events: "Generator[Event | Result, None, None]",
    task: EditTask,
    on_progress: ProgressCallback | None = None,
) -> Result:
    """Run a task's events to the end and return the result. Notices become warnings.

    Raises as `edit` does. What on_progress raises cancels the edit, too.
    """
    step = event = None
    # Its key depends on input files, which may be gone at the end.
    progress = saved_progress(task) if task.output else None
    try:
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, NoticeIssued):
                    warnings.warn(event.text, Notice, stacklevel=3)
                elif isinstance(event, Step):
                    step = event
                report_progress(event, on_progress)
    except KeyboardInterrupt as error:
        where = f"after step {step.index} of {step.count}" if step else "before a step was done"
        saved = progress is not None and progress.can_resume()
        raise EditCancelled(f"stopped {where}", saved) from error
    assert isinstance(event, Result)
    return event


def edit_events(
    task: EditTask,
    backbone: Backbone | None = None,
    resume: bool = False,
    validated: ValidatedTask | None = None,
    judge_result: bool = True,
) -> "Generator[Event | Result, None, None]":
    """Yield the events of an edit, the Result last. Closing the generator cancels the edit and saves its progress.

    Parameters and errors are those of `edit`.
    """
    notices: list[str] = []
    events = _run_locked(task, backbone, resume, validated, judge_result)
    for event in with_notices(events, NoticeIssued):
        if isinstance(event, NoticeIssued):
            notices.append(event.text)
        elif isinstance(event, Result):
            event.manifest["notes"] = notices
        yield event


@dataclass
class EditSession:
    """An edit whose clip is open and planned.

    part: the frames that are edited. areas: the masks with words of their own; `mask` is their union.
    control_frames: the control pictures of a file, in the same form as `frames`.
    first_frame, keyframes: the edited frames, 3 H W, as the model takes them;
    keyframes by index. latent: the part's, where it is encoded already. judges_result: whether the model scores it.
    """

    task: EditTask
    clip: video.Clip
    part: range
    mask: masks.Mask | None
    areas: tuple[masks.Mask, ...]
    plan: Plan
    progress: SavedProgress | None
    control_frames: loop.MakeFrames | None = None
    first_frame: Tensor | None = None
    latent: Tensor | None = None
    keyframes: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    judges_result: bool = False
    saver: BackgroundSaver = dataclasses.field(default_factory=BackgroundSaver)

    def frames(self) -> Iterator[Tensor]:
        """Read the part's frames as the model takes them, 3 H W in [0, 1]."""
        arrays = islice(video.read(self.clip), self.part.start, self.part.stop)
        return self.plan.fit.to_model(to_tensor(array) for array in arrays)

    def adapter_file(self) -> AdapterFile | None:
        """Return where the adapters that the method trains on this clip are saved; None where it trains none."""
        facts = self.plan.method.METHOD
        names = facts.list_adapter_settings(self.plan.windows.count)
        if not (names and self.task.output):
            return None
        settings = {name: getattr(self.plan.config, name) for name in names}
        if facts.fits_to_prompt:
            settings["source_prompt"] = self.task.source_prompt
        return AdapterFile(adapters_path(Path(self.task.output)), self.task.adapters_key(settings))

    def save_with_progress(self, tensors: Mapping[str, Tensor]) -> None:
        """Save tensors with every step from now on, so that a resumed run continues with the same ones."""
        if self.progress:
            extra = {**self.progress.extra, **tensors}
            self.progress = dataclasses.replace(self.progress, extra=extra)

    def save_step(self, step: Step | None) -> None:
        """Save a step, where there is one and the task has an output."""
        if self.progress:
            with tolerate_full_disk(self.progress.path):
                self.saver.wait()
        if self.progress and step:
            with tolerate_full_disk(self.progress.path):
                self.progress.save(step)

    def start_saving(self, step: Step) -> None:
        """Save a step in the background, where the task has an output."""
        if self.progress:
            with tolerate_full_disk(self.progress.path):
                self.saver.start(self.progress, step)

    def end_saving(self) -> None:
        """Wait for the save in the background, and end its thread."""
        if self.progress:
            with tolerate_full_disk(self.progress.path):
                self.saver.close()

    def use_auto_mask(self, clip_format: ClipFormat, cells: Tensor) -> loop.MaskFrames:
        """Use a mask of these latent cells for this edit, and return its frames."""
        self.mask = loop.mask_from_cells(self.plan, clip_format, cells)
        self.save_with_progress({"mask": cells.byte()})
        return self.mask.frames

    def report_mask(self) -> None:
        """Tell the user that the automatic mask is a guess, and write a picture of it next to the output."""
        text = "the mask is a guess, made from where the words attend"
        if self.task.output and self.mask:
            path = mask_picture_path(Path(self.task.output))
            with tolerate_full_disk(path):
                mask_strip.write_strip(path, self.clip, self.part, self.mask)
            text += f": look at {path}"
        warn_user(f"{text}; a box or a mask file is more reliable")

    def report_first_frame(self, painted: FirstFramePainted) -> None:
        """Tell the user that an image model made the first frame, and write it next to the output."""
        text = f"{self.plan.first_frame_model.name} made the first frame from the prompts"
        if self.task.output:
            path = first_frame_path(Path(self.task.output))
            with atomic_write(path) as temporary:
                images.write(temporary, painted.frame)
            text += f": {path}"
        warn_user(f"{text} ({painted.evaluations} evaluations)")
        self.save_with_progress({"first": painted.frame})


def open_session(
    task: EditTask, backbone: Backbone | None, validated: ValidatedTask | None = None
) -> EditSession:
    """Open a task's clip and files, and plan the edit, so that what cannot work fails before a model is loaded.

    Raises UserError for bad input, MissingDependencyError for missing weights.
    """
    validated = validated or validate(task, backbone)
    clip, part = validated.clip, validated.part
    mask, opened = None, ()
    if task.mask and task.mask != "auto":
        opened = loop.open_task_masks(task, clip, part, task.allow_any_mask)
        mask = masks.join(opened, task.masks, task.allow_any_mask)
    unused_options.warn_unused_file_options(task, clip)
    if not task.changes_nothing:
        calibration.check_words(validated.info, task.prompts)
    keyframes = keyframes_by_index(task, clip, part)
    plan = make_plan(task, validated.info, len(part), (clip.size[1], clip.size[0]), keyframes)
    options = (plan.config, plan.setting_sources)
    unused_options.warn_unused_region(validated.info, bool(task.mask), *options)
    progress = saved_progress(task) if task.output else None
    areas = opened if plan.area_words else ()
    unused_options.warn_overlap(task, masks.overlap(areas) if areas else 0.0)
    latent = validated.latent
    session = EditSession(task, clip, part, mask, areas, plan, progress, latent=latent)
    session.control_frames = controls.open_pictures(task, clip, part, plan.fit)
    if task.first_frame:
        own = next(session.frames())
        session.first_frame = first_frame.read(task.first_frame, plan.fit, own)
    for index, path in keyframes.items():
        own = next(islice(session.frames(), index, None))
        session.keyframes[index] = first_frame.read(path, plan.fit, own)
    return session


def _run_locked(
    task: EditTask,
    backbone: Backbone | None,
    resume: bool,
    validated: ValidatedTask | None,
    judge_result: bool,
) -> "Generator[Event | Result, None, None]":
    """Run an edit while no other run writes its output."""
    timer, memory = StageTimer(), PeakMemory()
    with memory:
        session = open_session(task, backbone, validated)
    session.judges_result = judge_result
    if not task.output:
        with memory, propose_smaller_plan(task, session.plan.memory):
            result = yield from _load_and_run(session, backbone, resume, timer)
        result.writer.memory = memory
        yield result
        return
    smaller = propose_smaller_plan(task, session.plan.memory)
    with lock_output(task.output) as lock, memory, smaller:
        remove_stale_scratch(all_paths(Path(task.output)))
        if task.raw:
            remove_stale_scratch([Path(task.raw)])
        result = yield from _load_and_run(session, backbone, resume, timer)
    result.writer.memory, result.writer.lock = memory, lock
    yield result


def _load_and_run(
    session: EditSession, backbone: Backbone | None, resume: bool, timer: StageTimer
) -> Generator[Event, None, Result]:
    """Load the backbone and run the loop."""
    task = session.task
    saved = None
    if session.plan.memory.window:
        session.save_with_progress({"window": torch.tensor(session.plan.memory.window)})
    if resume and session.progress and not task.changes_nothing:
        saved = session.progress.load()
        if saved:
            check_windows(session.plan, saved[1])
    adapters = _load_adapters(session, is_resumed=saved is not None)
    timer.lap("read")
    yield Progress("read", 1, 1)
    timer.restart()
    backbone = backbone or load_planned(session.plan)
    timer.lap("load")
    yield Progress("load", 1, 1)
    finished = None
    if task.changes_nothing:
        unused_options.warn_equal_prompts(task)
    else:
        if resume and saved is None:
            warn_user("there is no saved progress to resume; starting over")
        finished = yield from _run_and_save(session, backbone, saved, adapters, timer)
        if not finished.is_edited:
            warn_user(
                f"{task.method} has no step to do with these settings: the result is the source"
            )
    z = finished.z if finished and finished.is_edited else None
    edited = EditedClip(session.plan, session.clip, session.part, session.mask, backbone, z)
    manifest = make_manifest(session.plan, session.clip, backbone, finished)
    return Result(edited, manifest, Writer(session.progress, timer))


def _load_adapters(session: EditSession, is_resumed: bool) -> dict[str, Tensor] | None:
    """Load the adapters of an earlier run, unless they are not needed or the saved progress contains them."""
    is_contained = is_resumed and session.plan.windows.count == 1
    file = session.adapter_file()
    if session.task.changes_nothing or is_contained or file is None:
        return None
    return file.load()


def _run_and_save(
    session: EditSession,
    backbone: Backbone,
    saved: tuple[Step, dict[str, Tensor]] | None,
    adapters: dict[str, Tensor] | None,
    timer: StageTimer,
) -> Generator[Event, None, EditFinished]:
    """Run the loop, and save its progress now and then, when it is cancelled, and at its end."""
    step, extra = saved or (None, {})
    session.save_with_progress(extra)
    job = _make_job(session, backbone, step, extra, adapters)
    adapter_file, all_adapters = session.adapter_file(), dict(adapters or {})
    last_save = time.monotonic()
    timer.restart()
    try:
        for event in loop.run_loop(job, backbone):
            if not isinstance(event, NoticeIssued):
                timer.lap(event.stage)
            if isinstance(event, EditFinished):
                # Before anything is decoded, so that an edit is never lost to what follows it.
                session.save_step(step)
                return event
            if isinstance(event, FirstFramePainted):
                session.report_first_frame(event)
            if isinstance(event, Step):
                step = event
                if adapter_file and event.adapters:  # of one segment after another
                    all_adapters |= {name: value.cpu() for name, value in event.adapters.items()}
                    with tolerate_full_disk(adapter_file.path):
                        adapter_file.save(all_adapters)
                if time.monotonic() - last_save > SAVE_SECONDS:
                    session.start_saving(step)
                    last_save = time.monotonic()
            yield event
            timer.restart()
    except (KeyboardInterrupt, GeneratorExit):
        session.save_step(step)
        raise
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            session.save_step(step)
        raise
    finally:
        session.end_saving()
    raise AssertionError("the loop ended without EditFinished")


def _make_job(
    session: EditSession,
    backbone: Backbone,
    step: Step | None,
    extra: Mapping[str, Tensor],
    adapters: dict[str, Tensor] | None,
) -> loop.LoopJob:
    def make_auto_mask(cells: Tensor) -> loop.MaskFrames:
        frames = session.use_auto_mask(backbone.clip_format, cells)
        session.report_mask()
        return frames

    return loop.LoopJob(
        session.plan,
        frames=session.frames,
        mask=session.mask.frames if session.mask else None,
        areas=tuple(area.frames for area in session.areas),
        make_auto_mask=make_auto_mask,
        cells=extra["mask"] > 0 if "mask" in extra else None,
        first_frame=extra.get("first", session.first_frame),
        keyframes=session.keyframes,
        control_frames=session.control_frames,
        resume=step,
        adapters=adapters,
        source_latent=session.latent,
        checks_footage=True,
        judges_result=session.judges_result,
        helpers=HELPERS,
    )
