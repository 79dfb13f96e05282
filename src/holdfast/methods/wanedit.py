"""Wan-Edit (FiVE-Bench, Li et al., arXiv:2503.13684): FlowEdit on Wan as its authors run it.

It differs from FlowEdit's Algorithm 1 in three points. The noise added to the source is that of the previous timestep,
while the network is given the current one. The difference of velocities is integrated by UniPC, not by Euler. Guidance
is 5 and 12.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..base.schema import (
    Field,
    Guidance,
    RegionSetting,
    Share,
    Shift,
    SolverName,
    Timesteps,
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
from ..sampling.solvers import restore_solver
from .base import MethodInfo

METHOD = MethodInfo()


@settings_class
class Config(GuidedConfig):
    """The authors' values on Wan2.1."""

    strength: Share = Field(
        default=0.82,
        description="share of the schedule that is run; it skips the first 9 of 50 steps "
        "(a later release skips 15 to 17)",
    )
    source_guidance: Guidance = Field(
        default=5.0, description="guidance scale of the source prompt"
    )
    target_guidance: Guidance = Field(
        default=12.0, description="guidance scale of the target prompt"
    )
    solver: SolverName = Field(
        default="unipc", description="how the difference of velocities is integrated"
    )
    shift: Shift = Field(
        default=None,
        description="shift of the noise schedule; the authors' is 5; none: the backbone's own",
    )
    timesteps: Timesteps = Field(
        default="whole",
        description="timesteps that the network is given; the authors' are whole numbers. "
        "The noise that is added always has one",
    )
    region: RegionSetting = region_field()


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    sampler = begin_guided(field, inputs, config, resume)
    sigmas, first = sampler.sigmas, sampler.first_step
    x = inputs.latent
    z, state = initial_state(resume, x)
    solver = restore_solver(config.solver, state)
    region = inputs.choose_region(config.region)
    for i in remaining_steps(resume, "edit", first, config.steps):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        sigma_mixed = field.snap_timestep(sigmas[i - 1]) if i else 1.0
        x_sigma = add_noise(x, sigma_mixed, keyed_noise(x, inputs.seed, i))
        z_sigma = x_sigma + (z - x)
        v_target, v_source = guided_velocities(
            sampler.field,
            sigma,
            GuidedPoint(z_sigma, inputs.target, "tgt", config.target_guidance, region),
            GuidedPoint(x_sigma, inputs.source, "src", config.source_guidance),
        )
        difference = inputs.apply_mask(v_target - v_source)
        z, solver = solver.step(z, difference, sigma, sigma_next, last=i == config.steps - 1)
        yield Step("edit", i + 1, config.steps, z, solver.to_dict() | sampler.state())
