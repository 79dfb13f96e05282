"""FlowEdit (Kulikov et al., arXiv:2412.08629), Algorithm 1: follow the difference of two velocity fields.

z <- z + (sigma' - sigma) mean_k [ V(z + x_sigma - x, target) - V(x_sigma, source) ]
x_sigma = (1 - sigma) x + sigma eps_k
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..base.schema import (
    Count,
    Field,
    Guidance,
    RegionSetting,
    Share,
    SolverName,
    Steps,
    settings_class,
)
from ..sampling.field import (
    EditInputs,
    Sampler,
    Step,
    VelocityField,
    initial_state,
    remaining_steps,
)
from ..sampling.guidance import GuidedPoint, guided_velocities, guided_velocity
from ..sampling.guidance_schedule import GuidedConfig, begin_guided
from ..sampling.noise import add_noise, keyed_noise
from ..sampling.settings import region_field
from ..sampling.solvers import restore_solver
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

METHOD = MethodInfo()


@settings_class
class Config(GuidedConfig):
    """The paper's values for its rectified-flow model with guidance of both prompts."""

    steps: Steps = Field(default=50, description="T: number of steps of the noise schedule")
    strength: Share = Field(
        default=0.66,
        description="n_max / T: the share of the schedule that is run, from its clean end; 33 steps of 50",
    )
    n_min: Count = Field(
        default=0, description="n_min: the last steps, which sample with the target prompt alone"
    )
    solver: SolverName = Field(
        default="euler",
        description="how the difference of velocities is integrated; the paper's is euler",
    )
    n_avg: Steps = Field(default=1, description="n_avg: noises that are averaged per step")
    source_guidance: Guidance = Field(
        default=3.5, description="guidance scale of the source prompt"
    )
    target_guidance: Guidance = Field(
        default=13.5, description="guidance scale of the target prompt"
    )
    region: RegionSetting = region_field()


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    sampler = begin_guided(field, inputs, config, resume)
    field, sigmas, first = sampler.field, sampler.sigmas, sampler.first_step
    x = inputs.latent
    target_only = max(first, config.steps - config.n_min)  # the first step of plain sampling
    eps = keyed_noise(x, inputs.seed, target_only)
    region = inputs.choose_region(config.region)
    z, state = initial_state(resume, x)
    solver = restore_solver(config.solver, state)
    for i in remaining_steps(resume, "edit", first, config.steps):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        if i < target_only:
            difference = mean_difference(sampler, inputs, config, z, i, region)
            is_last = i + 1 == target_only
            z, solver = solver.step(z, inputs.apply_mask(difference), sigma, sigma_next, is_last)
        else:
            if i == target_only:
                z = add_noise(x, sigma, eps) + (z - x)
            v_target = guided_velocity(
                field, z, sigma, inputs.target, "tgt", config.target_guidance
            )
            z = z + (sigma_next - sigma) * v_target
            z = inputs.blend_outside(z, add_noise(x, sigma_next, eps))
        yield Step("edit", i + 1, config.steps, z, solver.to_dict() | sampler.state())


def mean_difference(
    sampler: Sampler,
    inputs: EditInputs,
    config: Config,
    z: Tensor,
    i: int,
    region: Tensor | None = None,
) -> Tensor:
    """Return mean_k [ V(z + x_sigma - x, target) - V(x_sigma, source) ] at step i."""
    x, sigma = inputs.latent, sampler.sigmas[i]
    difference = x.new_zeros(x.shape)
    for k in range(config.n_avg):
        x_sigma = add_noise(x, sigma, keyed_noise(x, inputs.seed, i, k))
        z_sigma = x_sigma + (z - x)
        v_source, v_target = guided_velocities(
            sampler.field,
            sigma,
            GuidedPoint(x_sigma, inputs.source, "src", config.source_guidance),
            GuidedPoint(z_sigma, inputs.target, "tgt", config.target_guidance, region),
        )
        difference = difference + (v_target - v_source) / config.n_avg
    return difference
