"""FlowAlign (arXiv:2505.23145): FlowEdit with the source prompt as the negative, and a pull towards the source.

v_p = V(p, source) + w [V(p, target) - V(p, source)],  v_q = V(q, source)
q = (1 - sigma) x + sigma eps,  p = z + q - x
z <- z + (sigma' - sigma)(v_p - v_q) + zeta [(q - sigma v_q) - (p - sigma v_p)]
"""

from __future__ import annotations

from collections.abc import Iterator

from ..base.schema import Field, Guidance, Number, RegionSetting, Share, Steps, settings_class
from ..sampling.field import (
    EditInputs,
    Step,
    VelocityField,
    initial_state,
    remaining_steps,
)
from ..sampling.guidance import GuidedPoint, guided_velocities
from ..sampling.guidance_schedule import GuidedConfig, begin_guided
from ..sampling.noise import add_noise, keyed_noise
from ..sampling.settings import region_field
from .base import MethodInfo

METHOD = MethodInfo()


@settings_class
class Config(GuidedConfig):
    """The authors' values for images, with three evaluations per step.

    The community's port to Wan uses 50 steps, strength 0.7, w 19.5 and zeta 0.001.
    """

    steps: Steps = Field(default=33, description="number of steps; none is skipped")
    strength: Share = Field(default=1.0, description="share of the schedule that is run")
    target_guidance: Guidance = Field(
        default=13.5, description="w; the paper says 7.5, the code's command line 13.5"
    )
    zeta: Number = Field(
        default=0.01,
        description="zeta: weight of the pull of the clean estimates towards each other",
    )
    region: RegionSetting = region_field()


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    sampler = begin_guided(field, inputs, config, resume)
    sigmas, first = sampler.sigmas, sampler.first_step
    x, region = inputs.latent, inputs.choose_region(config.region)
    target = inputs.target.with_negative_of(inputs.source)  # guidance away from the source prompt
    z, _ = initial_state(resume, x)
    for i in remaining_steps(resume, "edit", first, config.steps):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        q = add_noise(x, sigma, keyed_noise(x, inputs.seed, i))
        p = q + (z - x)
        v_q, v_p = guided_velocities(
            sampler.field,
            sigma,
            GuidedPoint(q, inputs.source, "src"),
            GuidedPoint(p, target, "tgt", config.target_guidance, region),
        )
        pull = (sigma * (v_p - v_q)) - (z - x)  # (q - sigma v_q) - (p - sigma v_p)
        change = (sigma_next - sigma) * (v_p - v_q) + config.zeta * pull
        z = z + inputs.apply_mask(change)
        yield Step("edit", i + 1, config.steps, z, sampler.state())
