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
from ..models.base import Backbone, Conditioning, Prompt, reserve
from ..sampling import windows
from ..sampling.field import EditInputs, ImageModel, Pixels, Step, VelocityField
from . import agreement
from .helper_models import borrow_image_model, load_helper
from .planning import Plan, make_plan
from .task import EditTask

MAX_ABS = 1e6  # of a latent, whose numbers are about 1: far from what a VAE can decode, or a float can square
AUTO_FEATHER = 0.5  # of a latent cell: how far an edit fades out around an automatic mask
MaskFrames = Callable[[], Iterable[np.ndarray]]  # boolean H W, one a frame, anew at each call


@dataclass(frozen=True)
class Progress:
    """So much of a stage is done."""

    stage: str
    done: int
    count: int


@dataclass(frozen=True)
class NoticeIssued:
    """What a user should know of this run."""

    text: str


@dataclass(frozen=True)
class AutoMaskFound:
    """The automatic mask, f h w boolean on latents."""

    cells: Tensor
    stage: str = "mask"


@dataclass(frozen=True)
class EditFinished:
    """The end of a walk: the edited latent, and how often the network was evaluated."""

    z: Tensor
    evaluations: int
    image_model_evaluations: int = 0  # those of the second model
    stage: str = "edit"
    is_edited: bool = True  # whether there was anything to walk; else the latent is the clip's own
    agreement: float | None = None  # agreement.score, where the job asks for it
    judge_evaluations: int = 0  # evaluations that it took
    is_in_domain: bool = (
        True  # whether prompts and clip are such as the model's judgement was measured on
    )


@dataclass(frozen=True)
class FirstFramePainted:
    """The wanted first frame as an image model made it from the prompts, 3 H W at the size that the model takes."""

    frame: Tensor
    evaluations: int
    stage: str = "first frame"


Event = FirstFramePainted | Progress | NoticeIssued | AutoMaskFound | Step | EditFinished


@dataclass(frozen=True)
class LoopJob:
    """What to walk."""

    plan: Plan
    # as the model takes them, 3 H W in [0, 1], anew at each call
    frames: Callable[[], Iterable[Tensor]]
    mask: MaskFrames | None = None
    # makes a mask of the cells that attention finds
    make_auto_mask: Callable[[Tensor], MaskFrames] | None = None
    cells: Tensor | None = None  # those that an earlier run found
    first_frame: Tensor | None = None  # the wanted first frame, as the model takes it, 3 H W
    keyframes: Mapping[int, Tensor] = field(default_factory=dict)  # wanted frames besides, by place
    resume: Step | None = None  # where an earlier run stopped
    adapters: dict[str, Tensor] | None = None  # what an earlier run fitted to this clip
    image_model: Backbone | None = None  # the plan's second model, where it is loaded already
    source_latent: Tensor | None = None  # the clean latent of the frames, where they were encoded already
    checks_footage: bool = False  # look whether the clip is of the kind that the model was trained on
    judges_result: bool = False  # ask the model at the end whether it sees the target in the result


def plan_job(
    task: EditTask,
    backbone: Backbone,
    frames: Tensor,
    mask: Sequence[np.ndarray] | None = None,
    first_frame: Tensor | None = None,
    keyframes: Mapping[int, Tensor] | None = None,
) -> LoopJob:
    """An edit of frames f 3 H W that are in memory; the task's files are not read. mask: boolean H W, one a frame;
    first: the wanted first frame, 3 H W; keys: wanted frames at other places.
    """
    keyframes = keyframes or {}
    chosen = make_plan(task, backbone, len(frames), tuple(frames.shape[-2:]), keyframes)
    return LoopJob(
        chosen,
        frames=lambda: chosen.fit.to_model(frames),
        mask=None if mask is None else lambda: mask,
        make_auto_mask=lambda cells: mask_from_cells(chosen, backbone.clip_format, cells).frames,
        first_frame=None if first_frame is None else next(chosen.fit.to_model([first_frame])),
        keyframes={at: next(chosen.fit.to_model([frame])) for at, frame in keyframes.items()},
    )


def mask_from_cells(chosen: Plan, grid, cells: Tensor) -> masks.Mask:
    """A mask of cells that attention found, shaped as the task has it. Its edges are those of cells: unless the task
    says otherwise, the edit fades out over some pixels.
    """
    task = chosen.task
    shape = mask_shape(task)
    if task.feather is None:
        shape = replace(shape, feather=round(AUTO_FEATHER * masks.cell_size(grid, chosen.fit)))
    return masks.from_cells(cells, grid, chosen.fit, shape, task.allow_any_mask)


def open_task_mask(task: EditTask, clip: Clip, part: range, allow_any: bool) -> masks.Mask:
    """Return the mask that a task names by a file or a box. Raises UserError as masks.bind does."""
    return masks.open_mask(task.mask, clip, part, mask_shape(task), allow_any, task.mask_channel)


def mask_shape(task: EditTask) -> masks.MaskShape:
    return masks.MaskShape(task.invert_mask, task.outline, task.grow or 0, task.feather or 0)


class Metered:
    """A velocity field that counts its evaluations."""

    def __init__(self, inner: VelocityField):
        self.inner, self.evaluations = inner, 0
        self.halves: list[Any] = []  # of conditions, that steered a call
        self.attention_hooks, self.feature_hooks, self.network = inner.attention_hooks, inner.feature_hooks, inner.network
        self.sigmas, self.snap_timestep = inner.sigmas, inner.snap_timestep

    def velocity(self, z, sigma, condition, *, branch, frames=None) -> Tensor:
        result = self.inner.velocity(z, sigma, condition, branch=branch, frames=frames)
        self.evaluations += 1
        half = condition.for_branch(branch) if isinstance(condition, Conditioning) else None
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
        self.attention_hooks, self.feature_hooks, self.network = inner.attention_hooks, inner.feature_hooks, inner.network
        self.sigmas, self.snap_timestep = inner.sigmas, inner.snap_timestep

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
def run_loop(job: LoopJob, backbone: Backbone) -> Iterator[Event]:
    """Walk a job to its end, which is a Done. Raises what the method or the backbone raises, and UserError where the
    backbone is at work on another edit.
    """
    with reserve(backbone), contextlib.ExitStack() as borrowed:
        yield from _run_method(job, backbone, borrowed)


def _run_method(job: LoopJob, backbone: Backbone, borrowed: contextlib.ExitStack) -> Iterator[Event]:
    metered = Metered(backbone)
    in_clips = getattr(job.plan.method, "LONG", "windows") == "clips"
    over = metered if in_clips else windows.apply_windows(metered, job.plan.windows)
    given = yield from _make_inputs(job, backbone)
    is_usual = not calibration.unknown_words(backbone, job.plan.task.prompts)
    if job.checks_footage and backbone.calibration.vae_psnr is not None:
        is_usual &= calibration.check_footage(backbone, job.frames(), given.source)
        yield Progress("compare with training", 1, 1)
    guide = job.image_model or borrowed.enter_context(borrow_image_model(job.plan.image_model, backbone))
    if guide:
        given = replace(given, guide=_wrap_image_model(job.plan, guide))
        yield Progress("guide", 1, 1)
    if job.make_auto_mask and job.plan.task.mask == "auto":
        cells = maps.find_auto_mask(over, given.source, given.src, given.tgt, given.seed) if job.cells is None else job.cells
        yield AutoMaskFound(cells)
        given = _with_mask(given, job.make_auto_mask(cells), backbone)
    elif job.mask:
        given = _with_mask(given, job.mask, backbone)
    if job.resume:
        check_progress_fits(job.resume, given.source)
    step, seen = None, Watched(over, given.source)
    for step in job.plan.method.edit(seen, given, job.plan.config, move_step(job.resume, given.source)):
        check_finite(step.z, f"the latent after step {step.index} of {step.count}")
        yield replace(step, clean=seen.after(step))
    task, made = job.plan.task, metered.evaluations
    if task.negative.strip() and made and not was_negative_used(job, given, metered, backbone):
        note(f"the negative prompt has no effect: {task.method} made no call that it steers")
    beside = given.guide.field.evaluations if given.guide else 0
    z, walked = step.z if step else _latest_latent(job, given), bool(step or job.resume)
    done = EditFinished(z, metered.evaluations, beside, is_edited=walked, is_in_domain=is_usual)
    if job.judges_result and walked and agreement.can_judge(backbone):
        done = replace(
            done, agreement=score_result(job, given, backbone, z), judge_evaluations=agreement.EVALUATIONS
        )
        yield Progress("judge", 1, 1)
    yield done


def score_result(job: LoopJob, given: EditInputs, backbone: Backbone, z: Tensor) -> float | None:
    """Return the model's score of a result; None, with a note, where it reads both prompts alike."""
    first, last = job.plan.windows.spans[0]
    task = job.plan.task
    score = agreement.score(backbone, z, given.src, given.tgt, last - first, task.seed)
    if score is None:
        note(f"{backbone.name} reads both prompts alike, so it cannot follow the difference")
    return score


def was_negative_used(job: LoopJob, given: EditInputs, metered: Metered, backbone: Backbone) -> bool:
    """Whether the negative prompt steered any call, of the backbone or of a model beside it."""
    asked = [(given, metered)] if "text" in backbone.capabilities else []  # else the negative is no text
    if given.guide:
        asked.append((given.guide, given.guide.field))
    steered = [
        field.is_steered_by(condition.negative)
        for who, field in asked
        for condition in (who.src, who.tgt)
    ]
    return any(steered) or (job.first_frame is None and job.plan.first_frame_model.name is not None)


def _make_inputs(job: LoopJob, backbone: Backbone) -> Iterator[Event]:
    """What the edit is about, without its mask."""
    task, change = job.plan.task, job.plan.change
    shown = next(iter(job.frames())) if "image" in backbone.capabilities else None
    wanted = shown if job.first_frame is None else job.first_frame
    if job.first_frame is None and job.plan.first_frame_model.name and not task.changes_nothing:
        made = paint_first_frame(job, backbone)
        wanted = made.frame
        yield made
    src = backbone.condition(Prompt(task.source_prompt, task.negative, change.source, shown))
    tgt = backbone.condition(Prompt(task.target_prompt, task.negative, change.target, wanted))
    yield Progress("condition", 1, 1)
    source = backbone.encode(job.frames()) if job.source_latent is None else job.source_latent
    check_finite(source, "the encoded clip")
    count = job.plan.fit.model_frames
    yield Progress("encode", count, count)
    ways = (backbone.encode, backbone.decode, backbone.condition)
    pixels = Pixels(job.frames, *ways, backbone.clip_format.stride)
    adapters = _move_tensors(job.adapters, source)
    about = {"seed": task.seed, "pixels": pixels, "adapters": adapters}
    about |= {"shown": wanted, "keys": job.keyframes}
    return EditInputs(source, src, tgt, **about, spans=job.plan.windows.spans)


def paint_first_frame(known: LoopJob, backbone: Backbone) -> "FirstFramePainted":
    """The clip's first frame edited by the plan's image model from one prompt to the other, by the method that a task
    has where none is named. The model goes again: the clip's own needs the room.
    """
    task, model = known.plan.task, load_helper(known.plan.first_frame_model, backbone)
    told = {"method": EditTask.method, "settings": {}, "strength": None, "keyframes": ()}
    still = replace(task, **told, guide=None, frames=None, window=None)
    frame = torch.stack(list(islice(known.frames(), 1)))
    mask = list(islice(known.mask(), 1)) if known.mask else None
    to_do = plan_job(still, model, frame, mask)
    for event in run_loop(to_do, model):  # noqa: B007
        pass
    (made,) = to_do.plan.fit.to_clip(model.decode(event.z))
    return FirstFramePainted(made, event.evaluations)


def _wrap_image_model(plan: Plan, backbone: Backbone) -> ImageModel:
    """A second model with its own conditions, metered."""
    task = plan.task
    src, tgt = (backbone.condition(Prompt(t, task.negative)) for t in (task.source_prompt, task.target_prompt))
    return ImageModel(Metered(backbone), src, tgt)


def _with_mask(given: EditInputs, frames: MaskFrames, backbone: Backbone) -> EditInputs:
    inside = masks.to_latent(frames(), backbone.clip_format, given.source.shape[2:])
    return replace(given, mask=inside.to(given.source))


def check_progress_fits(start: Step, source: Tensor) -> None:
    """Raises ValueError where saved latents are not of this clip, or of no use."""
    if start.z.shape != source.shape:
        raise UserError(
            f"the saved latents are {tuple(start.z.shape)}, the clip's are {tuple(source.shape)}: "
            "run without --resume"
        )
    for name, value in ({"z": start.z} | start.state).items():
        check_finite(value, f"the saved latents' {name}", "delete them, or run without --resume")


def check_finite(
    z: Tensor,
    what: str,
    cure: str = "lower the guidance, try --dtype float32, or check the weights",
) -> None:
    """Raises ValueError for numbers that no clip can be made of: they would be saved, and written as black."""
    largest = z.abs().max().item() if z.numel() else 0.0
    if not math.isfinite(largest):
        raise UserError(f"{what} holds numbers that are not finite: {cure}")
    if largest > MAX_ABS:
        raise UserError(f"{what} holds numbers as large as {largest:.0e}: {cure}")


def _latest_latent(job: LoopJob, given: EditInputs) -> Tensor:
    """Where a method has nothing (more) to do."""
    start = move_step(job.resume, given.source)
    return given.source if start is None else start.z


def move_step(step: Step | None, like: Tensor) -> Step | None:
    if step is None:
        return None
    return replace(step, z=step.z.to(like.device), state=_move_tensors(step.state, like))


def _move_tensors(named: dict[str, Tensor] | None, like: Tensor) -> dict[str, Tensor] | None:
    return named and {name: value.to(like.device) for name, value in named.items()}


def edit_latent(job: LoopJob, backbone: Backbone) -> Tensor:
    """The edited latent, 1 c f h w."""
    for event in run_loop(job, backbone):  # noqa: B007
        pass
    return event.z


@torch.no_grad()
def edit_frames(job: LoopJob, backbone: Backbone) -> Tensor:
    """The edited frames at the clip's own size, f 3 H W in [0, 1], before any mask's composite."""
    z = edit_latent(job, backbone)
    return torch.stack(list(job.plan.fit.to_clip(backbone.decode(z))))
