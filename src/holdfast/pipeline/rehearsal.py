"""Rehearse an edit with random weights: a user learns what a model takes before a download of 29 or 80 GB.

The weights have the published names and shapes, and lie in files as published ones do. Loading, encoding, denoising and
decoding run through the code of an edit.
"""

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..base.errors import UserError
from ..base.exit_codes import format_duration
from ..base.memory import PeakMemory, format_size, parse_limit
from ..media.clip_format import ClipFormat
from ..models import random_weights, registry
from ..models.base import Backbone, Prompt
from ..models.checkpoint import Checkpoint
from ..models.footprint import ClipShape, PartSize, count_part
from ..models.random_weights import RandomModel
from ..sampling.field import Branch, Evaluation
from . import memory_limits
from .memory import Machine, MemoryPlan, Workload, evaluate

SMALL = (9, 128, 128)  # frames, height and width that a CPU runs in place of a larger clip
CPU_PIXELS = 25 * 256 * 256  # of a clip that a CPU runs as it is
STAGES = ("condition", "encode", "denoise", "decode")
DISK_SHARE = 1.02  # of the files' size: a file system needs some itself
BRANCHES: tuple[Branch, ...] = ("src+", "tgt+", "tgt-")


@dataclass(frozen=True)
class Rehearsal:
    """What to rehearse.

    size: width and height. dtype: of the files. folder: where they are for a while. branches: evaluated in each
    step. stages: those that run; the first one always does.
    """

    backbone: str
    size: tuple[int, int]
    frames: int
    memory: str = "auto"
    steps: int = 2
    device: str = "auto"
    dtype: str = "bfloat16"
    folder: str | None = None
    branches: tuple[Branch, ...] = BRANCHES
    stages: tuple[str, ...] = STAGES


def rehearse(order: Rehearsal, report: Callable[[str], None]) -> dict[str, Any]:
    """Plan, write random weights, run and measure. Return the report. report: called with a line for each stage.

    Raise UserError for an unknown backbone, a limit below the smallest plan, and a disk that is too small.
    """
    model = random_weights.describe_model(order.backbone)
    with _scratch_folder(order) as folder:
        random_weights.write_configs(model, folder)
        checkpoint = Checkpoint(folder)
        clip_format = model.family.clip_format(model.name, checkpoint)
        machine = memory_limits.find_machine(order.device, "auto")
        work = describe_work(model, checkpoint, machine, order)
        limit = parse_limit(order.memory)
        plan = memory_limits.choose_for(
            work, machine, limit, model.name, "a smaller --size or fewer --frames"
        )
        if plan.window:
            work = dataclasses.replace(
                work, shape=dataclasses.replace(work.shape, frames=plan.window)
            )
        report(plan.summarize())
        check_disk(model, folder, order.dtype)
        report(
            f"writing {format_size(model.count_bytes(order.dtype))} of random weights to {folder}"
        )
        random_weights.write_model(model, folder, order.dtype)
        shape = _run_shape(order, clip_format, machine)
        expected = evaluate(work, machine, plan.placements, shape)
        measured = _run(order, model, folder, plan, shape, report)
    return _make_report(order, model, plan, expected, measured, (work.shape, shape))


@contextlib.contextmanager
def _scratch_folder(order: Rehearsal) -> Iterator[Path]:
    """Yield a folder that is removed afterwards, also after Ctrl-C. Raise UserError if its parent is missing."""
    if order.folder is not None and not Path(order.folder).is_dir():
        raise UserError(
            f"the folder {order.folder} for the random weights does not exist",
            "create it, or give another --folder",
        )
    with tempfile.TemporaryDirectory(prefix="holdfast-rehearsal-", dir=order.folder) as folder:
        yield Path(folder)


def check_disk(model: RandomModel, folder: Path, dtype: str) -> None:
    """Raise UserError where a disk has too little room for a model's files."""
    needed = round(DISK_SHARE * model.count_bytes(dtype))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"the weights of {model.name} need {format_size(needed)} for the rehearsal, and "
            f"{format_size(free)} are free in {folder.parent}",
            "free some space, or give --folder on another disk",
        )


def _shape(order: Rehearsal, clip_format: ClipFormat) -> ClipShape:
    """Return the shape of one window of the clip. Raise UserError for a size that the model does not take."""
    width, height = order.size
    frames = clip_format.round_up_frames(order.frames)
    clip_format.check_clip(frames, height, width)
    longest = clip_format.count_latent_frames(clip_format.train_frames)
    return ClipShape(min(clip_format.count_latent_frames(frames), longest), height, width)


def _run_shape(order: Rehearsal, clip_format: ClipFormat, machine: Machine) -> ClipShape:
    """Return what is run: the clip itself on a GPU or where it is small, else SMALL."""
    width, height = order.size
    if machine.is_gpu or order.frames * width * height <= CPU_PIXELS:
        return _shape(order, clip_format)
    frames, height, width = SMALL
    return ClipShape(
        clip_format.count_latent_frames(clip_format.round_up_frames(frames)), height, width
    )


def describe_work(
    model: RandomModel, checkpoint: Checkpoint, machine: Machine, order: Rehearsal
) -> Workload:
    """Return what the edit holds. The sizes are those of files that are not written yet."""
    clip_format = model.family.clip_format(model.name, checkpoint)
    shape = _shape(order, clip_format)
    formula, streamed = model.family.activations, model.family.streamed
    assert formula is not None

    def measure(part: str) -> PartSize:
        item = random_weights.DTYPES["float32" if part == "vae" else order.dtype][2]
        shapes = model.shapes[part]
        return count_part(shapes, dict.fromkeys(shapes, item), streamed.get(part))

    return Workload(
        sizes={part: measure(part) for part in model.shapes},
        activations=lambda clip, own: formula(checkpoint, clip, machine.item, own),
        shape=shape,
        streamable=frozenset(streamed),
        saving=model.family.decode_saving,
        windows=memory_limits.shorter_windows(clip_format, shape.frames),
    )


@dataclass(frozen=True)
class Measured:
    """What a run took. seconds: by stage; step_seconds: of each step; peak: in bytes, None where unknown."""

    seconds: dict[str, float]
    step_seconds: list[float]
    peak: int | None


def _run(
    order: Rehearsal,
    model: RandomModel,
    folder: Path,
    plan: MemoryPlan,
    shape: ClipShape,
    report: Callable[[str], None],
) -> Measured:
    """Load the model and run a clip of random frames through each stage."""
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - begin
        report(f"{stage}: {format_duration(seconds[stage])}")

    with PeakMemory() as peak, torch.no_grad():
        with measure("load"):
            backbone = registry.load_backbone(
                model.name, str(folder), order.device, "auto", plan.placements
            )
        device = str(backbone.device)
        steps = _run_stages(backbone, shape, order, measure)
        del backbone
    megabytes = peak.megabytes(device)
    return Measured(seconds, steps, None if megabytes is None else round(megabytes * 2**20))


def _run_stages(
    backbone: Backbone,
    shape: ClipShape,
    order: Rehearsal,
    measure: Callable[[str], contextlib.AbstractContextManager[None]],
) -> list[float]:
    """Condition, encode, denoise and decode. Return the seconds of each step."""
    count = (shape.frames - 1) * backbone.clip_format.stride[0] + 1
    frames = [torch.rand(3, shape.height, shape.width)] * count
    with measure("condition"):
        conditioning = backbone.condition(Prompt("a red ball", "a blue ball", image=frames[0]))
    z = _random_latent(backbone, shape)
    if "encode" in order.stages:
        with measure("encode"):
            z = backbone.encode(frames)
    each = []
    sigmas = backbone.sigmas(order.steps)[:-1] if "denoise" in order.stages else []
    for sigma in sigmas:
        evaluations = [Evaluation(z, conditioning, branch) for branch in order.branches]
        begin = time.perf_counter()
        with measure("denoise"):
            z = z - 1e-3 * backbone.velocities(sigma, evaluations)[-1]
            assert z.isfinite().all()
        each.append(time.perf_counter() - begin)
    if "decode" in order.stages:
        with measure("decode"):
            for _ in backbone.decode(z):
                pass
    return each


def _random_latent(backbone: Backbone, shape: ClipShape) -> torch.Tensor:
    """Return a random latent of a clip, 1 c f h w."""
    config = backbone.part("vae").config
    channels = config.get("z_dim") or config.get("latent_channels")
    _, *sides = backbone.clip_format.stride
    rows, columns = (n // side for n, side in zip((shape.height, shape.width), sides, strict=True))
    return torch.randn(1, channels, shape.frames, rows, columns, device=backbone.device)


def _make_report(
    order: Rehearsal,
    model: RandomModel,
    plan: MemoryPlan,
    expected: MemoryPlan,
    measured: Measured,
    shapes: tuple[ClipShape, ClipShape],
) -> dict[str, Any]:
    """Return the report. shapes: of the clip, and of what was run."""
    whole, run = shapes
    peak, foreseen = measured.peak, expected.peak
    step = min(measured.step_seconds, default=0.0)
    factor = _work(whole) / _work(run)
    is_same = whole == run
    return {
        "backbone": model.name,
        "clip": dataclasses.asdict(whole),
        "run": dataclasses.asdict(run),
        "is_whole": is_same,
        "plan": plan.describe(),
        "expected_peak_mb": None if foreseen is None else foreseen // 10**6,
        "peak_mb": None if peak is None else peak // 10**6,
        "peak_share": None if not (peak and foreseen) else round(peak / foreseen, 3),
        "seconds": {name: round(value, 2) for name, value in measured.seconds.items()},
        "seconds_per_step": round(step, 2),
        "estimated_seconds_per_step": round(step * factor, 1),
        "evaluations_per_step": len(order.branches),
    }


def _work(shape: ClipShape) -> int:
    """Return what the work of a step grows with: the cells. Attention grows faster, reading weights does not."""
    return shape.frames * shape.height * shape.width


def describe_report(report: dict[str, Any]) -> list[str]:
    """Return a report as lines."""
    run, peak = report["run"], report["peak_mb"]
    clip = f"{run['frames']} latent frames of {run['width']}x{run['height']}"
    lines = [report["plan"]["summary"]]
    if not report["is_whole"]:
        lines.append(
            f"without a GPU the steps ran on {clip}; the memory of the whole clip is computed from shapes"
        )
    share = (
        "" if report["peak_share"] is None else f", {report['peak_share']:.0%} of what was expected"
    )
    lines.append(
        f"peak memory of the run: {peak} MB ({report['expected_peak_mb']} MB expected{share})"
    )
    step = format_duration(report["seconds_per_step"])
    lines.append(f"a step of {report['evaluations_per_step']} evaluations took {step} for {clip}")
    if not report["is_whole"]:
        whole = format_duration(report["estimated_seconds_per_step"])
        lines.append(f"a step of the whole clip: about {whole}, by the number of latent cells")
    return lines
