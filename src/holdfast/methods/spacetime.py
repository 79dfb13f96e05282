"""Space-Time Features (arXiv:2311.17009): another object that moves as the source's does, on a text-to-video U-Net.

The clip is inverted by DDIM. The first noise has the low frequencies of the inverted one, and the high frequencies of
fresh noise: x_T = LF(x_inverted) + eps - LF(eps). With the features phi of a layer, and m_i their mean over the space
of frame i (the spatial marginal mean),

L = sum over layers of mean_ij [1 - cos(m_i - m_j, m^src_i - m^src_j)]

is minimised by Adam in x_t before each of the first steps of DDIM. phi^src is of the inverted clip at the same level.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from ..base.errors import UserError
from ..base.lazy import functional
from ..base.schema import Count, Field, Guidance, Number, Range, Share, Steps, settings_class
from ..models import feature_hooks
from ..sampling import ddim
from ..sampling.field import (
    Branch,
    EditInputs,
    Step,
    VelocityField,
    choose_timesteps,
    remaining_steps,
)
from ..sampling.guidance import guided_velocity
from ..sampling.noise import add_noise, keyed_noise
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention.hooks import Layer

METHOD = MethodInfo(
    requires=frozenset({"text", "features", "temporal_attention"}),
    gradient_iterations="feature_iterations",
    unused_unless={
        "feature_iterations": "feature_share",
        "learning_rate_first": "feature_share",
        "learning_rate_last": "feature_share",
    },
)
# The layers whose features are matched, in the order in which the network runs them: of the second block on the way up
# the branch of its second residual block, the convolution over time after it, and what enlarges the block's output.
FEATURE_PATHS = (
    "up_blocks.1.resnets.1.conv2",
    "up_blocks.1.temp_convs.1",
    "up_blocks.1.upsamplers.0",
)
# the means m of a layer, b c f, by its path and the latent frames of the call
Motion: TypeAlias = "dict[tuple[str, tuple[int, ...]], Tensor]"


@settings_class
class Config(ddim.DDIMConfig):
    """The values of the released configuration."""

    inversion_steps: Steps = Field(
        default=999, description="steps of the whole schedule in which the clip is inverted"
    )
    target_guidance: Guidance = Field(default=10.0, description="guidance scale of the edit")
    feature_share: Share = Field(
        default=0.4,
        description="share of the steps, the noisiest, before which the source's motion features are matched; 0: off",
    )
    feature_iterations: Count = Field(
        default=10, description="iterations of Adam on the latent before each of these steps"
    )
    learning_rate_first: Number = Field(
        default=0.007, description="learning rate of Adam before the first step"
    )
    learning_rate_last: Number = Field(
        default=0.004, description="the learning rate changes linearly towards this"
    )
    frequency_factor: Annotated[int, Range(1, 64)] = Field(
        default=4,
        description="low frequencies of the first noise, which are the inverted clip's, remain when it is made smaller "
        "by this factor and larger again; 1: all of them",
    )
    variant: Literal["released", "paper"] = Field(
        default="released",
        description="released: after each step but the last the latent is noised by one step and denoised again, and "
        "the first noise is extrapolated from the noisiest inverted level; paper: neither",
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    field = choose_timesteps(field, config)
    levels = plan_levels(field, inputs, config)
    rates = learning_rates(config, levels.first_step)
    paths = find_features(field) if rates else ()
    z, state = yield from ddim.invert(field, inputs, config, levels, resume)
    for i in remaining_steps(resume, "edit", levels.first_step, config.steps):
        sigma, sigma_next = levels.sigmas[i], levels.sigmas[i + 1]
        inverted = state[ddim.inverted_name(config.steps - i)]
        if i == levels.first_step:
            z = inputs.blend_outside(first_latent(inputs, config, levels, z, inverted), inverted)
        if i in rates:
            source = measure_motion(field, inverted, sigma, inputs.source, "src+", paths)
            z = match_motion(field, z, sigma, inputs.target, source, config, rates[i])
        z = denoise(field, inputs, config, z, sigma, sigma_next)
        if config.variant == "released" and i + 1 < config.steps:
            z = levels.hold(inputs, state, i + 1, z)
            z = noise_up(z, sigma_next, sigma, keyed_noise(z, inputs.seed, i, repeat=1))
            z = denoise(field, inputs, config, z, sigma, sigma_next)
        z = levels.hold(inputs, state, i + 1, z)
        state = ddim.drop_above(state, config.steps - i - 1)
        yield Step("edit", i + 1, config.steps, z, state)


def plan_levels(field: VelocityField, inputs: EditInputs, config: Config) -> ddim.Levels:
    """Return the noise levels. As released, the inversion rises to its noisiest level whatever the strength."""
    levels = ddim.plan_levels(field, inputs, config)
    if config.variant == "paper" or levels.first_step == config.steps:
        return levels
    shape = inputs.latent.shape[2:]
    inverted = field.sigmas(config.inversion_steps, config.shift, config.schedule, shape)[:-1]
    inverted = ddim.join_levels(inverted, levels.sigmas[:-1])
    clean, timestep = levels.sigmas[-1], config.inversion_timestep
    return ddim.make_levels(levels.sigmas, levels.first_step, clean, inverted, timestep)


def learning_rates(config: Config, first_step: int) -> dict[int, float]:
    """Return the learning rate of each step before which features are matched."""
    unmatched = int(config.steps * (1 - config.feature_share) + 1e-9)
    steps = range(first_step, config.steps - unmatched)
    slope = (config.learning_rate_last - config.learning_rate_first) / max(len(steps) - 1, 1)
    return {step: config.learning_rate_first + k * slope for k, step in enumerate(steps)}


def find_features(field: VelocityField) -> tuple[str, ...]:
    """Return the paths of the layers whose features are matched. Raise UserError if the network has none of them."""
    layers = field.feature_hooks.layers if field.feature_hooks else ()
    known = {layer.path for layer in layers}
    paths = tuple(path for path in FEATURE_PATHS if path in known)
    if not paths:
        raise UserError(
            "this network has no second block on the way up, whose features spacetime matches",
            "use a text-to-video model that has one, or set feature_share to 0",
        )
    return paths


def first_latent(
    inputs: EditInputs, config: Config, levels: ddim.Levels, noisiest: Tensor, inverted: Tensor
) -> Tensor:
    """Return the latent that sampling starts from.

    noisiest, inverted: the clip at the last inverted level, and at the level of the first step. As released, the noise
    that the noisiest one holds besides the clip is added to the clip at the level of the first step.
    """
    sigma = levels.sigmas[levels.first_step]
    if config.variant == "released":
        top = levels.rising[-1]
        eps = (noisiest - (1 - top) * inputs.latent) / top
        inverted = add_noise(inputs.latent, sigma, eps)
    noise = ddim.scale_of(sigma) * keyed_noise(inverted, inputs.seed, 0)
    factor = config.frequency_factor
    return low_frequencies(inverted, factor) + noise - low_frequencies(noise, factor)


def low_frequencies(x: Tensor, factor: int) -> Tensor:
    """Return each frame of x, b c f h w, made smaller by a factor and larger again."""
    if factor == 1:
        return x
    frames, size = x.transpose(1, 2).flatten(0, 1), x.shape[-2:]
    for each in ([max(n // factor, 1) for n in size], list(size)):
        frames = functional.interpolate(
            frames, each, mode="bilinear", align_corners=True, antialias=True
        )
    return frames.unflatten(0, (len(x), -1)).transpose(1, 2)


def denoise(
    field: VelocityField,
    inputs: EditInputs,
    config: Config,
    z: Tensor,
    sigma: float,
    sigma_next: float,
) -> Tensor:
    """Return z after a DDIM step with the target prompt."""
    velocity = guided_velocity(field, z, sigma, inputs.target, "tgt", config.target_guidance)
    return z + (sigma_next - sigma) * velocity


def noise_up(z: Tensor, sigma: float, sigma_next: float, eps: Tensor) -> Tensor:
    """Return z with noise added, from level sigma to the noisier sigma_next.

    x' = r x + sqrt(s'^2 - (r s)^2) eps with r = a' / a, in terms of z = x / (a + s).
    """
    ratio = (1 - sigma_next) / (1 - sigma)
    return ratio * z + (sigma_next**2 - (ratio * sigma) ** 2) ** 0.5 * eps


def measure_motion(
    field: VelocityField,
    z: Tensor,
    sigma: float,
    conditioning: Any,
    branch: Branch,
    paths: Sequence[str],
) -> Motion:
    """Return the mean over space of each frame's features, for each layer. The network stops after the last layer."""

    def average(layer: Layer, x: Tensor) -> Tensor:
        return x.float().mean((3, 4))

    with feature_hooks.record_until_last(field, paths, z.shape[2], average) as found:
        field.velocity(z, sigma, conditioning, branch=branch)
    return {(layer.path, layer.frames): value for layer, value in found.items()}


def match_motion(
    field: VelocityField,
    z: Tensor,
    sigma: float,
    conditioning: Any,
    source: Motion,
    config: Config,
    rate: float,
) -> Tensor:
    """Return z after some iterations of a new Adam that minimise L in x. source: m^src."""
    import torch

    from ..sampling.tuning import checkpoint_gradients

    scale, paths = ddim.scale_of(sigma), list(dict.fromkeys(path for path, _ in source))
    # The last bit of a sum depends on the memory layout of its input, which a resumed run does not restore.
    x = (z / scale).detach().contiguous().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=rate)
    with torch.enable_grad(), checkpoint_gradients(field.get_network()):
        for _ in range(config.feature_iterations):
            motion = measure_motion(field, scale * x, sigma, conditioning, "tgt+", paths)
            (x.grad,) = torch.autograd.grad(motion_loss(motion, source), x)
            optimizer.step()
    return scale * x.detach()


def motion_loss(motion: Mapping[Any, Tensor], source: Mapping[Any, Tensor]) -> Tensor:
    """Return L. Where a long clip runs in several windows, each has its own sum."""
    losses = []
    for key, value in motion.items():
        ours, theirs = (m[..., :, None] - m[..., None, :] for m in (value, source[key]))  # b c f f
        losses.append((1 - functional.cosine_similarity(ours, theirs, dim=1)).mean())
    return sum(losses[1:], losses[0])
