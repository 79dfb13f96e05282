"""Apply `--memory` to a task: measure what is free, choose a plan, and refuse what cannot fit."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import OutOfMemoryError
from ..base.memory import MemoryLimit, format_size, is_out_of_memory, parse_limit
from ..base.notices import warn_user
from ..media.clip_format import ClipFormat
from ..media.fitting import Fit
from ..models import registry
from ..models.checkpoint import Checkpoint
from ..models.family import DiffusersFamily
from ..models.footprint import ClipShape, measure_parts
from ..sampling.windows import Windows
from . import memory
from .memory import Machine, MemoryPlan, Workload
from .task import EditTask

if TYPE_CHECKING:
    from ..models.base import Backbone

CGROUP = Path("/sys/fs/cgroup")
UNKNOWN = MemoryPlan(reason="nothing is known of this model's memory before it is loaded")


def plan_memory(
    task: EditTask,
    info: "Backbone | registry.BackboneInfo",
    fit: Fit,
    windows: Windows,
    can_shorten: bool,
) -> MemoryPlan:
    """Plan the memory of an edit.

    info: the backbone; for a loaded one the plan says how it was loaded. can_shorten: whether the limit may make
    windows shorter. Raise UserError for a limit below the smallest plan.
    """
    limit = parse_limit(task.memory)
    shape = clip_shape(fit, windows)
    lengths = shorter_windows(info.clip_format, shape.frames) if can_shorten else ()
    if not isinstance(info, registry.BackboneInfo):
        return _describe_loaded(task, info, shape)
    checkpoint = _locate(info.name, task.weights)
    work = None
    if checkpoint is not None:
        work = describe_work(info.name, checkpoint, shape, _item(task), lengths)
    if work is None:
        if limit != MemoryLimit():
            warn_user(f"--memory has no effect: {UNKNOWN.reason}")
        return UNKNOWN
    return choose_for(work, find_machine(task.device, task.dtype), limit, info.name)


def clip_shape(fit: Fit, windows: Windows) -> ClipShape:
    """Return what one window of a clip holds."""
    frames = max((end - begin for begin, end in windows.ranges), default=1)
    return ClipShape(frames, *fit.model_size)


def choose_for(
    work: Workload,
    machine: Machine,
    limit: MemoryLimit,
    name: str,
    smaller_clip: str = memory.SMALLER_CLIP,
) -> MemoryPlan:
    """Choose a plan for a limit, or for what is free. smaller_clip: how the user makes the clip smaller.

    Raise UserError where even the smallest plan exceeds the given limit; without one, a notice says so.
    """
    if limit.bytes is not None:
        plan = memory.choose(work, machine, limit.bytes, limit.storage)
        memory.require_fit(plan, name, smaller_clip)
        return dataclasses.replace(plan, reason=f"--memory allows {format_size(limit.bytes)}")
    free = free_memory(machine.is_gpu)
    share = round(memory.AUTO_SHARE * free)
    plan = memory.choose(dataclasses.replace(work, windows=()), machine, share, limit.storage)
    if plan.peak is not None and plan.peak > share:
        warn_user(
            f"this edit may run out of memory: it is expected to take {format_size(plan.peak)}, "
            f"and {format_size(free)} are free"
        )
    return dataclasses.replace(plan, reason=f"{format_size(free)} are free")


def describe_work(
    name: str, checkpoint: Checkpoint, shape: ClipShape, item: int, windows: tuple[int, ...] = ()
) -> Workload | None:
    """Return what an edit with a model holds; None for a family without figures."""
    _, family = registry.choose_backbone(name)
    formula = family.activations if isinstance(family, DiffusersFamily) else None
    if formula is None or not isinstance(family, DiffusersFamily):
        return None
    parts = family.specs[name].parts or family.parts
    return Workload(
        sizes=measure_parts(checkpoint, parts, family.streamed),
        activations=lambda clip, placements: formula(checkpoint, clip, item, placements),
        shape=shape,
        streamable=frozenset(family.streamed),
        saving=family.decode_saving,
        windows=windows,
    )


def _describe_loaded(task: EditTask, backbone: "Backbone", shape: ClipShape) -> MemoryPlan:
    """Return the plan of a backbone that is loaded already, as far as its files are known."""
    folder = (backbone.weights or {}).get("folder")
    checkpoint = _locate(backbone.name, folder) if folder else None
    loaded = dataclasses.replace(
        UNKNOWN, placements=backbone.placements, reason="the model is loaded already"
    )
    if checkpoint is None:
        return loaded
    item = backbone.dtype.itemsize
    work = describe_work(backbone.name, checkpoint, shape, item)
    if work is None:
        return loaded
    machine = Machine(backbone.device.type == "cuda", item, 0)
    plan = memory.evaluate(work, machine, backbone.placements, shape)
    return dataclasses.replace(plan, reason=loaded.reason)


def _locate(name: str, weights: str | None) -> Checkpoint | None:
    known, family = registry.choose_backbone(name)
    return family.locate(known, weights)


def _item(task: EditTask) -> int:
    """Return the bytes of a number of the denoiser."""
    from ..models.devices import pick_device, pick_dtype

    return pick_dtype(task.dtype, pick_device(task.device)).itemsize


def find_machine(device: str, dtype: str) -> Machine:
    """Return what an edit on a device runs on. Raise UserError for a device that is not there."""
    import psutil

    from ..models.devices import pick_device, pick_dtype

    target = pick_device(device)
    ram = psutil.virtual_memory().available
    return Machine(target.type == "cuda", pick_dtype(dtype, target).itemsize, ram)


def free_memory(is_gpu: bool) -> int:
    """Return the bytes that this process may take in all: of the GPU, or of RAM with what it holds already."""
    import psutil

    if is_gpu:
        import torch

        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved()
    own = psutil.Process().memory_info().rss
    return min(psutil.virtual_memory().available, _cgroup_free()) + own


def _cgroup_free() -> int:
    """Return the bytes that a container may still take; a huge number outside one."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        return max(0, limit - int((CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return 2**62


def shorter_windows(clip_format: ClipFormat, frames: int) -> tuple[int, ...]:
    """Return shorter windows than one of so many latent frames, the longest first."""
    step = max(1, clip_format.frame_step // clip_format.stride[0])
    return tuple(range(frames - step, 3, -step))


def window_frames(clip_format: ClipFormat, latent_frames: int) -> int:
    """Return the frames of a window of latent frames, as `--window` takes them."""
    return clip_format.round_up_frames((latent_frames - 1) * clip_format.stride[0] + 1)


@contextlib.contextmanager
def propose_smaller_plan(task: EditTask, plan: MemoryPlan) -> Iterator[None]:
    """Turn an error of memory that ran out into one that proposes the next smaller plan."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error) or isinstance(error, OutOfMemoryError):
            raise
        raise OutOfMemoryError(_remedy(task, plan)) from error


def _remedy(task: EditTask, plan: MemoryPlan) -> str:
    """Say which smaller plan there is, or what else takes less memory."""
    checkpoint, work = _locate(task.backbone, task.weights), None
    if checkpoint is not None and plan.shape is not None:
        work = describe_work(task.backbone, checkpoint, plan.shape, _item(task))
    if work is not None:
        machine = find_machine(task.device, task.dtype)
        smaller = memory.smaller_limit(work, machine, plan)
        if smaller is not None:
            return f"use --memory {format_size(smaller)}, the next smaller plan"
    return "use fewer --frames, a smaller model, or --dtype bfloat16"
