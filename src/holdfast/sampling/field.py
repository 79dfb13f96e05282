"""The contract of a method: a velocity field, the inputs of an edit, and the steps that it yields.

def edit(field: VelocityField, inputs: EditInputs, config, resume: Step | None = None) -> Iterator[Step]: ...

Latents `z` are `b c f h w`, and sigma is in [0, 1]: `z = (1 - sigma) * clean + sigma * noise`. The velocity is
`noise - clean`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from . import masking
from .settings import SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..models.attention.hooks import LayerHooks

Side = Literal["src", "tgt"]
Branch = Literal["src+", "src-", "tgt+", "tgt-"]  # + is the prompt, - the negative prompt
POSITIVE: dict[Side, Branch] = {"src": "src+", "tgt": "tgt+"}
NEGATIVE: dict[Side, Branch] = {"src": "src-", "tgt": "tgt-"}

# what a network predicts: the noise; v, which is `a noise - s clean`; or the velocity, or anything else
Prediction = Literal["epsilon", "v_prediction", "velocity"]

STAGES = ("tune", "invert", "edit")  # in the order in which a method runs those that it has


@dataclass(eq=False)
class KeptEvaluation:
    """What an evaluation leaves for later ones at the same point; empty before the first of them.

    keys_values: those of its self-attention layers, by path, for the targets that see the source outside their region.
    They are kept only if keeps_layers is set.
    """

    velocity: Tensor | None = None
    keys_values: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    keeps_layers: bool = False


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the network at a noise level.

    conditioning is opaque to methods. region: 1 1 f h w boolean on the CPU, in latent cells; outside it the velocity is
    that of the source evaluation of the same call and sign (of src+ where src- is not evaluated). None: everywhere.
    kept: where the result is kept; one that is filled already is not evaluated again. network_sigma: the noise level
    whose timestep the network is given, where it is not sigma: DDIM inversion gives it that of the level it goes to.
    """

    z: Tensor  # b c f h w
    conditioning: Any
    branch: Branch
    region: Tensor | None = None
    kept: KeptEvaluation | None = None
    network_sigma: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether the velocity is kept from an earlier call."""
        return self.kept is not None and self.kept.velocity is not None


def full_costs(evaluations: Sequence[Evaluation]) -> list[float]:
    """Return the costs of evaluations that run on the whole latent: 1 each, and 0 where the velocity is kept."""
    return [0.0 if evaluation.is_known else 1.0 for evaluation in evaluations]


class ClipNorms(Protocol):
    """The choice between group norms of each frame, and group norms over the frames of a clip."""

    @property
    def is_active(self) -> bool: ...

    def use(self) -> contextlib.AbstractContextManager[None]:
        """Normalize over the clip inside the block."""
        ...


class VelocitiesFunction(Protocol):
    """Return one velocity `noise - clean` per evaluation, b c f h w, at noise level sigma.

    frames: the latent frames of the clip that each z holds; None: all of them, from 0 on. Differentiable in z; the
    caller decides about `no_grad`.
    """

    def __call__(
        self, sigma: float, evaluations: Sequence[Evaluation], frames: Sequence[int] | None = None
    ) -> list[Tensor]: ...


class SigmasFunction(Protocol):
    """Return `steps + 1` noise levels from noisy to 0.

    shift: None is the model's own. schedule: how the levels are spaced, by name. shape: f h w of the latent, for
    models whose shift depends on it.
    """

    def __call__(
        self,
        steps: int,
        shift: float | None = None,
        schedule: str = "native",
        shape: Sequence[int] | None = None,
    ) -> list[float]: ...


@dataclass(frozen=True)
class VelocityField:
    """A conditioned velocity field over latents b c f h w: callables and data of a model.

    It is wrapped by `dataclasses.replace(field, velocities=...)`.
    """

    velocities: VelocitiesFunction  # all branches of a step in one call
    sigmas: SigmasFunction
    # the noise level whose timestep is that of sigma, truncated to an integer in the model's own time
    snap_timestep: Callable[[float], float]
    attention_hooks: LayerHooks | None = None
    feature_hooks: LayerHooks | None = None  # of the outputs of residual blocks
    network: nn.Module | None = None  # takes adapters; None: the model takes none
    # what each evaluation of one call costs, in evaluations of the whole latent
    costs: Callable[[Sequence[Evaluation]], list[float]] = full_costs
    expert_boundary: float = 0.0  # the noise level below which a second network takes over
    # the noise level that the model's own DDIM scheduler gives a clean latent: abar of its `final_alpha_cumprod`
    clean_sigma: float = 0.0
    clip_norms: ClipNorms | None = None  # None: the network's statistics cannot be changed
    # the noise levels of the timesteps that a noise predictor was trained at, from clean to noisy; of others, none
    training_sigmas: Callable[[], list[float]] = list
    prediction: Prediction = "velocity"

    def velocity(
        self,
        z: Tensor,
        sigma: float,
        conditioning: Any,
        *,
        branch: Branch,
        frames: Sequence[int] | None = None,
        network_sigma: float | None = None,
    ) -> Tensor:
        """Return the velocity of a single evaluation."""
        evaluation = Evaluation(z, conditioning, branch, network_sigma=network_sigma)
        (velocity,) = self.velocities(sigma, [evaluation], frames)
        return velocity

    def normalize_over_clip(self) -> contextlib.AbstractContextManager[None]:
        """Let the group norms of residual blocks take their statistics over all frames of a clip, inside the block.

        Only a network that takes frames as a batch of images has the choice; another one stays as it is.
        """
        return self.clip_norms.use() if self.clip_norms else contextlib.nullcontext()

    def get_attention_hooks(self) -> LayerHooks:
        """Return the attention hooks of a model that has them, as `METHOD.requires` assures."""
        assert self.attention_hooks is not None
        return self.attention_hooks

    def get_network(self) -> nn.Module:
        """Return the network of a model that takes adapters, as `METHOD.requires` assures."""
        assert self.network is not None
        return self.network


class VelocityFunction(Protocol):
    """Return the velocity of one evaluation; the arguments are those of `VelocityField.velocity`.

    A model that takes no `network_sigma`, which one from a plug-in may not, is given none.
    """

    def __call__(
        self,
        z: Tensor,
        sigma: float,
        conditioning: Any,
        *,
        branch: Branch,
        frames: Sequence[int] | None = None,
        network_sigma: float | None = None,
    ) -> Tensor: ...


def evaluate_in_turn(
    velocity: VelocityFunction,
    sigma: float,
    evaluations: Sequence[Evaluation],
    frames: Sequence[int] | None = None,
) -> list[Tensor]:
    """Run evaluations one after another, in their order. The default of `VelocityField.velocities`."""
    found = []
    for e in evaluations:
        known = e.kept.velocity if e.kept else None
        if known is None and e.network_sigma is None:
            known = velocity(e.z, sigma, e.conditioning, branch=e.branch, frames=frames)
        elif known is None:
            known = velocity(
                e.z,
                sigma,
                e.conditioning,
                branch=e.branch,
                frames=frames,
                network_sigma=e.network_sigma,
            )
        if e.kept:
            e.kept.velocity = known
        found.append(known)
    return confine_to_regions(evaluations, found)


def find_lender(evaluations: Sequence[Evaluation], evaluation: Evaluation) -> int:
    """Return the index of the source evaluation that an evaluation equals outside its region."""
    branches = [e.branch for e in evaluations]
    own: Branch = "src+" if evaluation.branch.endswith("+") else "src-"
    return branches.index(own if own in branches else "src+")


def find_lenders(evaluations: Sequence[Evaluation]) -> set[int]:
    """Return the indices of the source evaluations whose keys and values others see outside their region."""
    return {
        find_lender(evaluations, evaluation)
        for evaluation in evaluations
        if evaluation.region is not None and evaluation.region.any()
    }


def confine_to_regions(
    evaluations: Sequence[Evaluation], velocities: Sequence[Tensor]
) -> list[Tensor]:
    """Return velocities that are the source's outside each evaluation's region."""
    import torch

    confined = []
    for evaluation, velocity in zip(evaluations, velocities, strict=True):
        if evaluation.region is not None:
            source = velocities[find_lender(evaluations, evaluation)]
            inside = evaluation.region.to(velocity.device, non_blocking=True)
            velocity = torch.where(inside, velocity, source)
        confined.append(velocity)
    return confined


def snap_timesteps(field: VelocityField) -> VelocityField:
    """Return a field whose network is given integer timesteps: sigma is snapped before every evaluation."""

    def velocities(
        sigma: float, evaluations: Sequence[Evaluation], frames: Sequence[int] | None = None
    ) -> list[Tensor]:
        return field.velocities(field.snap_timestep(sigma), evaluations, frames)

    return replace(field, velocities=velocities)


@dataclass(frozen=True)
class Step:
    """The state of an edit after an update: everything that is needed to resume from there.

    stage: one of STAGES; index: the number of finished steps of that stage; count: how many steps the stage has.
    state: named tensors that the method needs in addition to z. adapters: what was fitted to the clip, by name, at the
    step that finishes it; it is saved for other runs. segment: the latent frames (first, end) that the step belongs to;
    None: all. preview: the edited clip as it looks from here, 1 c f h w; the sampling loop adds it, where the method
    does not.
    """

    stage: str
    index: int
    count: int
    z: Tensor  # the edited latent, 1 c f h w
    state: dict[str, Tensor] = field(default_factory=dict)
    adapters: dict[str, Tensor] = field(default_factory=dict)
    segment: tuple[int, int] | None = None
    preview: Tensor | None = None


@dataclass(frozen=True)
class ImageModel:
    """An image model over the same latents, with its own conditionings of both prompts."""

    field: VelocityField
    source: Any
    target: Any


@dataclass(frozen=True)
class Pixels:
    """The fitted source frames and the backbone's own codec, for the methods that need pixels."""

    frames: Callable[[], Iterable[Tensor]]  # 3 H W in [0, 1], in order; each call starts again
    encode: Callable[..., Tensor]  # (frames[, eps of a sample]) -> 1 c f h w
    decode: Callable[[Tensor], Iterator[Tensor]]
    condition: Callable[[Any], Any]  # a Prompt to a conditioning
    stride: tuple[int, int, int]  # pixels per latent cell: time, height, width


@dataclass(frozen=True)
class TargetArea:
    """One of several masks of an edit, and the words that drive the edit there."""

    mask: Tensor  # 1 1 f h w in [0, 1]
    edit_tokens: tuple[int, ...]  # positions of the words' tokens in the target prompt
    text: str = ""  # the words; empty: not known


@dataclass(frozen=True)
class EditInputs:
    """What an edit is about."""

    latent: Tensor  # the clean latent of the source clip, 1 c f h w
    source: Any  # conditioning of the prompt that describes the clip; opaque
    target: Any  # conditioning of the prompt that describes the edited clip; opaque
    mask: Tensor | None = None  # 1 1 f h w in [0, 1]: where the edit may show; None: everywhere
    # the parts of the mask with words of their own, for methods that read them; empty: one for all words
    areas: tuple[TargetArea, ...] = ()
    seed: int = 0
    image_model: ImageModel | None = None  # for methods that use one
    # what an earlier run fitted to this clip with the same settings, by name
    adapters: dict[str, Tensor] | None = None
    pixels: Pixels | None = None
    # latent frames (first, end) of each part, for methods that edit a long clip in segments
    segments: tuple[tuple[int, int], ...] = ()
    first_frame: Tensor | None = None  # edited, 3 H W, for a model that is conditioned on it
    keyframes: Mapping[int, Tensor] = field(default_factory=dict)  # edited; by the segment's start

    def apply_mask(self, change: Tensor) -> Tensor:
        """Return the change where the mask allows it, and 0 elsewhere."""
        return change if self.mask is None else masking.apply_mask(self.mask, change)

    def blend_outside(self, z: Tensor, outside: Tensor) -> Tensor:
        """Return z where the mask allows a change, and `outside` elsewhere."""
        return z if self.mask is None else masking.blend_by_mask(self.mask, z, outside)

    def choose_region(self, setting: str) -> Tensor | None:
        """Return where the target is evaluated, 1 1 f h w boolean on the CPU; None: everywhere.

        setting: mask, where the mask allows a change; or off.
        """
        if setting == "off" or self.mask is None:
            return None
        region = (self.mask > 0).cpu()
        return None if region.all() else region

    def get_pixels(self) -> Pixels:
        """Return the access to pixels, which the sampling loop always gives."""
        assert self.pixels is not None
        return self.pixels


@dataclass(frozen=True)
class Sampler:
    """The field, the noise levels and the first step of a sampling loop."""

    field: VelocityField
    sigmas: list[float]  # steps + 1, from noisy to 0
    first_step: int


def begin(field: VelocityField, inputs: EditInputs, config: SamplingConfig) -> Sampler:
    """Return what a sampling loop starts with, by the settings that all methods share."""
    sigmas = field.sigmas(config.steps, config.shift, config.schedule, inputs.latent.shape[2:])
    first_step = config.steps - round(config.strength * config.steps)
    return Sampler(choose_timesteps(field, config), sigmas, first_step)


def choose_timesteps(field: VelocityField, config: SamplingConfig) -> VelocityField:
    """Return the field with integer or exact timesteps, as the settings say."""
    return snap_timesteps(field) if config.timesteps == "whole" else field


def initial_state(resume: Step | None, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the latent and the state to begin with: those of `resume`, or `z` and an empty state."""
    return (z, {}) if resume is None else (resume.z, resume.state)


def remaining_steps(resume: Step | None, stage: str, first: int, end: int) -> range:
    """Return the steps of a stage that are not done yet, of `first` to `end`."""
    if resume is None or STAGES.index(resume.stage) < STAGES.index(stage):
        return range(first, end)
    if resume.stage == stage:
        return range(resume.index, end)
    return range(0)
