"""What an edit will cost, before it is paid for: its evaluations counted on the family's embedded member, which asks as
often and takes seconds, and its time and memory from one evaluation of each sort of the real model at the real size.
"""

import dataclasses
import functools
import json
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..base.exit_codes import format_duration
from ..base.memory import PeakMemory
from ..base.notices import Notice
from ..media import fitting, video
from ..models import registry
from ..models.base import Backbone, BackboneWrapper, Prompt, reserve
from ..sampling.maths import keyed_noise
from . import in_memory, agreement, loop
from .planning import Plan
from .run import open_session
from .task import EditTask
from .validation import ValidatedTask, validate

LATENTS = (
    3,
    5,
)  # latent frames of the two clips that are counted: in one window, and in several of it


class EvaluationCount(NamedTuple):
    """How often networks are evaluated."""

    evaluations: int  # of the backbone's
    with_gradient: int  # of these, with a gradient
    image_model: int  # of a second model's


@dataclass(frozen=True)
class Estimate:
    """What an edit will do and cost. Seconds and memory are None until the model was asked (`measured`)."""

    what: dict  # frames, size, part, and the plan with its reasons
    preserved: str
    evaluations: int | None  # None: the family has no embedded member to count on
    gradient_evaluations: int = 0  # of these, with a gradient
    image_model_evaluations: int = 0  # of a second model, whose time is not in the seconds
    judge_evaluations: int = 0  # more of them, to ask the model whether it sees the target in the result
    seconds: float | None = None  # of encoding, editing and decoding
    load_seconds: float | None = None  # seconds until the model is ready; None: it is ready
    memory_mb: float | None = None
    basis: str = "not measured: the model is not loaded"


def estimate_edit(
    task: EditTask,
    validated: ValidatedTask | None = None,
    backbone: Backbone | None = None,
    load_seconds: float | None = None,
) -> Estimate:
    """What an edit will do. backbone: the loaded one, where its time and memory are to be measured; loading: seconds
    that this took, where an edit will load it again.

    Raises as `editing.events` does for what cannot work.
    """
    validated = validated or validate(task, backbone)
    edit = open_session(task, backbone, validated)
    plan, clip = edit.plan, edit.clip
    what = {
        "frames": clip.frames,
        "edited": [edit.part.start, edit.part.stop],
        "size": list(clip.size),
        "rate": str(clip.rate),
        "audio_tracks": video.count_audio_tracks(Path(task.output), clip) if task.output else clip.audio_tracks,
        "plan": plan.describe(),
        "settings": plan.settings(),
    }
    count = EvaluationCount(0, 0, 0) if task.changes_nothing else count_evaluations(plan, backbone)
    asks = count and count.evaluations and agreement.can_judge(validated.info)
    said = Estimate(
        what,
        describe_preserved(task, clip),
        *(count or (None,)),
        judge_evaluations=agreement.EVALUATIONS if asks else 0,
        load_seconds=load_seconds,
    )
    return measure_cost(said, plan, next(edit.frames()), backbone) if backbone else said


def estimate_lines(said: Estimate) -> list[str]:
    """A forecast in a person's words."""
    plan, (width, height), (begin, end) = said.what["plan"], said.what["size"], said.what["edited"]
    driving = plan["words"]
    told = [
        f"{end - begin} of {said.what['frames']} frames, {width}x{height}: {plan['fit']['reason']}",
        plan["windows"]["reason"],
    ]
    if driving["source"] or driving["target"]:
        words = f"{driving['source'] or '-'} → {driving['target'] or '-'}"
        told.append(f"words that drive it ({driving['reason']}): {words}")
    painter = plan["first_frame"]["name"]
    if painter:
        told.append(f"{painter} makes the first frame from the prompts (not in the figures below)")
    return [*told, _cost_line(said), f"kept: {said.preserved}"]


def _cost_line(said: Estimate) -> str:
    count = f"about {said.evaluations} evaluations of the network"
    if said.evaluations is None:
        count = "how often the network will be evaluated is not known"
    if said.gradient_evaluations:
        count += f", {said.gradient_evaluations} of them to learn from"
    if said.image_model_evaluations:
        count += f", {said.image_model_evaluations} of a second model (not in the time)"
    if said.judge_evaluations:
        count += f" and {said.judge_evaluations} to judge the result"
    if said.seconds is None:
        return f"{count}; time and memory {said.basis}"
    basis = f"{said.basis}; writing and checking the file come on top"
    memory = "" if said.memory_mb is None else f", {said.memory_mb:.0f} MB"
    return f"{count}, about {_duration_text(said)}{memory} ({basis})"


def _duration_text(said: Estimate) -> str:
    """How long an edit will take, and how much of that is loading."""
    if said.load_seconds is None:
        return f"{format_duration(said.seconds)} with the model loaded as it is"
    loading = f"{format_duration(said.load_seconds)} of it to load the model"
    return f"{format_duration(said.load_seconds + said.seconds)}, {loading}"


def describe_preserved(task: EditTask, clip: video.Clip) -> str:
    """What will be as it was, in the file that the task names."""
    if task.changes_nothing:
        return "everything: nothing is to change"
    path = Path(task.output or "frames")
    whole = ", ".join(video.kept_properties(path, clip, task.codec))
    if task.mask == "auto":
        return (
            f"{whole}; of the pixels none is promised: the mask is found by the edit, which stops "
            "before it changes anything where that is empty or full"
        )
    if task.mask and _is_uniform(task, clip):
        return f"{whole}; of the pixels none is promised: the mask lets all of them change, or none"
    if task.mask:
        until = "" if video.is_lossless(path, clip, task.codec) else " until it is encoded"
        return f"{whole}; every pixel outside the mask{until}"
    return f"{whole}; no pixel is held exactly, for there is no mask"


def _is_uniform(task: EditTask, clip: video.Clip) -> bool:
    """Whether a mask that was allowed is empty, or covers every pixel of every frame."""
    if not task.allow_any_mask:
        return False  # such a mask is refused
    mask = loop.open_task_mask(task, clip, range(clip.frames), allow_any=True)
    return (
        len({bool(value) for inside in mask.frames() for value in (inside.min(), inside.max())})
        == 1
    )


def count_evaluations(plan: Plan, backbone: Backbone | None = None) -> EvaluationCount | None:
    """How often an edit evaluates its networks; None where nothing tells. backbone: the loaded one, which may be the
    member that is counted on.
    """
    name = plan.task.backbone
    _, family = registry.choose_backbone(name)
    members = [n for n, spec in family.specs.items() if not spec.download_gb]
    if not members:
        return None
    settings = json.dumps({k: v for k, v in dataclasses.asdict(plan.config).items() if v is not None})
    here = backbone is not None and backbone.name == members[0]
    member = backbone if here else _load_embedded(members[0])
    asked = (member, plan.task.method, settings, _mask_kind(plan.task))
    one, _ = count_on_embedded(*asked, several=False)
    if plan.windows.count == 1:
        return one
    many, spans = count_on_embedded(*asked, several=True)
    more = (plan.windows.count - 1) / (spans - 1)
    return EvaluationCount(*(round(a + more * (b - a)) for a, b in zip(one, many, strict=True)))


def _mask_kind(task: EditTask) -> str:
    return "auto" if task.mask == "auto" else "given" if task.mask else ""


def count_on_embedded(
    backbone: Backbone, method: str, settings: str, mask: str, several: bool
) -> tuple[EvaluationCount, int]:
    """As `_counted`, one at a time: threads share the member that is counted on."""
    with _count_lock:
        return _count_uncontended(backbone, method, settings, mask, several)


_count_lock = threading.Lock()


@functools.lru_cache(maxsize=16)
def _count_uncontended(
    backbone: Backbone, method: str, settings: str, mask: str, several: bool
) -> tuple[EvaluationCount, int]:
    """Of a very small clip on an embedded model, and in how many windows or clips it went."""
    grid = backbone.clip_format
    sizes = [grid.round_up_frames((count - 1) * grid.stride[0] + 1) for count in LATENTS]
    frames = torch.zeros(sizes[several], 3, 64, 64)
    chosen = {"method": method, "settings": json.loads(settings), "window": sizes[0]}
    asked = EditTask(
        "", "", "a red ball", "a blue ball", **chosen, mask="auto" if mask == "auto" else None
    )
    asked = dataclasses.replace(asked, allow_any_mask=True)  # of a black clip it may be anything
    inside = [torch.ones(64, 64).bool().numpy()] * len(frames) if mask == "given" else None
    shown = frames[0] if "image" in backbone.capabilities else None
    asked = dataclasses.replace(asked, first_frame=None if shown is None else "given")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        job = in_memory.plan_job(asked, backbone, frames, inside, shown)
        small = fitting.Fit(len(frames), (64, 64), len(frames), _smallest_size(grid), "")
        job = dataclasses.replace(job, plan=dataclasses.replace(job.plan, fit=small))
        idle = Idle(backbone)
        for event in loop.run_loop(job, idle):  # noqa: B007
            pass
    return EvaluationCount(event.evaluations, idle.learning, event.beside), job.plan.windows.count


class Idle(BackboneWrapper):
    """A backbone whose network only runs where somebody looks into it or learns from it: all else is still there."""

    def __init__(self, inner: Backbone):
        super().__init__(inner)
        self.learning = 0  # evaluations with a gradient

    def velocity(self, z, sigma, condition, *, branch, frames=None) -> Tensor:
        self.learning += torch.is_grad_enabled()
        doors = [door for door in (self.attention_hooks, self.feature_hooks) if door]
        if torch.is_grad_enabled() or any(door.rules for door in doors):
            return self.inner.velocity(z, sigma, condition, branch=branch, frames=frames)
        return torch.zeros_like(z)


def _smallest_size(grid) -> tuple[int, int]:
    """A size that the network takes: a few cells of its coarsest grid."""
    return tuple(max(16, 2 * side) for side in grid.size_multiple)


@functools.lru_cache(maxsize=1)
def _load_embedded(name: str) -> Backbone:
    return registry.load_backbone(name, None, "cpu")


@torch.no_grad()
def measure_cost(said: Estimate, plan: Plan, frame: Tensor, backbone: Backbone) -> Estimate:
    """The same with time and memory: one frame encoded and decoded, and one evaluation at the size of a window."""
    if not said.evaluations:
        return said
    with reserve(backbone), PeakMemory() as memory:
        seconds, basis = _measure_seconds(said, plan, frame, backbone)
    peak = memory.megabytes(str(backbone.device))
    return dataclasses.replace(said, seconds=seconds, memory_mb=peak, basis=basis)


def _measure_seconds(said: Estimate, plan: Plan, frame: Tensor, backbone: Backbone) -> tuple[float, str]:
    """Return the seconds of the whole edit, and what they are made from."""
    latent, encoding = _time_call(lambda: backbone.encode([frame] * backbone.clip_format.frame_offset))
    coding = encoding + _time_call(lambda: list(backbone.decode(latent)))[1]
    frames = max(end - begin for begin, end in plan.windows.spans)
    z = keyed_noise(latent.expand(-1, -1, frames, -1, -1), 0, 0)
    told = backbone.condition(Prompt(plan.task.target_prompt, plan.task.negative, image=frame))
    sigma = backbone.sigmas(2)[1]

    def once() -> Tensor:
        return backbone.velocity(z, sigma, told, branch="tgt+")

    def learnt() -> Tensor:
        with torch.enable_grad():
            return torch.autograd.grad(once().square().sum(), z)[0]

    def least(work: Callable[[], Tensor]) -> float:
        work()  # the first one also chooses kernels and takes memory
        return min(_time_call(work)[1] for _ in range(2))  # another program may have been in the way

    each = least(once)
    total = (said.evaluations + said.judge_evaluations - said.gradient_evaluations) * each
    basis = f"one evaluation of {frames} latent frames took {each:.2f} s here"
    if said.gradient_evaluations:
        # To the latent in place of the adapters: it goes through the whole network, as theirs does.
        z.requires_grad_()
        learning = least(learnt)
        total += said.gradient_evaluations * learning
        basis += f", one to learn from {learning:.2f} s"
    total += coding * plan.fit.model_frames / backbone.clip_format.frame_offset
    return total, basis


def _time_call(work) -> tuple[Any, float]:
    """What some work gives, and how long it takes on the device."""
    begun = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - begun
