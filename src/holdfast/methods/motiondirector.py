"""MotionDirector (Zhao et al., arXiv:2310.08465): adapters learn the motion of a clip, apart from its appearance.

spatial adapters: learn one random frame, |eps - eps_theta|^2 (Eq. 2)
temporal adapters: with the spatial ones, learn the clip (Eq. 3) and what is left without an anchor frame (Eq. 6),
                   |eps - eps_theta|^2 + |phi(eps) - phi(eps_theta)|^2,  phi(eps_i) = sqrt(b^2 + 1) eps_i - b eps_anchor
The temporal adapters alone sample with the target prompt, from noise sqrt(p) inverted + sqrt(1 - p) random (Eq. 7).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from ..base.schema import (
    Count,
    Field,
    Guidance,
    Range,
    Share,
    Steps,
    TuningRate,
    settings_class,
)
from ..sampling import ddim
from ..sampling.field import (
    EditInputs,
    Step,
    VelocityField,
    choose_timesteps,
    remaining_steps,
)
from ..sampling.guidance import guided_velocity
from ..sampling.noise import add_noise, keyed_integer, keyed_noise
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention import Layer
    from ..sampling.adapters import Adapters
    from ..sampling.tuning import Gradients

TUNING: tuple[str, ...] = ("rank", "dropout", "learning_rate", "skip_spatial", "debias")
INVERSION: tuple[str, ...] = ("inversion_steps", "inversion_prompt", "inversion_timestep")
METHOD = MethodInfo(
    requires=frozenset({"text_attention", "spatial_attention", "temporal_attention"}),
    fits_adapters=("tuning_steps", *TUNING),
    fits_to_prompt=True,
    unused_unless={
        **dict.fromkeys(TUNING, "tuning_steps"),
        **dict.fromkeys(INVERSION, "noise_prior"),
    },
)
INITIAL_NOISE = 2  # number of the draw of the noise that sampling begins with; 1 is tuning's
SPATIAL_NUMBERS = 10_000  # number of the first spatial adapter, for its initial values


@settings_class
class Config(ddim.DDIMConfig):
    """The authors' values for a single video."""

    steps: Steps = Field(default=30, description="number of steps of the noise schedule")
    inversion_prompt: Literal["source", "negative"] = Field(
        default="negative",
        description="the prompt of the inversion; negative: the negative prompt, which is empty by default",
    )
    target_guidance: Guidance = Field(
        default=12.0, description="guidance scale of the target prompt"
    )
    noise_prior: Share = Field(
        default=0.0,
        description="p: share of the inverted clip in the noise that sampling begins with; the authors' script has 0, "
        "their configuration 0.5",
    )
    tuning_steps: Count = Field(default=150, description="iterations of tuning; 0: none")
    rank: Annotated[int, Range(1, 256)] = Field(default=32, description="rank of the adapters")
    dropout: Annotated[float, Range(0, 0.9)] = Field(
        default=0.1, description="share of an adapter's output that is dropped while it is tuned"
    )
    learning_rate: TuningRate = Field(default=5e-4, description="learning rate of tuning")
    skip_spatial: Share = Field(
        default=0.2,
        description="share of the iterations without the spatial adapters, as released; the paper states none",
    )
    debias: Annotated[float, Range(0, 100)] = Field(
        default=1.0, description="b: how much of the anchor frame's noise is taken away"
    )


@dataclass(frozen=True)
class AdapterPair:
    """The adapters over space and over time."""

    spatial: Adapters
    temporal: Adapters

    def enable(self, spatial: bool, temporal: bool) -> None:
        self.spatial.enable(spatial)
        self.temporal.enable(temporal)

    def set_dropout(self, key: str) -> None:
        """Choose what dropout drops, by a key; drop nothing if it is empty."""
        from ..sampling.tuned_layers import LowRank

        for path, layer in self.spatial.join(self.temporal).layers.items():
            assert isinstance(layer, LowRank)
            layer.dropout_key = key and f"{key}/{path}"


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    from ..sampling.adapters import mount_adapters

    if not round(config.strength * config.steps):
        return
    field = choose_timesteps(field, config)
    if not config.tuning_steps:
        yield from sample(field, None, inputs, config, resume)
        return
    paths = find_paths(field, "temporal", ("attn1", "attn2", "ff"))
    options = config.rank, inputs.seed, config.dropout
    with mount_adapters(field.get_network(), paths, *options) as temporal:
        yield from tune_pair(field, temporal, inputs, config, resume)
        yield from sample(field, temporal, inputs, config, resume)


def find_paths(field: VelocityField, axis: str, parts: Sequence[str]) -> list[str]:
    """Return the paths of the linear layers in some parts of the transformer blocks along an axis."""
    from ..sampling.adapters import find_linear_layers

    def is_self(layer: Layer) -> bool:
        return layer.kind == "self" and layer.axis == axis

    layers = filter(is_self, field.get_attention_hooks().layers)
    blocks = {layer.path.rpartition(".")[0] for layer in layers}
    return find_linear_layers(
        field.get_network(), {f"{b}.{part}" for b in blocks for part in parts}
    )


def tune_pair(
    field: VelocityField,
    temporal: Adapters,
    inputs: EditInputs,
    config: Config,
    resume: Step | None,
) -> Iterator[Step]:
    """Fit both kinds of adapters, and keep the temporal ones."""
    from ..sampling.adapters import mount_adapters
    from ..sampling.tuning import TuningOptions, tune

    paths = find_paths(field, "spatial", ("attn1", "ff"))
    made = config.rank, inputs.seed, config.dropout, SPATIAL_NUMBERS
    options = TuningOptions(config.tuning_steps, config.learning_rate, inputs.seed)
    with mount_adapters(field.get_network(), paths, *made) as spatial:
        pair = AdapterPair(spatial, temporal)
        gradients = pair_gradients(field, pair, inputs, config)
        yield from tune(spatial.join(temporal), gradients, options, inputs, resume, temporal)


def pair_gradients(
    field: VelocityField, pair: AdapterPair, inputs: EditInputs, config: Config
) -> Gradients:
    """Return the gradients of an iteration's losses: of the spatial adapters, then of the temporal ones.

    Both passes have the same noise and noise level. Where the spatial adapters are skipped, they have no gradients.
    """
    from ..sampling.tuning import differentiate, draw_training_sigma, predict_clip

    x, seed, count = inputs.latent, inputs.seed, inputs.latent.shape[2]

    def compute(i: int) -> list[Tensor | None]:
        eps, sigma = keyed_noise(x, seed, i, repeat=1), draw_training_sigma(field, seed, i)
        frame, anchor = (keyed_integer(seed, i, 0, count, name) for name in ("frame", "anchor"))
        is_skipped = keyed_integer(seed, i, 0, 1000, "skip") < 1000 * config.skip_spatial

        def spatial_loss() -> Tensor:
            at = slice(frame, frame + 1)
            some = x[:, :, at], eps[:, :, at], sigma, inputs.source
            predicted, true = predict_clip(field, *some, frames=(frame,))
            return (predicted - true).square().mean()

        def temporal_loss() -> Tensor:
            pair_of_noises = predict_clip(field, x, eps, sigma, inputs.source)
            return temporal_error(*pair_of_noises, anchor, config.debias)

        spatial: Sequence[Tensor | None] = [None] * len(pair.spatial.parameters())
        if not is_skipped:
            pair.enable(True, False)
            pair.set_dropout(f"{seed}/{i}/frame")
            spatial = differentiate(pair.spatial, spatial_loss)
        pair.enable(not is_skipped, True)
        pair.set_dropout(f"{seed}/{i}/clip")
        temporal = differentiate(pair.temporal, temporal_loss)
        pair.enable(False, False)
        pair.set_dropout("")
        return [*spatial, *temporal]

    return compute


def temporal_error(predicted: Tensor, true: Tensor, anchor: int, b: float) -> Tensor:
    """Return |eps - eps_theta|^2 + |phi(eps) - phi(eps_theta)|^2, each a mean. phi is linear."""
    error = predicted - true
    debiased = math.sqrt(b**2 + 1) * error - b * error[:, :, anchor : anchor + 1]
    return error.square().mean() + debiased.square().mean()


def sample(
    field: VelocityField,
    temporal: Adapters | None,
    inputs: EditInputs,
    config: Config,
    resume: Step | None,
) -> Iterator[Step]:
    """Sample with the temporal adapters. Outside the mask is the clip, with noise."""
    x, kept = inputs.latent, temporal.tensors() if temporal else {}
    noise = keyed_noise(x, inputs.seed, 0, INITIAL_NOISE)
    clean = field.clean_sigma if config.last_level == "scheduler" else 0.0
    sigmas = [*field.sigmas(config.steps, config.shift, config.schedule, x.shape[2:])[:-1], clean]
    first = config.steps - round(config.strength * config.steps)
    z = x
    if resume is not None and resume.stage == "edit":
        z = resume.z
    else:
        mixed = yield from mix_noise(field, noise, inputs, config, resume, kept)
        z = begin_at(x, mixed, sigmas[first], is_whole=first == 0)
    if temporal:
        temporal.enable(True)
    for i in remaining_steps(resume, "edit", first, config.steps):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        velocity = guided_velocity(field, z, sigma, inputs.target, "tgt", config.target_guidance)
        z = inputs.blend_outside(
            z + (sigma_next - sigma) * velocity, add_noise(x, sigma_next, noise)
        )
        if i + 1 == config.steps:
            z = inputs.blend_outside(z / ddim.scale_of(clean), x)
        yield Step("edit", i + 1, config.steps, z, kept)


def mix_noise(
    field: VelocityField,
    noise: Tensor,
    inputs: EditInputs,
    config: Config,
    resume: Step | None,
    kept: dict[str, Tensor],
) -> Generator[Step, None, Tensor]:
    """Return sqrt(p) inverted + sqrt(1 - p) noise. Where p is not 0, invert the clip without adapters.

    kept: tensors that the state of every step holds.
    """
    share = config.noise_prior
    if not share:
        return noise
    shape = inputs.latent.shape[2:]
    *noisy, _ = field.sigmas(config.inversion_steps, config.shift, config.schedule, shape)
    clean = field.clean_sigma if config.last_level == "scheduler" else 0.0
    levels = ddim.make_levels([*noisy, clean], 0, clean, noisy[::-1], config.inversion_timestep)
    levels = replace(levels, numbers={})  # no latent but the noisiest is used
    inversion = ddim.invert(field, inputs, config, levels, resume)
    z, _ = yield from ddim.keep_in_state(inversion, kept)
    inverted = z / ddim.scale_of(levels.rising[-1])
    return math.sqrt(share) * inverted + math.sqrt(1 - share) * noise


def begin_at(x: Tensor, noise: Tensor, sigma: float, is_whole: bool) -> Tensor:
    """Return the latent that sampling begins with at noise level sigma.

    is_whole: the whole schedule is sampled, so that nothing but noise is there, as in the paper. Otherwise it is the
    clip with noise.
    """
    return noise * ddim.scale_of(sigma) if is_whole else add_noise(x, sigma, noise)
