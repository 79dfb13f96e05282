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

from ..base import names
from ..base.exit_codes import duration
from ..base.memory import PeakMemory
from ..base.notices import Notice
from ..media import fitting, video
from ..models import registry
from ..models.base import Backbone, Passing, Prompt, reserve
from ..sampling.maths import keyed_noise
from . import agreement, loop
from .planning import Plan
from .run import opened
from .task import EditTask
from .validation import Taken, taken

LATENTS = (
    3,
    5,
)  # latent frames of the two clips that are counted: in one window, and in several of it


class Count(NamedTuple):
    """How often networks are evaluated."""

    evaluations: int  # of the backbone's
    learning: int  # of these, with a gradient
    beside: int  # of a second model's


@dataclass(frozen=True)
class Forecast:
    """What an edit will do and cost. Seconds and memory are None until the model was asked (`measured`)."""

    what: dict  # frames, size, part, and the plan with its reasons
    kept: str
    evaluations: int | None  # None: the family has no embedded member to count on
    learning: int = 0  # of these, with a gradient
    beside: int = 0  # of a second model, whose time is not in the seconds
    judging: int = 0  # more of them, to ask the model whether it sees the target in the result
    seconds: float | None = None  # of encoding, editing and decoding
    loading: float | None = None  # seconds until the model is ready; None: it is ready
    memory_mb: float | None = None
    basis: str = "not measured: the model is not loaded"


def forecast(
    task: EditTask,
    known: Taken | None = None,
    backbone: Backbone | None = None,
    loading: float | None = None,
) -> Forecast:
    """What an edit will do. backbone: the loaded one, where its time and memory are to be measured; loading: seconds
    that this took, where an edit will load it again.

    Raises as `editing.events` does for what cannot work.
    """
    known = known or taken(task, backbone)
    edit = opened(task, backbone, known)
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
    count = Count(0, 0, 0) if task.same else counts(plan, backbone)
    asks = count and count.evaluations and agreement.can_judge(known.about)
    said = Forecast(
        what,
        kept(task, clip),
        *(count or (None,)),
        judging=agreement.EVALUATIONS if asks else 0,
        loading=loading,
    )
    return measured(said, plan, next(edit.frames()), backbone) if backbone else said


def lines(said: Forecast) -> list[str]:
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
    return [*told, _cost(said), f"kept: {said.kept}"]


def _cost(said: Forecast) -> str:
    count = f"about {said.evaluations} evaluations of the network"
    if said.evaluations is None:
        count = "how often the network will be evaluated is not known"
    if said.learning:
        count += f", {said.learning} of them to learn from"
    if said.beside:
        count += f", {said.beside} of a second model (not in the time)"
    if said.judging:
        count += f" and {said.judging} to judge the result"
    if said.seconds is None:
        return f"{count}; time and memory {said.basis}"
    basis = f"{said.basis}; writing and checking the file come on top"
    memory = "" if said.memory_mb is None else f", {said.memory_mb:.0f} MB"
    return f"{count}, about {_time(said)}{memory} ({basis})"


def _time(said: Forecast) -> str:
    """How long an edit will take, and how much of that is loading."""
    if said.loading is None:
        return f"{duration(said.seconds)} with the model loaded as it is"
    loading = f"{duration(said.loading)} of it to load the model"
    return f"{duration(said.loading + said.seconds)}, {loading}"


def kept(task: EditTask, clip: video.Clip) -> str:
    """What will be as it was, in the file that the task names."""
    if task.same:
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
    mask = loop.bind_mask(task, clip, range(clip.frames), allow_any=True)
    return (
        len({bool(value) for inside in mask.frames() for value in (inside.min(), inside.max())})
        == 1
    )


def counts(plan: Plan, backbone: Backbone | None = None) -> Count | None:
    """How often an edit evaluates its networks; None where nothing tells. backbone: the loaded one, which may be the
    member that is counted on.
    """
    name = plan.task.backbone
    module = registry.backbones()[names.choose(name, registry.backbones(), "backbone")]
    members = [n for n, card in module.MODELS.items() if not card.gigabytes]
    if not members:
        return None
    settings = json.dumps({k: v for k, v in dataclasses.asdict(plan.cfg).items() if v is not None})
    here = backbone is not None and backbone.name == members[0]
    member = backbone if here else _member(members[0])
    asked = (member, plan.task.method, settings, _masked(plan.task))
    one, _ = counted(*asked, several=False)
    if plan.spans.count == 1:
        return one
    many, spans = counted(*asked, several=True)
    more = (plan.spans.count - 1) / (spans - 1)
    return Count(*(round(a + more * (b - a)) for a, b in zip(one, many, strict=True)))


def _masked(task: EditTask) -> str:
    return "auto" if task.mask == "auto" else "given" if task.mask else ""


def counted(
    backbone: Backbone, method: str, settings: str, mask: str, several: bool
) -> tuple[Count, int]:
    """As `_counted`, one at a time: threads share the member that is counted on."""
    with _counting:
        return _counted(backbone, method, settings, mask, several)


_counting = threading.Lock()


@functools.lru_cache(maxsize=16)
def _counted(
    backbone: Backbone, method: str, settings: str, mask: str, several: bool
) -> tuple[Count, int]:
    """Of a very small clip on an embedded model, and in how many windows or clips it went."""
    grid = backbone.grid
    sizes = [grid.legal_frames((count - 1) * grid.stride[0] + 1) for count in LATENTS]
    frames = torch.zeros(sizes[several], 3, 64, 64)
    chosen = {"method": method, "settings": json.loads(settings), "window": sizes[0]}
    asked = EditTask(
        "", "", "a red ball", "a blue ball", **chosen, mask="auto" if mask == "auto" else None
    )
    asked = dataclasses.replace(asked, allow_any_mask=True)  # of a black clip it may be anything
    inside = [torch.ones(64, 64).bool().numpy()] * len(frames) if mask == "given" else None
    shown = frames[0] if "image" in backbone.carries else None
    asked = dataclasses.replace(asked, first_frame=None if shown is None else "given")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        job = loop.job(asked, backbone, frames, inside, shown)
        small = fitting.Fit(len(frames), (64, 64), len(frames), _least(grid), "")
        job = dataclasses.replace(job, plan=dataclasses.replace(job.plan, fit=small))
        idle = Idle(backbone)
        for event in loop.walk(job, idle):  # noqa: B007
            pass
    return Count(event.evaluations, idle.learning, event.beside), job.plan.spans.count


class Idle(Passing):
    """A backbone whose network only runs where somebody looks into it or learns from it: all else is still there."""

    def __init__(self, inner: Backbone):
        super().__init__(inner)
        self.learning = 0  # evaluations with a gradient

    def velocity(self, z, sigma, condition, *, branch, frames=None) -> Tensor:
        self.learning += torch.is_grad_enabled()
        doors = [door for door in (self.door, self.features) if door]
        if torch.is_grad_enabled() or any(door.rules for door in doors):
            return self.inner.velocity(z, sigma, condition, branch=branch, frames=frames)
        return torch.zeros_like(z)


def _least(grid) -> tuple[int, int]:
    """A size that the network takes: a few cells of its coarsest grid."""
    return tuple(max(16, 2 * side) for side in grid.multiple)


@functools.lru_cache(maxsize=1)
def _member(name: str) -> Backbone:
    return registry.load_backbone(name, None, "cpu")


@torch.no_grad()
def measured(said: Forecast, plan: Plan, frame: Tensor, backbone: Backbone) -> Forecast:
    """The same with time and memory: one frame encoded and decoded, and one evaluation at the size of a window."""
    if not said.evaluations:
        return said
    with reserve(backbone), PeakMemory() as memory:
        seconds, basis = _timed(said, plan, frame, backbone)
    peak = memory.megabytes(str(backbone.device))
    return dataclasses.replace(said, seconds=seconds, memory_mb=peak, basis=basis)


def _timed(said: Forecast, plan: Plan, frame: Tensor, backbone: Backbone) -> tuple[float, str]:
    """Return the seconds of the whole edit, and what they are made from."""
    latent, encoding = _seconds(lambda: backbone.encode([frame] * backbone.grid.first))
    coding = encoding + _seconds(lambda: list(backbone.decode(latent)))[1]
    frames = max(end - begin for begin, end in plan.spans.spans)
    z = keyed_noise(latent.expand(-1, -1, frames, -1, -1), 0, 0)
    told = backbone.condition(Prompt(plan.task.target_prompt, plan.task.negative, image=frame))
    sigma = backbone.levels(2)[1]

    def once() -> Tensor:
        return backbone.velocity(z, sigma, told, branch="tgt+")

    def learnt() -> Tensor:
        with torch.enable_grad():
            return torch.autograd.grad(once().square().sum(), z)[0]

    def least(work: Callable[[], Tensor]) -> float:
        work()  # the first one also chooses kernels and takes memory
        return min(_seconds(work)[1] for _ in range(2))  # another program may have been in the way

    each = least(once)
    total = (said.evaluations + said.judging - said.learning) * each
    basis = f"one evaluation of {frames} latent frames took {each:.2f} s here"
    if said.learning:
        # To the latent in place of the adapters: it goes through the whole network, as theirs does.
        z.requires_grad_()
        learning = least(learnt)
        total += said.learning * learning
        basis += f", one to learn from {learning:.2f} s"
    total += coding * plan.fit.model_frames / backbone.grid.first
    return total, basis


def _seconds(work) -> tuple[Any, float]:
    """What some work gives, and how long it takes on the device."""
    begun = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - begun
