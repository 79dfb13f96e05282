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
from .locks import claimed
from .loop import Done, Event, Note, Painted, Progress
from .output_paths import adapters_path, all_paths, first_path, mask_path, store_of
from .planning import Plan, plan
from .progress import Store
from .result import Clock, Report, Result, describe
from .task import EditTask
from .validation import Taken, placed, taken

SAVE_EVERY = 20.0  # seconds between two saves of a running edit


class Cancelled(KeyboardInterrupt):
    """The user stopped a run, and the message says how far it came. saved: whether there is something to go on from."""

    def __init__(self, message: str, saved: bool):
        super().__init__(message)
        self.saved = saved


def edit(
    task: EditTask,
    backbone: Backbone | None = None,
    resume: bool = False,
    report: Report | None = None,
    known: Taken | None = None,
    judged: bool = True,
) -> Result:
    """Run an edit up to the saved latent. `Result.save` decodes and writes it.

    backbone: one that is loaded already; else the task's is loaded. resume: go on from the latents beside the output.
    report: told (stage, done, count) as it goes. known: the task as it was taken in, where that is done already.
    judged: ask the model at the end whether it sees the target in the result (agreement.py).
    Raises ValueError for bad input, Missing for missing weights, Cancelled after Ctrl-C.
    """
    return exhausted(events(task, backbone, resume, known, judged), task, report)


def exhausted(
    running: Generator[Event | Result], task: EditTask, report: Report | None = None
) -> Result:
    """The last of a task's events. Likewise, and what the report itself raises cancels the edit."""
    step = None
    store = store_of(task) if task.output else None  # now: its key is of files that may go
    try:
        with contextlib.closing(running):
            for event in running:
                if isinstance(event, Note):
                    warnings.warn(event.text, Notice, stacklevel=3)
                elif isinstance(event, Step):
                    step = event
                if report and isinstance(event, Progress):
                    report(event.stage, event.done, event.count)
                elif report and isinstance(event, Step):
                    report(event.stage, event.index, event.count)
    except KeyboardInterrupt as error:
        where = "before a step was done"
        if step:
            where = f"after step {step.index} of {step.count}"
        saved = store is not None and store.holds()
        raise Cancelled(f"stopped {where}", saved) from error
    return event


def events(
    task: EditTask,
    backbone: Backbone | None = None,
    resume: bool = False,
    known: Taken | None = None,
    judged: bool = True,
) -> Iterator[Event | Result]:
    """An edit as it goes: Progress, Note and Step; the Result is the last. Closing it cancels the edit and saves its
    latents.
    """
    notes: list[str] = []
    for event in gathered(_events(task, backbone, resume, known, judged), Note):
        if isinstance(event, Note):
            notes.append(event.text)
        elif isinstance(event, Result):
            event.manifest["notes"] = notes
        yield event


@dataclass
class Opened:
    """A clip that was read and what was planned for it."""

    task: EditTask
    clip: video.Clip
    part: range
    mask: masks.Mask | None
    plan: Plan
    store: Store | None
    first: Tensor | None = None  # the wanted first frame, as the model takes it
    latent: Tensor | None = None  # the part, where it was encoded already
    keys: dict[int, Tensor] = dataclasses.field(default_factory=dict)  # and others, by place
    judged: bool = False  # whether the model is asked about the result

    def shown(self, made: Painted) -> None:
        """Say that an image model made the wanted first frame, and write it beside the output."""
        said = f"{self.plan.painter.name} made the first frame from the prompts"
        if self.task.output:
            path = first_path(Path(self.task.output))
            with whole(path) as part:
                images.write(part, made.frame)
            said += f": {path}"
        note(f"{said} ({made.evaluations} evaluations)")
        self.find({"first": made.frame})

    def find(self, found: dict[str, Tensor]) -> None:
        """What is from now on saved with every step, so that a resumed run goes on with the same."""
        if self.store:
            self.store = dataclasses.replace(self.store, found=self.store.found | found)

    def fitted(self) -> tuple[Path, str] | None:
        """Where adapters that the method fits to this clip are kept, and their key; None where there are none."""
        names = getattr(self.plan.method, "FITTED", ())
        if not (names and self.task.output):
            return None
        settings = {name: getattr(self.plan.cfg, name) for name in names}
        return adapters_path(Path(self.task.output)), self.task.fit_key(settings)

    def frames(self) -> Iterator[Tensor]:
        """The part's frames as the model takes them."""
        arrays = islice(video.read(self.clip), self.part.start, self.part.stop)
        return self.plan.fit.forward(to_tensor(array) for array in arrays)

    def keep(self, step: Step | None) -> None:
        """Save a step, where there is one and a place for it."""
        if self.store and step:
            with spared(self.store.path):
                self.store.save(step)

    def located(self, grid, cells: Tensor) -> loop.MaskFrames:
        """The automatic mask of these cells, from now on the edit's own."""
        self.mask = loop.cells_mask(self.plan, grid, cells)
        self.find({"mask": cells.byte()})
        return self.mask.frames

    def show_mask(self) -> None:
        """Say that the automatic mask is a guess, and write a picture of it next to the output."""
        said = "the mask is a guess from what the words attend to"
        if self.task.output:
            path = mask_path(Path(self.task.output))
            with spared(path):
                mask_strip.write_strip(path, self.clip, self.part, self.mask)
            said += f": look at {path}"
        note(f"{said}; a box or a mask of your own is surer")


@contextlib.contextmanager
def spared(path: Path) -> Iterator[None]:
    """What cannot be saved is noted. A full disk does not end the edit: its result may still fit."""
    try:
        yield
    except OSError as error:
        note(f"{path} cannot be saved ({error.strerror or error}): a stop would lose what is done")


def opened(task: EditTask, backbone: Backbone | None, known: Taken | None = None) -> Opened:
    """Read the clip and choose everything, so that what cannot work fails before any of it is paid for."""
    known = known or taken(task, backbone)
    clip, part = known.clip, known.part
    bound = task.mask and task.mask != "auto"
    mask = loop.bind_mask(task, clip, part, task.allow_any_mask) if bound else None
    unused_options.of_files(task, clip)
    if not task.same:
        calibration.check_words(known.about, task.prompts)
    keys = placed(task, part)
    chosen = plan(task, known.about, len(part), (clip.size[1], clip.size[0]), keys)
    store = store_of(task) if task.output else None
    edit = Opened(task, clip, part, mask, chosen, store, latent=known.latent)
    if task.first_frame:
        edit.first = first_frame.read(task.first_frame, chosen.fit, next(edit.frames()))
    for at, path in keys.items():
        shown = next(islice(edit.frames(), at, None))
        edit.keys[at] = first_frame.read(path, chosen.fit, shown)
    return edit


def _events(
    task: EditTask, backbone: Backbone | None, resume: bool, known: Taken | None, judged: bool
) -> Iterator[Event | Result]:
    clock, memory = Clock(), PeakMemory()
    with memory:
        edit = opened(task, backbone, known)
    edit.judged = judged
    if not task.output:
        with memory:
            result = yield from _alone(edit, backbone, resume, clock)
        yield dataclasses.replace(result, memory=memory)
        return
    with claimed(task.output) as claim, memory:
        tidy(all_paths(Path(task.output)))
        result = yield from _alone(edit, backbone, resume, clock)
    yield dataclasses.replace(result, memory=memory, claim=claim)


def _alone(edit: Opened, backbone: Backbone | None, resume: bool, clock: Clock) -> Iterator[Event]:
    """Load and walk; returns the Result. Nobody else works on its output meanwhile."""
    task = edit.task
    saved = edit.store.load() if resume and edit.store and not task.same else None
    # What a stopped run saved has those of the clip that it was in.
    known = task.same or (saved is not None and edit.plan.spans.count == 1)
    adapters = None if known else reused(edit.fitted())
    clock.lap("read")
    yield Progress("read", 1, 1)
    clock.restart()
    backbone = backbone or registry.load_backbone(
        task.backbone, task.weights, task.device, task.dtype
    )
    clock.lap("load")
    yield Progress("load", 1, 1)
    done = Done(None, 0)
    if task.same:
        alike = task.source_prompt.split() == task.target_prompt.split()
        how = "are equal" if alike else "differ in punctuation, case or spelling forms alone"
        note(f"the prompts {how}: the result is the source")
    else:
        if resume and saved is None:
            note("nothing was saved to go on from; starting over")
        done = yield from _walked(edit, backbone, saved, adapters, clock)
        if not done.walked:
            note(f"{task.method} has nothing to walk with these settings: the result is the source")
    manifest = describe(edit.plan, edit.clip, backbone, done)
    about = (edit.plan, edit.clip, edit.part, edit.mask, backbone)
    return Result(*about, done.z if done.walked else None, manifest, edit.store, clock)


def reused(fitted: tuple[Path, str] | None) -> dict[str, Tensor] | None:
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


def _walked(
    edit: Opened,
    backbone: Backbone,
    saved: tuple[Step, dict] | None,
    adapters: dict[str, Tensor] | None,
    clock: Clock,
) -> Iterator[Event]:
    """The walk, saved every now and then, when it is cancelled, and at its end; returns its Done."""
    step, found = saved or (None, {})
    place, fitted = edit.fitted(), dict(adapters or {})
    edit.find(found)

    def locate(cells: Tensor) -> loop.MaskFrames:
        frames = edit.located(backbone.grid, cells)
        edit.show_mask()
        return frames

    job = loop.Job(
        edit.plan,
        frames=edit.frames,
        mask=edit.mask.frames if edit.mask else None,
        locate=locate,
        cells=found["mask"] > 0 if "mask" in found else None,
        first=found.get("first", edit.first),
        keys=edit.keys,
        adapters=adapters,
        start=step,
        source=edit.latent,
        checked=True,
        judged=edit.judged,
    )
    last = time.monotonic()
    clock.restart()
    try:
        for event in loop.walk(job, backbone):
            clock.lap(event.stage)
            if isinstance(event, Done):
                break
            if isinstance(event, Painted):
                edit.shown(event)
            if isinstance(event, Step):
                step = event
                if place and event.fitted:  # of a long clip's clips one after the other
                    fitted |= {name: value.cpu() for name, value in event.fitted.items()}
                    with spared(place[0]):
                        save_tensors(place[0], fitted, {"key": place[1]})
                if time.monotonic() - last > SAVE_EVERY:
                    edit.keep(step)
                    last = time.monotonic()
            yield event
            clock.restart()
        edit.keep(step)  # before anything is decoded: an edit is never lost to what comes after it
    except (KeyboardInterrupt, GeneratorExit):
        edit.keep(step)
        raise
    return event
