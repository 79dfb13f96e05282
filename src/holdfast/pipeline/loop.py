"""The sampling loop of one edit: condition, encode, run the method, score the result.

It loads no model and reads no file: all that it works on is in its LoopJob. It is a generator of events; closing it
cancels the edit.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UserError
from ..base.memory import parse_limit
from ..base.notices import warn_user
from ..media import masks
from ..media.clip_format import ClipFormat
from ..media.reading import Clip
from ..models import calibration
from ..models.attention import maps
from ..models.base import Backbone, Conditioning, Prompt, reserve
from ..models.compiling import compile_blocks
from ..sampling import windows
from ..sampling.field import EditInputs, ImageModel, Pixels, Step, TargetArea, VelocityField
from ..sampling.noise import draw_ahead
from . import agreement, controls
from .events import AutoMaskFound, EditFinished, Event, FirstFramePainted, Progress
from .finite import StepCheck, check_finite
from .metering import EvaluationMeter, LivePreview
from .planning import ModelChoice, Plan, words_at
from .task import EditTask

AUTO_FEATHER = 0.5  # latent cells over which an edit fades out around an automatic mask
MakeFrames = Callable[[], Iterable[Tensor]]  # 3 H W in [0, 1], from the first at each call
MaskFrames = Callable[[], Iterable[np.ndarray]]  # boolean H W a frame, from the first at each call


@dataclass(frozen=True)
class Helpers:
    """How the loop gets the other models of an edit.

    borrow_image_model: a context manager that gives the chosen model, on the backbone's device, or None.
    paint_first_frame: edits the first frame of a job with its plan's first-frame model.
    borrow_controlnet: a context manager that lets the backbone use the ControlNet of a folder, or none.
    """

    borrow_image_model: Callable[[ModelChoice, Backbone], AbstractContextManager[Backbone | None]]
    paint_first_frame: "Callable[[LoopJob, Backbone], FirstFramePainted]"
    borrow_controlnet: Callable[[str | None, Backbone], AbstractContextManager[None]]


@dataclass(frozen=True)
class LoopJob:
    """What the loop works on.

    frames: the source as the model takes it, 3 H W in [0, 1], from the first frame at each call.
    areas: the masks with words of their own, in the order of the plan's `area_words`; `mask` is their union.
    make_auto_mask: makes a mask from the latent cells that attention finds. cells: those that an earlier run found.
    first_frame, keyframes: the edited frames, 3 H W, as the model takes them; keyframes by index.
    resume: the step at which an earlier run stopped. adapters: what an earlier run trained on this clip.
    image_model: the plan's second model, where it is loaded already. control_frames: the control pictures of a file, as
    the model takes them. source_latent: that of the frames, where they are
    encoded already. checks_footage: compare the clip with the model's training data. judges_result: score the result.
    """

    plan: Plan
    frames: MakeFrames
    mask: MaskFrames | None = None
    areas: tuple[MaskFrames, ...] = ()
    make_auto_mask: Callable[[Tensor], MaskFrames] | None = None
    cells: Tensor | None = None
    first_frame: Tensor | None = None
    keyframes: Mapping[int, Tensor] = field(default_factory=dict)
    resume: Step | None = None
    adapters: dict[str, Tensor] | None = None
    image_model: Backbone | None = None
    control_frames: MakeFrames | None = None
    source_latent: Tensor | None = None
    checks_footage: bool = False
    judges_result: bool = False
    helpers: Helpers | None = None

    @property
    def paints_first_frame(self) -> bool:
        """Whether the plan's first-frame model makes the edited first frame."""
        return self.first_frame is None and self.plan.first_frame_model.name is not None


def mask_from_cells(plan: Plan, clip_format: ClipFormat, cells: Tensor) -> masks.Mask:
    """Make a mask from the latent cells that attention found, f h w, in the shape that the task asks for.

    Its edges are as coarse as the cells. Unless the task sets a feather, the edit fades out over part of a cell.
    """
    task = plan.task
    shape = mask_shape(task)
    if task.feather is None:
        feather = round(AUTO_FEATHER * masks.cell_size(clip_format, plan.fit))
        shape = replace(shape, feather=feather)
    return masks.from_cells(cells, clip_format, plan.fit, shape, task.allow_any_mask)


def open_task_masks(
    task: EditTask, clip: Clip, part: range, allow_any: bool
) -> tuple[masks.Mask, ...]:
    """Open the files or boxes that are a task's masks. Raises UserError as masks.open_mask does."""
    options = mask_shape(task), allow_any, task.mask_channel
    return tuple(masks.open_mask(name, clip, part, *options) for name in task.masks)


def open_task_mask(task: EditTask, clip: Clip, part: range, allow_any: bool) -> masks.Mask:
    """Open a task's mask, or the union of its masks. Raises UserError as masks.open_mask does."""
    return masks.join(open_task_masks(task, clip, part, allow_any), task.masks, allow_any)


def mask_shape(task: EditTask) -> masks.MaskShape:
    """Return how a task shapes its mask."""
    return masks.MaskShape(task.invert_mask, task.outline, task.grow or 0, task.feather or 0)


@torch.no_grad()
def run_loop(job: LoopJob, backbone: Backbone) -> Generator[Event, None, None]:
    """Run a job and yield its events, EditFinished last.

    Raises what the method and the backbone raise, and UserError where the backbone is busy with another edit.
    """
    with reserve(backbone), contextlib.ExitStack() as stack:
        if job.plan.task.compile:
            stack.enter_context(compile_blocks(backbone))
        yield from _run_method(job, backbone, stack)


def _run_method(
    job: LoopJob, backbone: Backbone, stack: contextlib.ExitStack
) -> Generator[Event, None, None]:
    plan, meter, image_meter = job.plan, EvaluationMeter(), EvaluationMeter()
    if job.helpers is not None:
        stack.enter_context(job.helpers.borrow_controlnet(plan.control.network, backbone))
    field = meter.wrap(backbone.field)
    # What is kept is known by its prompt alone, not by its control.
    keeps_source = not (plan.method.METHOD.fits_adapters or plan.control.network)
    store = backbone.source_store if keeps_source else None
    if store:
        store.begin_edit(_spare_memory(plan))
        field = store.wrap(field)
    if plan.method.METHOD.long_clips == "windows":
        field = windows.apply_windows(field, plan.windows)
    inputs = yield from _make_inputs(job, backbone)
    stack.enter_context(draw_ahead(inputs.latent.device))
    is_in_domain = yield from _compare_with_training(job, backbone, inputs)
    inputs = yield from _add_image_model(job, backbone, inputs, stack, image_meter)
    inputs = yield from _add_mask(job, backbone, inputs, field)
    start = None
    if job.resume:
        check_progress_fits(job.resume, inputs.latent)
        start = move_step(job.resume, inputs.latent)
    step, preview = None, LivePreview(inputs.latent)
    check = StepCheck(is_late=inputs.latent.device.type != "cpu")
    for step in plan.method.edit(preview.wrap(field), inputs, plan.config, start):
        check.add(step)
        yield replace(step, preview=preview.after(step))
    check.finish()
    _warn_unused_negative(job, inputs, meter, image_meter, backbone)
    last = step or start
    finished = EditFinished(
        inputs.latent if last is None else last.z,
        meter.evaluations,
        image_meter.evaluations,
        dense_equivalents=round(meter.dense_equivalents, 2),
        reused_evaluations=store.reused if store else 0,
        is_edited=last is not None,
        is_in_domain=is_in_domain,
    )
    if job.judges_result and finished.is_edited and agreement.can_judge(backbone):
        finished = score_result(job, inputs, backbone, finished)
        yield Progress("judge", 1, 1)
    yield finished


def _spare_memory(plan: Plan) -> int | None:
    """Return the bytes of the task's memory limit that the edit itself does not take; None where one is unknown."""
    limit, peak = parse_limit(plan.task.memory).bytes, plan.memory.peak
    return None if limit is None or peak is None else max(0, limit - peak)


def _make_inputs(job: LoopJob, backbone: Backbone) -> Generator[Event, None, EditInputs]:
    """Condition and encode: return the method's inputs, without mask and image model."""
    task, change = job.plan.task, job.plan.change
    source_frame = next(iter(job.frames())) if "image" in backbone.capabilities else None
    target_frame = source_frame if job.first_frame is None else job.first_frame
    if job.paints_first_frame and not task.changes_nothing:
        assert job.helpers is not None
        painted = job.helpers.paint_first_frame(job, backbone)
        target_frame = painted.frame
        yield painted
    control = controls.make_control(job.plan.control, job.frames, job.control_frames)

    def condition(prompt: Prompt) -> Conditioning:
        return replace(backbone.condition(prompt), control=control)

    source = condition(Prompt(task.source_prompt, task.negative, change.source, source_frame))
    target = condition(Prompt(task.target_prompt, task.negative, change.target, target_frame))
    yield Progress("condition", 1, 1)
    latent = backbone.encode(job.frames()) if job.source_latent is None else job.source_latent
    check_finite(latent, "the encoded clip")
    count = job.plan.fit.model_frames
    yield Progress("encode", count, count)
    return EditInputs(
        latent,
        source,
        target,
        seed=task.seed,
        pixels=Pixels(
            job.frames,
            backbone.encode,
            backbone.decode,
            condition,
            backbone.clip_format.stride,
        ),
        adapters=_move_tensors(job.adapters, latent),
        first_frame=target_frame,
        keyframes=job.keyframes,
        segments=job.plan.windows.ranges,
    )


def _compare_with_training(
    job: LoopJob, backbone: Backbone, inputs: EditInputs
) -> Generator[Event, None, bool]:
    """Return whether the prompts and the clip are of the kind that the model was trained and calibrated on."""
    is_in_domain = not calibration.unknown_words(backbone, job.plan.task.prompts)
    if job.checks_footage and backbone.calibration.vae_psnr is not None:
        is_in_domain &= calibration.check_footage(backbone, job.frames(), inputs.latent)
        yield Progress("compare with training", 1, 1)
    return is_in_domain


def _add_image_model(
    job: LoopJob,
    backbone: Backbone,
    inputs: EditInputs,
    stack: contextlib.ExitStack,
    meter: EvaluationMeter,
) -> Generator[Event, None, EditInputs]:
    model = job.image_model
    if model is None and job.helpers is not None:
        borrowed = job.helpers.borrow_image_model(job.plan.image_model, backbone)
        model = stack.enter_context(borrowed)
    if model is None:
        return inputs
    task = job.plan.task
    source, target = (
        model.condition(Prompt(t, task.negative)) for t in (task.source_prompt, task.target_prompt)
    )
    image_model = ImageModel(meter.wrap(model.field), source, target)
    inputs = replace(inputs, image_model=image_model)
    yield Progress("guide", 1, 1)
    return inputs


def _add_mask(
    job: LoopJob, backbone: Backbone, inputs: EditInputs, field: VelocityField
) -> Generator[Event, None, EditInputs]:
    frames = job.mask
    if job.make_auto_mask and job.plan.task.mask == "auto":
        cells = job.cells
        if cells is None:
            cells = maps.find_auto_mask(
                field, inputs.latent, inputs.source, inputs.target, inputs.seed
            )
        yield AutoMaskFound(cells)
        frames = job.make_auto_mask(cells)
    if frames is None:
        return inputs
    alpha = _to_latent(frames, backbone, inputs)
    words = job.plan.area_words if job.areas else ()
    areas = [
        _make_area(job, backbone, inputs, *area) for area in zip(job.areas, words, strict=True)
    ]
    return replace(inputs, mask=alpha, areas=tuple(areas))


def _to_latent(frames: MaskFrames, backbone: Backbone, inputs: EditInputs) -> Tensor:
    """Return a mask in latent cells, 1 1 f h w, on the latent's device."""
    count, rows, columns = inputs.latent.shape[2:]
    cells = masks.to_latent(frames(), backbone.clip_format, (count, rows, columns))
    return cells.to(inputs.latent)


def _make_area(
    job: LoopJob, backbone: Backbone, inputs: EditInputs, frames: MaskFrames, words: tuple[int, ...]
) -> TargetArea:
    """Return one of several masks with the tokens of its words, given as indices of words in the target prompt."""
    task = job.plan.task
    prompt = Prompt(task.target_prompt, task.negative, words, inputs.first_frame)
    tokens = backbone.condition(prompt).edit_tokens
    text = words_at(task.target_prompt, words)
    return TargetArea(_to_latent(frames, backbone, inputs), tokens, text)


def score_result(
    job: LoopJob, inputs: EditInputs, backbone: Backbone, finished: EditFinished
) -> EditFinished:
    """Add the model's score of the result; with a notice where the model does not distinguish the prompts."""
    begin, end = job.plan.windows.ranges[0]
    task = job.plan.task
    score = agreement.score(
        backbone.field, finished.z, inputs.source, inputs.target, end - begin, task.seed
    )
    if score is None:
        warn_user(
            f"{backbone.name} reads both prompts as the same, so it cannot follow their difference"
        )
    return replace(finished, agreement=score, judge_evaluations=agreement.EVALUATIONS)


def _warn_unused_negative(
    job: LoopJob,
    inputs: EditInputs,
    meter: EvaluationMeter,
    image_meter: EvaluationMeter,
    backbone: Backbone,
) -> None:
    """Warn where the negative prompt conditioned no evaluation, of the backbone or of another model."""
    task = job.plan.task
    if not task.negative.strip() or not meter.evaluations or job.paints_first_frame:
        return
    # Of a model that reads no text, the negative is no prompt.
    owners: list[tuple[EditInputs | ImageModel, EvaluationMeter]] = []
    if "text" in backbone.capabilities:
        owners.append((inputs, meter))
    if inputs.image_model:
        owners.append((inputs.image_model, image_meter))
    used = [
        user.was_used(conditioning.negative)
        for owner, user in owners
        for conditioning in (owner.source, owner.target)
    ]
    if not any(used):
        warn_user(
            f"the negative prompt has no effect: {task.method} made no evaluation that it conditions"
        )


def check_progress_fits(step: Step, source: Tensor) -> None:
    """Raise UserError where a saved step does not belong to this clip, or holds values that cannot be used."""
    if step.z.shape != source.shape:
        raise UserError(
            f"the saved latents are {tuple(step.z.shape)}, the clip's are {tuple(source.shape)}",
            "run without --resume",
        )
    for name, value in ({"z": step.z} | step.state).items():
        check_finite(value, f"the saved latents' {name}", "delete them, or run without --resume")


def move_step(step: Step, like: Tensor) -> Step:
    """Return a step with its tensors on the device of another tensor."""
    state = {name: value.to(like.device) for name, value in step.state.items()}
    return replace(step, z=step.z.to(like.device), state=state)


def _move_tensors(tensors: dict[str, Tensor] | None, like: Tensor) -> dict[str, Tensor] | None:
    return tensors and {name: value.to(like.device) for name, value in tensors.items()}
