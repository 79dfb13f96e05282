"""An edit in memory, without files: condition, encode, drive the method. A generator of events; closing it cancels the
edit.

job = walk.job(EditTask(input="", output="", source_prompt=..., target_prompt=..., method="flowedit"), backbone, frames)
z = walk.finished(job, backbone)
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UserError
from ..base.notices import note
from ..media import masks
from ..media.reading import Clip
from ..models import calibration
from ..models.attention import maps
from ..models.base import Backbone, Condition, Prompt, reserve
from ..sampling import windows
from ..sampling.field import EditInputs, ImageModel, Pixels, Step, VelocityField
from . import agreement
from .helper_models import guiding, loaded
from .planning import Plan, plan
from .task import EditTask

LARGEST = 1e6  # of a latent, whose numbers are about 1: far from what a VAE can decode, or a float can square
AUTO_FEATHER = 0.5  # of a latent cell: how far an edit fades out around an automatic mask
MaskFrames = Callable[[], Iterable[np.ndarray]]  # boolean H W, one a frame, anew at each call


@dataclass(frozen=True)
class Progress:
    """So much of a stage is done."""

    stage: str
    done: int
    count: int


@dataclass(frozen=True)
class Note:
    """What a user should know of this run."""

    text: str


@dataclass(frozen=True)
class Found:
    """The automatic mask, f h w boolean on latents."""

    cells: Tensor
    stage: str = "mask"


@dataclass(frozen=True)
class Done:
    """The end of a walk: the edited latent, and how often the network was evaluated."""

    z: Tensor
    evaluations: int
    beside: int = 0  # those of the second model
    stage: str = "edit"
    walked: bool = True  # whether there was anything to walk; else the latent is the clip's own
    agreement: float | None = None  # agreement.score, where the job asks for it
    judging: int = 0  # evaluations that it took
    is_usual: bool = (
        True  # whether prompts and clip are such as the model's judgement was measured on
    )


@dataclass(frozen=True)
class Painted:
    """The wanted first frame as an image model made it from the prompts, 3 H W at the size that the model takes."""

    frame: Tensor
    evaluations: int
    stage: str = "first frame"


Event = Painted | Progress | Note | Found | Step | Done


@dataclass(frozen=True)
class Job:
    """What to walk."""

    plan: Plan
    # as the model takes them, 3 H W in [0, 1], anew at each call
    frames: Callable[[], Iterable[Tensor]]
    mask: MaskFrames | None = None
    # makes a mask of the cells that attention finds
    locate: Callable[[Tensor], MaskFrames] | None = None
    cells: Tensor | None = None  # those that an earlier run found
    first: Tensor | None = None  # the wanted first frame, as the model takes it, 3 H W
    keys: Mapping[int, Tensor] = field(default_factory=dict)  # wanted frames besides, by place
    start: Step | None = None  # where an earlier run stopped
    adapters: dict[str, Tensor] | None = None  # what an earlier run fitted to this clip
    guide: Backbone | None = None  # the plan's second model, where it is loaded already
    source: Tensor | None = None  # the clean latent of the frames, where they were encoded already
    checked: bool = False  # look whether the clip is of the kind that the model was trained on
    judged: bool = False  # ask the model at the end whether it sees the target in the result


def job(
    task: EditTask,
    backbone: Backbone,
    frames: Tensor,
    mask: Sequence[np.ndarray] | None = None,
    first: Tensor | None = None,
    keys: Mapping[int, Tensor] | None = None,
) -> Job:
    """An edit of frames f 3 H W that are in memory; the task's files are not read. mask: boolean H W, one a frame;
    first: the wanted first frame, 3 H W; keys: wanted frames at other places.
    """
    keys = keys or {}
    chosen = plan(task, backbone, len(frames), tuple(frames.shape[-2:]), keys)
    return Job(
        chosen,
        frames=lambda: chosen.fit.forward(frames),
        mask=None if mask is None else lambda: mask,
        locate=lambda cells: cells_mask(chosen, backbone.grid, cells).frames,
        first=None if first is None else next(chosen.fit.forward([first])),
        keys={at: next(chosen.fit.forward([frame])) for at, frame in keys.items()},
    )


def cells_mask(chosen: Plan, grid, cells: Tensor) -> masks.Mask:
    """A mask of cells that attention found, shaped as the task has it. Its edges are those of cells: unless the task
    says otherwise, the edit fades out over some pixels.
    """
    task = chosen.task
    shape = shape_of(task)
    if task.feather is None:
        shape = replace(shape, feather=round(AUTO_FEATHER * masks.cell_size(grid, chosen.fit)))
    return masks.from_cells(cells, grid, chosen.fit, shape, task.allow_any_mask)


def bind_mask(task: EditTask, clip: Clip, part: range, allow_any: bool) -> masks.Mask:
    """Return the mask that a task names by a file or a box. Raises UserError as masks.bind does."""
    return masks.open_mask(task.mask, clip, part, shape_of(task), allow_any, task.mask_channel)


def shape_of(task: EditTask) -> masks.MaskShape:
    return masks.MaskShape(task.invert_mask, task.outline, task.grow or 0, task.feather or 0)


class Metered:
    """A velocity field that counts its evaluations."""

    def __init__(self, inner: VelocityField):
        self.inner, self.evaluations = inner, 0
        self.halves: list[Any] = []  # of conditions, that steered a call
        self.door, self.features, self.network = inner.door, inner.features, inner.network
        self.levels, self.whole = inner.levels, inner.whole

    def velocity(self, z, sigma, condition, *, branch, frames=None) -> Tensor:
        result = self.inner.velocity(z, sigma, condition, branch=branch, frames=frames)
        self.evaluations += 1
        half = condition.half(branch) if isinstance(condition, Condition) else None
        if half is not None and not self.is_steered_by(half):
            self.halves.append(half)
        return result

    def is_steered_by(self, half: Any) -> bool:
        """Whether a half of a condition steered a call: the object itself, which is kept, for an id may be used again
        once it is gone."""
        return any(known is half for known in self.halves)


class Watched:
    """A velocity field that keeps how the wanted clip looks from its last calls: `clean`, 1 c f h w.

    Of a method that goes through a long clip part by part, the calls see one part: `part`, which its steps place.
    """

    def __init__(self, inner: VelocityField, source: Tensor):
        self.inner, self.clean, self.part = inner, source, source
        self.door, self.features, self.network = inner.door, inner.features, inner.network
        self.levels, self.whole = inner.levels, inner.whole

    def velocity(self, z, sigma, condition, *, branch, frames=None) -> Tensor:
        velocity = self.inner.velocity(z, sigma, condition, branch=branch, frames=frames)
        if branch == "tgt+":
            clean = self.part = (z[:1] - sigma * velocity[:1]).detach().to(self.clean)
            if clean.shape == self.clean.shape:
                self.clean = clean
            elif frames is not None:
                self.clean = self.clean.index_copy(
                    2, torch.as_tensor(frames, device=clean.device), clean
                )
        return velocity

    def after(self, step: Step) -> Tensor:
        """Return how the whole clip looks after a step: where it is of a part, that part amid what is done."""
        if step.span is None:
            return self.clean
        begin, end = step.span
        if step.stage != "edit":
            return step.z
        return torch.cat(
            (step.z[:, :, :begin], self.part[:, :, begin - end :], step.z[:, :, end:]), 2
        )


@torch.no_grad()
def walk(job: Job, backbone: Backbone) -> Iterator[Event]:
    """Walk a job to its end, which is a Done. Raises what the method or the backbone raises, and UserError where the
    backbone is at work on another edit.
    """
    with reserve(backbone), contextlib.ExitStack() as borrowed:
        yield from _walked(job, backbone, borrowed)


def _walked(job: Job, backbone: Backbone, borrowed: contextlib.ExitStack) -> Iterator[Event]:
    metered = Metered(backbone)
    in_clips = getattr(job.plan.method, "LONG", "windows") == "clips"
    over = metered if in_clips else windows.apply_windows(metered, job.plan.spans)
    given = yield from _given(job, backbone)
    is_usual = not calibration.unknown_words(backbone, job.plan.task.prompts)
    if job.checked and backbone.calibration.vae_psnr is not None:
        is_usual &= calibration.check_footage(backbone, job.frames(), given.source)
        yield Progress("compare with training", 1, 1)
    guide = job.guide or borrowed.enter_context(guiding(job.plan.guide, backbone))
    if guide:
        given = replace(given, guide=_guide(job.plan, guide))
        yield Progress("guide", 1, 1)
    if job.locate and job.plan.task.mask == "auto":
        cells = maps.automatic(over, given) if job.cells is None else job.cells
        yield Found(cells)
        given = _masked(given, job.locate(cells), backbone)
    elif job.mask:
        given = _masked(given, job.mask, backbone)
    if job.start:
        fits(job.start, given.source)
    step, seen = None, Watched(over, given.source)
    for step in job.plan.method.edit(seen, given, job.plan.cfg, on_device(job.start, given.source)):
        finite(step.z, f"the latent after step {step.index} of {step.count}")
        yield replace(step, clean=seen.after(step))
    task, made = job.plan.task, metered.evaluations
    if task.negative.strip() and made and not negated(job, given, metered, backbone):
        note(f"the negative prompt has no effect: {task.method} made no call that it steers")
    beside = given.guide.field.evaluations if given.guide else 0
    z, walked = step.z if step else _where_it_was(job, given), bool(step or job.start)
    done = Done(z, metered.evaluations, beside, walked=walked, is_usual=is_usual)
    if job.judged and walked and agreement.can_judge(backbone):
        done = replace(
            done, agreement=judge(job, given, backbone, z), judging=agreement.EVALUATIONS
        )
        yield Progress("judge", 1, 1)
    yield done


def judge(job: Job, given: EditInputs, backbone: Backbone, z: Tensor) -> float | None:
    """Return the model's score of a result; None, with a note, where it reads both prompts alike."""
    first, last = job.plan.spans.spans[0]
    task = job.plan.task
    score = agreement.score(backbone, z, given.src, given.tgt, last - first, task.seed)
    if score is None:
        note(f"{backbone.name} reads both prompts alike, so it cannot follow the difference")
    return score


def negated(job: Job, given: EditInputs, metered: Metered, backbone: Backbone) -> bool:
    """Whether the negative prompt steered any call, of the backbone or of a model beside it."""
    asked = [(given, metered)] if "text" in backbone.carries else []  # else the negative is no text
    if given.guide:
        asked.append((given.guide, given.guide.field))
    steered = [
        field.is_steered_by(condition.negative)
        for who, field in asked
        for condition in (who.src, who.tgt)
    ]
    return any(steered) or (job.first is None and job.plan.painter.name is not None)


def _given(job: Job, backbone: Backbone) -> Iterator[Event]:
    """What the edit is about, without its mask."""
    task, change = job.plan.task, job.plan.change
    shown = next(iter(job.frames())) if "image" in backbone.carries else None
    wanted = shown if job.first is None else job.first
    if job.first is None and job.plan.painter.name and not task.same:
        made = painted(job, backbone)
        wanted = made.frame
        yield made
    src = backbone.condition(Prompt(task.source_prompt, task.negative, change.source, shown))
    tgt = backbone.condition(Prompt(task.target_prompt, task.negative, change.target, wanted))
    yield Progress("condition", 1, 1)
    source = backbone.encode(job.frames()) if job.source is None else job.source
    finite(source, "the encoded clip")
    count = job.plan.fit.model_frames
    yield Progress("encode", count, count)
    ways = (backbone.encode, backbone.decode, backbone.condition)
    pixels = Pixels(job.frames, *ways, backbone.grid.stride)
    adapters = _on_device(job.adapters, source)
    about = {"seed": task.seed, "pixels": pixels, "adapters": adapters}
    about |= {"shown": wanted, "keys": job.keys}
    return EditInputs(source, src, tgt, **about, spans=job.plan.spans.spans)


def painted(known: Job, backbone: Backbone) -> "Painted":
    """The clip's first frame edited by the plan's image model from one prompt to the other, by the method that a task
    has where none is named. The model goes again: the clip's own needs the room.
    """
    task, model = known.plan.task, loaded(known.plan.painter, backbone)
    told = {"method": EditTask.method, "settings": {}, "strength": None, "keyframes": ()}
    still = replace(task, **told, guide=None, frames=None, window=None)
    frame = torch.stack(list(islice(known.frames(), 1)))
    mask = list(islice(known.mask(), 1)) if known.mask else None
    to_do = job(still, model, frame, mask)
    for event in walk(to_do, model):  # noqa: B007
        pass
    (made,) = to_do.plan.fit.back(model.decode(event.z))
    return Painted(made, event.evaluations)


def _guide(plan: Plan, backbone: Backbone) -> ImageModel:
    """A second model with its own conditions, metered."""
    task = plan.task
    src, tgt = (backbone.condition(Prompt(t, task.negative)) for t in (task.source_prompt, task.target_prompt))
    return ImageModel(Metered(backbone), src, tgt)


def _masked(given: EditInputs, frames: MaskFrames, backbone: Backbone) -> EditInputs:
    inside = masks.to_latent(frames(), backbone.grid, given.source.shape[2:])
    return replace(given, mask=inside.to(given.source))


def fits(start: Step, source: Tensor) -> None:
    """Raises ValueError where saved latents are not of this clip, or of no use."""
    if start.z.shape != source.shape:
        raise UserError(
            f"the saved latents are {tuple(start.z.shape)}, the clip's are {tuple(source.shape)}: "
            "run without --resume"
        )
    for name, value in ({"z": start.z} | start.state).items():
        finite(value, f"the saved latents' {name}", "delete them, or run without --resume")


def finite(
    z: Tensor,
    what: str,
    cure: str = "lower the guidance, try --dtype float32, or check the weights",
) -> None:
    """Raises ValueError for numbers that no clip can be made of: they would be saved, and written as black."""
    largest = z.abs().max().item() if z.numel() else 0.0
    if not math.isfinite(largest):
        raise UserError(f"{what} holds numbers that are not finite: {cure}")
    if largest > LARGEST:
        raise UserError(f"{what} holds numbers as large as {largest:.0e}: {cure}")


def _where_it_was(job: Job, given: EditInputs) -> Tensor:
    """Where a method has nothing (more) to do."""
    start = on_device(job.start, given.source)
    return given.source if start is None else start.z


def on_device(step: Step | None, like: Tensor) -> Step | None:
    if step is None:
        return None
    return replace(step, z=step.z.to(like.device), state=_on_device(step.state, like))


def _on_device(named: dict[str, Tensor] | None, like: Tensor) -> dict[str, Tensor] | None:
    return named and {name: value.to(like.device) for name, value in named.items()}


def finished(job: Job, backbone: Backbone) -> Tensor:
    """The edited latent, 1 c f h w."""
    for event in walk(job, backbone):  # noqa: B007
        pass
    return event.z


@torch.no_grad()
def edited(job: Job, backbone: Backbone) -> Tensor:
    """The edited frames at the clip's own size, f 3 H W in [0, 1], before any mask's composite."""
    z = finished(job, backbone)
    return torch.stack(list(job.plan.fit.back(backbone.decode(z))))
