"""Estimate what an edit costs before it runs.

Its evaluations are counted on a small model (evaluation_count.py). Time and memory are measured with a few evaluations
of the real model, at the real size.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..base.exit_codes import format_duration
from ..base.memory import PeakMemory
from ..media import masks, video
from ..media.clip_format import ClipFormat
from ..models.base import Backbone, Conditioning, Prompt, reserve
from ..sampling.noise import keyed_noise
from . import agreement, loop
from .evaluation_count import EvaluationCount, count_evaluations
from .planning import Plan
from .run import EditSession, open_session
from .summary import describe_sampling
from .task import EditTask
from .validation import ValidatedTask, validate

Value = TypeVar("Value")


@dataclass(frozen=True)
class Estimate:
    """What an edit does and costs. Seconds and memory are None until they are measured.

    details: the clip, and the plan with its reasons. preserved: what the written file keeps. evaluations: of the
    backbone, None where its family has no embedded model to count on. dense_equivalents: what they cost, in evaluations
    of the whole latent. image_model_evaluations: their time is not in the seconds. judge_evaluations: to score the
    result. seconds: of encoding, editing and decoding. load_seconds: until the model is ready; None where it is. basis:
    what seconds and memory are measured on.
    """

    details: dict[str, Any]
    preserved: str
    evaluations: int | None
    gradient_evaluations: int = 0
    image_model_evaluations: int = 0
    judge_evaluations: int = 0
    seconds: float | None = None
    load_seconds: float | None = None
    memory_mb: float | None = None
    basis: str = "not measured: the model is not loaded"
    dense_equivalents: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate under the names that `edit --check --json` prints."""
        return {
            "what": self.details,
            "kept": self.preserved,
            "evaluations": self.evaluations,
            "dense_equivalents": self.dense_equivalents,
            "learning": self.gradient_evaluations,
            "beside": self.image_model_evaluations,
            "judging": self.judge_evaluations,
            "seconds": self.seconds,
            "loading": self.load_seconds,
            "memory_mb": self.memory_mb,
            "basis": self.basis,
        }


def estimate_edit(
    task: EditTask,
    validated: ValidatedTask | None = None,
    backbone: Backbone | None = None,
    load_seconds: float | None = None,
) -> Estimate:
    """Estimate an edit.

    backbone: the loaded one, on which time and memory are measured. load_seconds: how long it took to load, where the
    edit will load it again. Raises as `run.edit` does for what cannot work.
    """
    validated = validated or validate(task, backbone)
    session = open_session(task, backbone, validated)
    count, cost = EvaluationCount(0, 0, 0), 0.0
    if not task.changes_nothing:
        count, cost = count_evaluations(session.plan, backbone), None
    if count and count.evaluations:
        count, cost = count.in_windows(_region_shares(session, validated.info.clip_format))
    is_judged = count and count.evaluations and agreement.can_judge(validated.info)
    estimate = Estimate(
        _describe_session(session),
        describe_preserved(task, session.clip),
        count.evaluations if count else None,
        count.with_gradient if count else 0,
        count.image_model if count else 0,
        judge_evaluations=agreement.EVALUATIONS if is_judged else 0,
        load_seconds=load_seconds,
        dense_equivalents=cost,
    )
    if backbone is None or not estimate.evaluations:
        return estimate
    return measure_cost(estimate, session.plan, next(session.frames()), backbone)


def _region_shares(session: EditSession, clip_format: ClipFormat) -> list[float]:
    """Return the share of the tokens that the mask touches, of each window.

    An automatic mask is not known before it is found: it is counted as the whole.
    """
    ranges = session.plan.windows.ranges
    if session.mask is None:
        return [1.0] * len(ranges)
    fit = session.plan.fit
    (rows, columns), stride = fit.model_size, clip_format.stride
    shape = (
        clip_format.count_latent_frames(fit.model_frames),
        rows // stride[1],
        columns // stride[2],
    )
    cells = masks.to_latent(session.mask.frames(), clip_format, shape)
    patch = (1, *(m // s for m, s in zip(clip_format.size_multiple, stride[1:], strict=True)))
    tokens = torch.nn.functional.max_pool3d(cells, patch, patch)
    return [tokens[:, :, begin:end].mean().item() for begin, end in ranges]


def _describe_session(session: EditSession) -> dict[str, Any]:
    task, clip = session.task, session.clip
    audio_tracks = clip.audio_tracks
    if task.output:
        audio_tracks = video.count_audio_tracks(Path(task.output), clip)
    return {
        "frames": clip.sampling.source_frames if clip.sampling else clip.frames,
        "sampled": list(clip.sampling.frames) if clip.sampling else None,
        "edited": [session.part.start, session.part.stop],
        "size": list(clip.size),
        "rate": str(clip.rate),
        "audio_tracks": audio_tracks,
        "plan": session.plan.describe(),
        "settings": session.plan.settings(),
    }


def estimate_lines(estimate: Estimate) -> list[str]:
    """Describe an estimate in a few lines."""
    details, plan = estimate.details, estimate.details["plan"]
    (width, height), (begin, end) = details["size"], details["edited"]
    lines = [
        f"{end - begin} of {details['frames']} frames, {width}x{height}: {plan['fit']['reason']}",
        *describe_sampling(details),
        plan["windows"]["reason"],
    ]
    steps = details["settings"].get("steps")
    if steps:
        of_what = " of the noise schedule" if "schedule" in details["settings"] else ""
        lines.append(f"{steps['value']} steps{of_what} ({steps['from']})")
    words = plan["words"]
    if words["source"] or words["target"]:
        change = f"{words['source'] or '-'} → {words['target'] or '-'}"
        lines.append(f"words that drive the edit ({words['reason']}): {change}")
    lines += [f"inside {area['mask']}: {area['words']}" for area in words["areas"]]
    model = plan["first_frame"]["name"]
    if model:
        lines.append(f"{model} makes the first frame from the prompts (not included below)")
    return [*lines, plan["memory"]["summary"], _cost_line(estimate), f"kept: {estimate.preserved}"]


def _cost_line(estimate: Estimate) -> str:
    count = f"about {estimate.evaluations} evaluations of the network"
    cost = estimate.dense_equivalents
    if estimate.evaluations == 0:
        return "no evaluation of a network; time and memory are not estimated"
    if cost is not None and estimate.evaluations and cost < estimate.evaluations:
        count += f" (the cost of {cost:.0f}: the target runs inside the mask only)"
    if estimate.evaluations is None:
        count = "an unknown number of evaluations of the network"
    if estimate.gradient_evaluations:
        count += f", {estimate.gradient_evaluations} of them with a gradient"
    if estimate.image_model_evaluations:
        count += f", {estimate.image_model_evaluations} of the image model (not in the time)"
    if estimate.judge_evaluations:
        count += f" and {estimate.judge_evaluations} to score the result"
    if estimate.seconds is None:
        return f"{count}; time and memory {estimate.basis}"
    memory = "" if estimate.memory_mb is None else f" with {estimate.memory_mb:.0f} MB in use"
    duration = _duration_text(estimate.seconds, estimate.load_seconds)
    basis = f"{estimate.basis}{memory}; without writing and checking the file"
    return f"{count}, about {duration} ({basis})"


def _duration_text(seconds: float, load_seconds: float | None) -> str:
    """Say how long an edit takes, and how much of that is loading."""
    if load_seconds is None:
        return f"{format_duration(seconds)} with the model already loaded"
    total, loading = format_duration(load_seconds + seconds), format_duration(load_seconds)
    return f"{total}, {loading} of it to load the model"


def describe_preserved(task: EditTask, clip: video.Clip) -> str:
    """Say what the file that the task names will keep of its source."""
    if task.changes_nothing:
        return "everything: the edit changes nothing"
    path = Path(task.output or "frames")
    properties = ", ".join(video.kept_properties(path, clip, task.codec))
    if task.mask == "auto":
        return (
            f"{properties}; no pixel is promised: the edit finds the mask itself, and stops before it "
            "changes anything where that is empty or full"
        )
    if task.mask and _is_uniform(task, clip):
        return f"{properties}; no pixel is promised: the mask lets all of them change, or none"
    if task.mask:
        until = "" if video.is_lossless(path, clip, task.codec) else " until it is encoded"
        return f"{properties}; every pixel outside the mask{until}"
    return f"{properties}; no mask: any pixel may change slightly"


def _is_uniform(task: EditTask, clip: video.Clip) -> bool:
    """Return whether the mask is empty, or covers every pixel of every frame, and the task allows that."""
    if not task.allow_any_mask:
        return False  # such a mask is refused
    mask = loop.open_task_mask(task, clip, range(clip.frames), allow_any=True)
    values = (bool(value) for frame in mask.frames() for value in (frame.min(), frame.max()))
    return len(set(values)) == 1


@torch.no_grad()
def measure_cost(estimate: Estimate, plan: Plan, frame: Tensor, backbone: Backbone) -> Estimate:
    """Return the estimate with time and memory, measured on one frame and on evaluations at the size of a window."""
    with reserve(backbone), PeakMemory() as memory:
        cost = _measure_evaluations(estimate, plan, frame, backbone)
    peak = memory.megabytes(str(backbone.device))
    return dataclasses.replace(estimate, seconds=cost.seconds, memory_mb=peak, basis=cost.basis)


class Cost(NamedTuple):
    """The seconds of a whole edit, and what they are measured on."""

    seconds: float
    basis: str


def _measure_evaluations(estimate: Estimate, plan: Plan, frame: Tensor, backbone: Backbone) -> Cost:
    assert estimate.evaluations is not None
    clip_format = backbone.clip_format
    latent, encode_seconds = _time_call(lambda: backbone.encode([frame] * clip_format.frame_offset))
    _, decode_seconds = _time_call(lambda: list(backbone.decode(latent)))
    frames = max(end - begin for begin, end in plan.windows.ranges)
    z = keyed_noise(latent.expand(-1, -1, frames, -1, -1), 0, 0)
    prompt = Prompt(plan.task.target_prompt, plan.task.negative, image=frame)
    evaluate = functools.partial(_evaluate, backbone, z, backbone.condition(prompt))
    each = _time_best(evaluate)
    cost = (
        estimate.evaluations if estimate.dense_equivalents is None else estimate.dense_equivalents
    )
    seconds = (cost + estimate.judge_evaluations - estimate.gradient_evaluations) * each
    basis = f"one evaluation of {frames} latent frames took {each:.2f} s here"
    if estimate.gradient_evaluations:
        # The gradient of the latent instead of the adapters': both pass the whole network.
        z.requires_grad_()
        with_gradient = _time_best(lambda: _differentiate(evaluate, z))
        seconds += estimate.gradient_evaluations * with_gradient
        basis += f", one with a gradient {with_gradient:.2f} s"
    decodings = 2 if plan.task.raw else 1  # see Writer._write_raw
    coding = encode_seconds + decodings * decode_seconds
    seconds += coding * plan.fit.model_frames / clip_format.frame_offset
    return Cost(seconds, basis)


def _evaluate(backbone: Backbone, z: Tensor, conditioning: Conditioning) -> Tensor:
    sigma = backbone.sigmas(2)[1]
    return backbone.velocity(z, sigma, conditioning, branch="tgt+")


def _differentiate(evaluate: Callable[[], Tensor], z: Tensor) -> Tensor:
    with torch.enable_grad():
        return torch.autograd.grad(evaluate().square().sum(), z)[0]


def _time_best(call: Callable[[], Any]) -> float:
    """Return the seconds of the faster of two calls, after one that also chooses kernels and takes memory."""
    call()
    return min(_time_call(call)[1] for _ in range(2))


def _time_call(call: Callable[[], Value]) -> tuple[Value, float]:
    """Return what a call returns, and its seconds on the device."""
    begin = time.perf_counter()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - begin
