"""What a method takes and yields: a field, what is given about the edit, and the step it stands at.

def edit(field: Field, given: Given, cfg: Config, start: Step | None = None) -> Iterator[Step]: ...
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ..models.attention.hooks import LayerHooks
from . import maths

# in the order in which a method that has several goes through them
STAGES = ("tune", "invert", "edit")


class VelocityField(Protocol):
    """A conditioned velocity field over latents `b c f h w`. A backbone is one; windows and meters wrap one."""

    attention_hooks: LayerHooks | None  # to its attention
    feature_hooks: LayerHooks | None  # to what its residual blocks put out
    network: (
        Any  # the torch module, for methods that put adapters into it; None where it takes none
    )

    def sigmas(
        self,
        steps: int,
        shift: float | None = None,
        schedule: str = "own",
        shape: Sequence[int] | None = None,
    ) -> list[float]:
        """`steps + 1` noise levels from noisy to 0. grid: by name; shape: f h w of the latent, where the shift depends
        on it.
        """

    def snap_timestep(self, sigma: float) -> float:
        """The level whose timestep is that of sigma cut to a whole number, in the model's own time."""

    def velocity(
        self,
        z: Tensor,
        sigma: float,
        condition: Any,
        *,
        branch: str,
        frames: Sequence[int] | None = None,
    ) -> Tensor:
        """The velocity `noise - clean` at z, level sigma.

        branch: "src+", "src-", "tgt+" or "tgt-" (- is the negative). frames: which latent frames of the clip z holds;
        None: all, from 0 on.
        """


@dataclass(frozen=True)
class Step:
    """Where an edit stands after an update: all that going on from there needs.

    stage: one of STAGES; index: the next step of that stage; count: how many the stage has; z: the edited
    latent, 1 c f h w; state: named tensors that the method needs besides.
    fitted: at the step at which something is fitted to the clip: that, by name, which is kept for other runs.
    span: the latent frames that a step of a part of the clip is of, (first, end); None: of all.
    clean: how the wanted clip looks from here, for a preview, 1 c f h w; whoever drives adds it.
    """

    stage: str
    index: int
    count: int
    z: Tensor
    state: dict[str, Tensor] = field(default_factory=dict)
    fitted: dict[str, Tensor] = field(default_factory=dict)
    span: tuple[int, int] | None = None
    clean: Tensor | None = None


@dataclass(frozen=True)
class ImageModel:
    """A second field over the same latents, with its own conditions."""

    field: VelocityField
    src: Any
    tgt: Any


@dataclass(frozen=True)
class Pixels:
    """The way between frames and latents, for the few methods that need it: the fitted source frames, and the
    backbone's own.
    """

    frames: Callable[[], Iterable[Tensor]]  # 3 H W in [0, 1], in order, anew at each call
    encode: Callable[..., Tensor]  # (frames[, eps of a sample])
    decode: Callable[[Tensor], Iterator[Tensor]]
    condition: Callable[[Any], Any]
    stride: tuple[int, int, int]  # pixels a latent cell: time, height, width


@dataclass(frozen=True)
class EditInputs:
    """What an edit is about."""

    source: Tensor  # the clean latent of the clip, 1 c f h w
    src: Any  # conditions, opaque: of the prompt that describes the clip
    tgt: Any  # and of the wanted one
    mask: Tensor | None = None  # 1 1 f h w in [0, 1]: where the edit may show; None: everywhere
    seed: int = 0
    guide: ImageModel | None = None  # for methods that use one
    # what an earlier run fitted to this very clip with the same settings, by name
    adapters: dict[str, Tensor] | None = None
    pixels: Pixels | None = None
    # clips of latent frames that a method with LONG = "clips" goes through one by one; else it is all one
    spans: tuple[tuple[int, int], ...] = ()
    shown: Tensor | None = None  # the wanted first frame, 3 H W, of a model that is steered by one
    keys: Mapping[int, Tensor] = field(
        default_factory=dict
    )  # and those of clips by their beginning

    def inside(self, change: Tensor) -> Tensor:
        """A change where the mask allows it, 0 elsewhere."""
        return change if self.mask is None else maths.apply_mask(self.mask, change)

    def held(self, z: Tensor, rest: Tensor) -> Tensor:
        """z where the mask allows a change, `rest` elsewhere."""
        return z if self.mask is None else maths.blend_by_mask(self.mask, z, rest)


class Whole:
    """A field that is told whole timesteps: the level is cut before every evaluation."""

    def __init__(self, inner: VelocityField):
        self.inner = inner
        self.attention_hooks, self.feature_hooks, self.network = inner.attention_hooks, inner.feature_hooks, inner.network
        self.sigmas, self.snap_timestep = inner.sigmas, inner.snap_timestep

    def velocity(self, z, sigma, condition, *, branch, frames=None) -> Tensor:
        told = self.snap_timestep(sigma)
        return self.inner.velocity(z, told, condition, branch=branch, frames=frames)


def opened(field: VelocityField, given: EditInputs, cfg: Any) -> tuple[VelocityField, list[float], int]:
    """How every walk begins: the field as cfg wants it told, its levels, and the index of the first one that is
    walked.
    """
    levels = field.sigmas(cfg.steps, cfg.shift, cfg.grid, given.source.shape[2:])
    told = Whole(field) if cfg.timesteps == "whole" else field
    return told, levels, cfg.steps - round(cfg.strength * cfg.steps)


def initial_state(start: Step | None, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The latent and the state to begin with: those of `start`, or a fresh latent."""
    return (z, {}) if start is None else (start.z, start.state)


def remaining_steps(start: Step | None, stage: str, first: int, end: int) -> range:
    """The steps of a stage that are still to do, when a run goes on from `start`."""
    if start is None or STAGES.index(start.stage) < STAGES.index(stage):
        return range(first, end)
    if start.stage == stage:
        return range(start.index, end)
    return range(0)
