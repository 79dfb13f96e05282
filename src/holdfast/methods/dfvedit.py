"""DFVEdit (arXiv:2506.20967), conditional delta flow: the same noise is added to both clean states.

z <- z + (sigma' - sigma) [V((1 - sigma) z + sigma eps, target) - V((1 - sigma) x + sigma eps, source)]

FlowEdit's target state differs from this one by sigma (z - x). Two parts of the released code are left out: its
reinforcement of source embeddings, and its mask, which never takes effect there.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..base.schema import (
    Field,
    Guidance,
    RegionSetting,
    ScheduleName,
    Share,
    Shift,
    settings_class,
)
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
    """The authors' values."""

    strength: Share = Field(
        default=0.98, description="share of the schedule that is run; it skips the first step of 50"
    )
    source_guidance: Guidance = Field(
        default=5.0, description="guidance scale of the source prompt"
    )
    target_guidance: Guidance = Field(
        default=15.0, description="guidance scale of the target prompt"
    )
    shift: Shift = Field(
        default=None,
        description="shift of the noise schedule; the authors' is 5; none: the backbone's own",
    )
    schedule: ScheduleName = Field(
        default="native", description="how the noise levels are spaced; the authors' is euler"
    )
    region: RegionSetting = region_field()


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    sampler = begin_guided(field, inputs, config, resume)
    sigmas, first = sampler.sigmas, sampler.first_step
    x, region = inputs.latent, inputs.choose_region(config.region)
    z, _ = initial_state(resume, x)
    for i in remaining_steps(resume, "edit", first, config.steps):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        eps = keyed_noise(x, inputs.seed, i)
        x_sigma = add_noise(x, sigma, eps)
        z_sigma = add_noise(z, sigma, eps)
        v_target, v_source = guided_velocities(
            sampler.field,
            sigma,
            GuidedPoint(z_sigma, inputs.target, "tgt", config.target_guidance, region),
            GuidedPoint(x_sigma, inputs.source, "src", config.source_guidance),
        )
        z = z + (sigma_next - sigma) * inputs.apply_mask(v_target - v_source)
        yield Step("edit", i + 1, config.steps, z, sampler.state())
