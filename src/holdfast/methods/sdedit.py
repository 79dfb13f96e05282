"""SDEdit (Meng et al., arXiv:2108.01073): add noise to the source up to a level, then sample with the target prompt.

z <- (1 - sigma0) x + sigma0 eps
z <- z + (sigma' - sigma) V(z, target)
"""

from __future__ import annotations

from collections.abc import Iterator

from ..base.schema import Field, Guidance, Share, Timesteps, settings_class
from ..sampling.field import (
    EditInputs,
    Step,
    VelocityField,
    initial_state,
    remaining_steps,
)
from ..sampling.guidance import guided_velocity
from ..sampling.guidance_schedule import GuidedConfig, begin_guided
from ..sampling.noise import add_noise, keyed_noise
from .base import MethodInfo

METHOD = MethodInfo()


@settings_class
class Config(GuidedConfig):
    strength: Share = Field(
        default=0.7,
        description="t0: the share of the schedule that is sampled again; the paper: 0.3 to 0.6, on images",
    )
    target_guidance: Guidance = Field(
        default=5.0, description="guidance scale of the target prompt; not in the paper"
    )
    timesteps: Timesteps = Field(
        default="whole",
        description="timesteps that the network is given; not in the paper: as in Wan's own sampler",
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    sampler = begin_guided(field, inputs, config, resume)
    sigmas, first = sampler.sigmas, sampler.first_step
    x = inputs.latent
    eps = keyed_noise(x, inputs.seed, 0)
    z, _ = initial_state(resume, add_noise(x, sigmas[first], eps) if first < config.steps else x)
    for i in remaining_steps(resume, "edit", first, config.steps):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        v_target = guided_velocity(
            sampler.field, z, sigma, inputs.target, "tgt", config.target_guidance
        )
        z = z + (sigma_next - sigma) * v_target
        z = inputs.blend_outside(z, add_noise(x, sigma_next, eps))
        yield Step("edit", i + 1, config.steps, z, sampler.state())
