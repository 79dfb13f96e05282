"""The contract of a backbone: a conditioned velocity field over video latents, with its encoder and decoder."""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ..base.errors import UserError
from ..base.lazy import nn, torch
from ..base.notices import warn_user
from ..base.prompt_tokens import PromptTokens
from ..media.clip_format import ClipFormat
from ..sampling.field import (
    Branch,
    ClipNorms,
    Evaluation,
    Prediction,
    VelocityField,
    evaluate_in_turn,
    full_costs,
)
from .attention.hooks import LayerHooks, NetworkCall
from .calibration import Calibration
from .placement import DEFAULT, Placements
from .residency import Residency, Stage
from .spec import latent_space

if TYPE_CHECKING:
    from torch import Tensor

    from .source_store import SourceStore

# The parts that each stage of an edit needs.
STAGE_PARTS: dict[Stage, tuple[str, ...]] = {
    "encode": ("vae",),
    "condition": ("text_encoder",),
    "denoise": ("unet",),
    "decode": ("vae",),
}


@dataclass(frozen=True)
class Prompt:
    """What a conditioning is made from.

    words: indices of the words of the cleaned text (base/prompts.py) that drive the edit. image: 3 H W in [0, 1].
    latent: the image's latent, 1 c 1 h w, if it is known better than by encoding the image. time_ids: the numbers that
    a model receives next to an image; None for its own. noise_target: what the image's noise is added to: its pixels,
    its latent, or a sample of its latent instead of the mode. A given latent gets no noise with "pixels".
    negative_image: what the negative branch receives next to a zero embedding of the image: zeros, or its latents.
    """

    text: str = ""
    negative: str = ""
    words: tuple[int, ...] = ()
    image: Tensor | None = None
    latent: Tensor | None = None
    time_ids: tuple[float, float, float] | None = None
    noise_target: Literal["pixels", "latent", "sample"] = "pixels"
    negative_image: Literal["zeros", "latents"] = "zeros"


@dataclass(frozen=True)
class Control:
    """Pictures of structure, such as edges, that a ControlNet makes the frames follow.

    pictures: f 3 H W, uint8 on the CPU, one for each latent frame of the whole clip. scale: of what the
    ControlNet adds.
    """

    pictures: Tensor
    scale: float = 1.0

    def select(self, frames: Sequence[int], like: Tensor) -> Tensor:
        """Return the pictures of some latent frames, f 3 H W in [0, 1], in the type and on the device of `like`."""
        return self.pictures[list(frames)].to(like.device).to(like.dtype) / 255


@dataclass(frozen=True)
class Conditioning:
    """What conditions the velocity: one value for the prompt and one for the negative prompt.

    Only the adapter knows what the values are. token_count: text tokens of the prompt without padding. edit_tokens:
    positions of the tokens of the words that drive the edit. control: what a ControlNet reads, for both prompts.
    tokens: those of the prompt, of a model whose attention to text can be edited word by word. origin: the negative
    prompt's value that a method fitted this one from.
    """

    positive: Any
    negative: Any
    token_count: int = 0
    edit_tokens: tuple[int, ...] = ()
    control: Control | None = None
    tokens: PromptTokens | None = None
    origin: Any = None

    def for_branch(self, branch: str) -> Any:
        """Return the value for a branch: positive for "src+" and "tgt+", else negative."""
        return self.positive if branch.endswith("+") else self.negative

    def splice_words(self, positions: Sequence[int], words: Conditioning) -> Conditioning:
        """Return this conditioning with the states of some words as they are in a prompt of these words alone.

        positions: of the words' tokens in the own prompt. Of models whose text states are 1 L d behind a begin mark.
        """
        positive = self.positive.clone()
        positive[:, list(positions)] = words.positive[:, 1 : 1 + len(positions)]
        return replace(self, positive=positive)

    def with_negative_of(self, other: Conditioning) -> Conditioning:
        """Return this conditioning with another's prompt as its negative, so that guidance leads away from that."""
        return replace(self, negative=other.positive)


class Backbone(ABC):
    """A conditioned velocity field over video latents, with its encoder and decoder. Its velocity field is `field`."""

    name: str
    clip_format: ClipFormat
    capabilities: frozenset[str]
    recommended: Mapping[str, Any]  # settings that suit the model
    device: torch.device
    dtype: torch.dtype  # of the denoiser; latents are float32 everywhere else
    attention_hooks: LayerHooks | None  # None if `capabilities` names no attention
    feature_hooks: LayerHooks | None  # on residual blocks; None if `capabilities` names no features
    parts: dict[str, nn.Module]  # by their names in a diffusers folder
    network: Any = None  # the denoiser, if methods may add adapters to it
    can_split_tokens: bool = False  # over several GPUs (context_parallel.py)
    splits_tokens: bool = False
    # prepares a denoiser that is loaded while an edit runs; `compile_blocks` sets it
    prepare_denoiser: Callable[[nn.Module], None] = staticmethod(lambda network: None)
    expert_boundary: float = 0.0  # the noise level below which a second network takes over
    clean_sigma: float = 0.0  # of a clean latent in the model's own DDIM scheduler
    clip_norms: ClipNorms | None = None
    image_model: str = ""  # name of an image model over the same latents
    prediction: Prediction = "velocity"  # what its network predicts
    calibration: Calibration = Calibration()  # measurements of these weights
    weights: Mapping[str, Any] | None = None  # the files that it was loaded from
    source_store: SourceStore | None = None  # what edits of one clip share, if anything
    placements: Placements = DEFAULT  # how its parts were loaded
    streams_blocks: bool = False  # whether each evaluation loads the denoiser's weights again
    stage_parts: Mapping[Stage, tuple[str, ...]] = STAGE_PARTS

    @functools.cached_property
    def residency(self) -> Residency:
        """Which parts are on the device."""
        return Residency(self.parts, self.placements)

    @property
    def latent_space(self) -> dict[str, Any]:
        """What identifies the latents. Models that share latents have equal ones."""
        vae: Any = self.parts.get("vae")
        return latent_space(vae.config if vae is not None else {})

    @abstractmethod
    def condition(self, prompt: Prompt) -> Conditioning:
        """Encode a prompt and its negative."""

    @abstractmethod
    def encode(self, frames: Iterable[Tensor], eps: Tensor | None = None) -> Tensor:
        """Encode frames `3 H W` in [0, 1], in order, to a latent `1 c f h w`. A tensor `f 3 H W` is such an iterable.

        The result is the posterior's mode, or with eps (`f c h w`, of latent frames) a sample of the posterior.
        """

    @abstractmethod
    def decode(self, z: Tensor) -> Iterator[Tensor]:
        """Decode a latent to frames `f 3 H W` in [0, 1], a chunk at a time, in order."""

    @abstractmethod
    def sigmas(
        self,
        steps: int,
        shift: float | None = None,
        schedule: str = "native",
        shape: Sequence[int] | None = None,
    ) -> list[float]:
        """Return `steps + 1` noise levels, from noisy to 0.

        shift: None for the model's own. schedule: by name. shape: f h w of the latent.
        """

    @abstractmethod
    def snap_timestep(self, sigma: float) -> float:
        """Return the noise level whose timestep is sigma's, rounded down to a whole number in the model's own time."""

    def training_sigmas(self) -> list[float]:
        """Return the noise levels of the timesteps that a noise predictor was trained at, from clean to noisy."""
        return []

    @abstractmethod
    def velocity(
        self,
        z: Tensor,
        sigma: float,
        conditioning: Conditioning,
        *,
        branch: Branch,
        frames: Sequence[int] | None = None,
        network_sigma: float | None = None,
    ) -> Tensor:
        """Return the velocity `noise - clean` at z and sigma. It is differentiable in z: the caller sets `no_grad`.

        branch: "src+", "src-", "tgt+" or "tgt-", where - is the negative prompt. frames: indices of the clip's latent
        frames that z holds; None for all. network_sigma: the noise level whose timestep the network is given; None:
        sigma.
        """

    def velocities(
        self, sigma: float, evaluations: Sequence[Evaluation], frames: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the velocity of each evaluation. By default they run one after another."""
        return evaluate_in_turn(self.velocity, sigma, evaluations, frames)

    def costs(self, evaluations: Sequence[Evaluation]) -> list[float]:
        """Return what each evaluation of one call costs, in evaluations of the whole latent."""
        return full_costs(evaluations)

    def kept_layer_bytes(self, z: Tensor) -> int | None:
        """Return the bytes of the keys and values that one evaluation of z can keep; None: it cannot keep them."""
        return None

    @property
    def field(self) -> VelocityField:
        """The velocity field that methods receive."""
        return VelocityField(
            self.velocities,
            self.sigmas,
            self.snap_timestep,
            self.attention_hooks,
            self.feature_hooks,
            self.network,
            self.costs,
            self.expert_boundary,
            self.clean_sigma,
            self.clip_norms,
            training_sigmas=self.training_sigmas,
            prediction=self.prediction,
        )

    def part(self, name: str) -> Any:
        """Return a part. Raise UserError if the backbone was built without it."""
        if name not in self.parts:
            raise UserError(f"{self.name} was built without its {name}, which this needs")
        return self.parts[name]

    def stage(self, stage: Stage) -> contextlib.AbstractContextManager[None]:
        """Have the parts of a stage on the device inside the block.

        Encoders leave it afterwards, and swapped parts when another stage begins. Raise UserError for a part that the
        backbone was built without.
        """
        names = self.stage_parts[stage]
        for name in names:
            self.part(name)
        return self.residency.use(names, self.device)

    def use_controlnet(self, network: Any) -> contextlib.AbstractContextManager[None]:
        """Let a ControlNet read the control pictures of conditionings inside the block.

        Raise UserError for a model that takes none; one with the capability "control" does.
        """
        raise UserError(f"{self.name} takes no ControlNet", "use a Stable Diffusion model")

    @contextlib.contextmanager
    def use_call(self, call: NetworkCall) -> Iterator[None]:
        """Assign the evaluations inside the block to a call, for all hooks."""
        with contextlib.ExitStack() as stack:
            for hooks in (self.attention_hooks, self.feature_hooks):
                if hooks is not None:
                    stack.enter_context(hooks.use_call(call))
            yield


def replace_stage(stage: Stage, part: str | None) -> dict[Stage, tuple[str, ...]]:
    """Return what each stage needs, with another part for one of them; None: no part."""
    stages = dict(STAGE_PARTS)
    stages[stage] = (part,) if part else ()
    return stages


def note_truncation(name: str, length: int, excess: int, text: str) -> None:
    """Note that a model does not read the end of a prompt."""
    warn_user(f"{name} takes {length} tokens; the last {excess} of {text[:40]!r}... are ignored")


_reserved: weakref.WeakSet[Backbone] = weakref.WeakSet()
_lock = threading.Lock()


@contextlib.contextmanager
def reserve(backbone: Backbone) -> Iterator[None]:
    """Keep other edits off a backbone inside the block. Raise UserError if another edit uses it.

    Attention rules, adapters and the denoiser in use belong to the backbone: two edits at a time would mix them.
    """
    own = unwrap(backbone)
    with _lock:
        if own in _reserved:
            raise UserError(
                f"the loaded {own.name} is in use by another edit",
                "wait until it ends (or close its events), or load the backbone once more",
            )
        _reserved.add(own)
    try:
        yield
    finally:
        _reserved.discard(own)


def unwrap(backbone: Backbone) -> Backbone:
    """Return the backbone inside all wrappers."""
    while isinstance(backbone, BackboneWrapper):
        backbone = backbone.inner
    return backbone


class BackboneWrapper(Backbone):
    """Wrap a backbone and delegate every call. Subclass it to change one."""

    def __init__(self, inner: Backbone):
        self.inner = inner
        self.name, self.clip_format = inner.name, inner.clip_format
        self.capabilities, self.recommended = inner.capabilities, inner.recommended
        self.device, self.dtype = inner.device, inner.dtype
        self.attention_hooks, self.feature_hooks = inner.attention_hooks, inner.feature_hooks
        self.parts, self.network = inner.parts, inner.network
        self.expert_boundary, self.clean_sigma = inner.expert_boundary, inner.clean_sigma
        self.clip_norms, self.prediction = inner.clip_norms, inner.prediction
        self.image_model, self.weights = inner.image_model, inner.weights
        self.calibration, self.source_store = inner.calibration, inner.source_store
        self.placements, self.streams_blocks = inner.placements, inner.streams_blocks

    def stage(self, stage: Stage) -> contextlib.AbstractContextManager[None]:
        return self.inner.stage(stage)

    def condition(self, prompt: Prompt) -> Conditioning:
        return self.inner.condition(prompt)

    def encode(self, frames: Iterable[Tensor], eps: Tensor | None = None) -> Tensor:
        return self.inner.encode(frames, eps)

    def decode(self, z: Tensor) -> Iterator[Tensor]:
        return self.inner.decode(z)

    def sigmas(
        self,
        steps: int,
        shift: float | None = None,
        schedule: str = "native",
        shape: Sequence[int] | None = None,
    ) -> list[float]:
        return self.inner.sigmas(steps, shift, schedule, shape)

    def snap_timestep(self, sigma: float) -> float:
        return self.inner.snap_timestep(sigma)

    def training_sigmas(self) -> list[float]:
        return self.inner.training_sigmas()

    def velocity(
        self,
        z: Tensor,
        sigma: float,
        conditioning: Conditioning,
        *,
        branch: Branch,
        frames: Sequence[int] | None = None,
        network_sigma: float | None = None,
    ) -> Tensor:
        evaluation = Evaluation(z, conditioning, branch, network_sigma=network_sigma)
        (velocity,) = self.velocities(sigma, [evaluation], frames)
        return velocity

    def velocities(
        self, sigma: float, evaluations: Sequence[Evaluation], frames: Sequence[int] | None = None
    ) -> list[Tensor]:
        return self.inner.velocities(sigma, evaluations, frames)

    def costs(self, evaluations: Sequence[Evaluation]) -> list[float]:
        return self.inner.costs(evaluations)

    def use_controlnet(self, network: Any) -> contextlib.AbstractContextManager[None]:
        return self.inner.use_controlnet(network)

    def kept_layer_bytes(self, z: Tensor) -> int | None:
        return self.inner.kept_layer_bytes(z)
