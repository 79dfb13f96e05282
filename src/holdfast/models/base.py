"""What a backbone is: a conditioned velocity field over video latents, with its encoder and decoder."""

import contextlib
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..base.errors import UserError
from ..media.clip_format import Grid
from .attention.hooks import Door
from .calibration import Calibration
from .spec import space_of

RESTING = frozenset({"text_encoder"})  # parts that wait on the CPU: the denoiser needs the room


@dataclass(frozen=True)
class Prompt:
    """What a condition is made from. words: which words of the cleaned text (prompts.py), by index, drive the edit;
    image: 3 H W in [0, 1]; latent: the image's own, 1 c 1 h w, where it is known better than by encoding it.

    ids: the numbers that a model is told beside an image; None: its own. noise: what the image's noise is added to:
    its pixels, its latent, or a sample of its latent in place of the mode. A latent that is given gets none with
    "pixels".
    """

    text: str = ""
    negative: str = ""
    words: tuple[int, ...] = ()
    image: Tensor | None = None
    latent: Tensor | None = None
    ids: tuple[float, float, float] | None = None
    noise: Literal["pixels", "latent", "sample"] = "pixels"


@dataclass(frozen=True)
class Condition:
    """What steers the field: one half for the prompt, one for the negative prompt. What a half is, only its adapter
    knows.

    length: how many text tokens the prompt has, without padding; words: which of them are of the words that drive the
    edit.
    """

    positive: Any
    negative: Any
    length: int = 0
    words: tuple[int, ...] = ()

    def half(self, branch: str) -> Any:
        """The half that a branch is steered by."""
        return self.positive if branch.endswith("+") else self.negative

    def against(self, other: "Condition") -> "Condition":
        """This condition with another's prompt in the negative's place: guidance leads away from it."""
        return replace(self, negative=other.positive)


class Backbone(ABC):
    """A conditioned velocity field over video latents, with its encoder and decoder. A Field (step.py)."""

    name: str
    grid: Grid
    carries: frozenset[str]
    prefers: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype  # of the denoiser; latents are float32 everywhere else
    door: Door | None  # to its attention; None where `carries` names no attention
    features: Door | None  # to its residual blocks' outputs; None where `carries` names none
    parts: dict[str, nn.Module]  # by their names in a diffusers folder
    network: nn.Module | None = None  # the denoiser, where methods may put adapters into it
    guide: str = ""  # the name of an image model over the same latents
    calibration: Calibration = Calibration()  # what was measured of these weights
    weights: Mapping[str, Any] | None = None  # which files it was loaded from, where it was

    @property
    def space(self) -> dict[str, Any]:
        """What its latents are: that of two models over the same ones is the same."""
        return space_of(self.parts["vae"].config if "vae" in self.parts else {})

    @abstractmethod
    def condition(self, prompt: Prompt) -> Condition:
        """Encode a prompt and its negative."""

    @abstractmethod
    def encode(self, frames: Iterable[Tensor], eps: Tensor | None = None) -> Tensor:
        """Frames `3 H W` in [0, 1], in order (a tensor `f 3 H W` is such an iterable), to a latent `1 c f h w`: the
        posterior's mode, or with `eps` (`f c h w`, of latent frames) a sample of it.
        """

    @abstractmethod
    def decode(self, z: Tensor) -> Iterator[Tensor]:
        """A latent to frames `f 3 H W` in [0, 1], a chunk at a time, in order."""

    @abstractmethod
    def levels(
        self,
        steps: int,
        shift: float | None = None,
        grid: str = "own",
        shape: Sequence[int] | None = None,
    ) -> list[float]:
        """`steps + 1` noise levels from noisy to 0. shift: None for the model's own; grid: by name; shape: f h w of
        the latent.
        """

    @abstractmethod
    def whole(self, sigma: float) -> float:
        """The level whose timestep is that of sigma cut to a whole number, in the model's own time."""

    @abstractmethod
    def velocity(
        self,
        z: Tensor,
        sigma: float,
        condition: Condition,
        *,
        branch: str,
        frames: Sequence[int] | None = None,
    ) -> Tensor:
        """The velocity `noise - clean` at `z`, level sigma. branch: "src+", "src-", "tgt+" or "tgt-" (- is the
        negative).

        frames: which latent frames of the clip z holds; None: all of them. Differentiable in z: who drives says
        `no_grad`.
        """

    def part(self, name: str) -> Any:
        """One of the parts. Raises ValueError where the backbone was built without it."""
        if name not in self.parts:
            raise UserError(f"{self.name} was built without its {name}, which this needs")
        return self.parts[name]

    @contextlib.contextmanager
    def on(self, *names: str) -> Iterator[None]:
        """Have some parts on the device inside. Those that rest elsewhere go back there afterwards."""
        for name in names:
            self.part(name).to(self.device)
        try:
            yield
        finally:
            for name in RESTING.intersection(names):
                self.part(name).to("cpu")


def placed(
    parts: Mapping[str, nn.Module | None], device: torch.device | None
) -> dict[str, nn.Module]:
    """The parts that there are, ready for use: frozen, and those that do not rest on the device."""
    there = {name: part for name, part in parts.items() if part is not None}
    for name, part in there.items():
        part.eval().requires_grad_(False)
        if device is not None and name not in RESTING:
            part.to(device)
    return there


def device_of(parts: Mapping[str, nn.Module]) -> torch.device:
    """Where parts already are; the CPU where there are none."""
    for name, part in parts.items():
        for parameter in part.parameters():
            if name not in RESTING:
                return parameter.device
    return torch.device("cpu")


_reserved: weakref.WeakSet[Backbone] = weakref.WeakSet()
_reserving = threading.Lock()


@contextlib.contextmanager
def reserve(backbone: Backbone) -> Iterator[None]:
    """Keep other edits off a backbone inside. Raise UserError where one is at work already.

    Attention rules, adapters and the denoiser in use are the backbone's own: two edits at a time would mix.
    """
    own = unwrap(backbone)
    with _reserving:
        if own in _reserved:
            raise UserError(
                f"the loaded {own.name} is at work on another edit",
                "wait until that has ended (or close its events), or load it once more",
            )
        _reserved.add(own)
    try:
        yield
    finally:
        _reserved.discard(own)


def unwrap(backbone: Backbone) -> Backbone:
    """Return the backbone that a chain of Passing ends in."""
    while isinstance(backbone, Passing):
        backbone = backbone.inner
    return backbone


class Passing(Backbone):
    """A backbone that hands everything on to another: for those that stand before one and change one thing."""

    def __init__(self, inner: Backbone):
        self.inner = inner
        self.name, self.grid, self.carries = inner.name, inner.grid, inner.carries
        self.prefers, self.device, self.dtype = inner.prefers, inner.device, inner.dtype
        self.door, self.features, self.parts = inner.door, inner.features, inner.parts
        self.network, self.guide, self.weights = inner.network, inner.guide, inner.weights
        self.calibration = inner.calibration

    def condition(self, prompt: Prompt) -> Condition:
        return self.inner.condition(prompt)

    def encode(self, frames: Iterable[Tensor], eps: Tensor | None = None) -> Tensor:
        return self.inner.encode(frames, eps)

    def decode(self, z: Tensor) -> Iterator[Tensor]:
        return self.inner.decode(z)

    def levels(
        self,
        steps: int,
        shift: float | None = None,
        grid: str = "own",
        shape: Sequence[int] | None = None,
    ) -> list[float]:
        return self.inner.levels(steps, shift, grid, shape)

    def whole(self, sigma: float) -> float:
        return self.inner.whole(sigma)

    def velocity(self, z, sigma, condition, *, branch, frames=None) -> Tensor:
        return self.inner.velocity(z, sigma, condition, branch=branch, frames=frames)
