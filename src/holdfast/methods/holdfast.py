"""Holdfast's own method: FlowEdit inside a mask, led away from the source prompt as well.

x_sigma = (1 - sigma) x + sigma eps,  p = z + x_sigma - x
v_p = V(p, negative) + g [V(p, target) - V(p, negative)] + h [V(p, target) - V(p, source)]
z <- z + (sigma' - sigma) mask [v_p - V(x_sigma, source)]

The velocities at p are computed inside the mask alone, with the source's keys and values outside. While sigma >= tau,
FlowAnchor's SAR (arXiv:2604.22586, Eqs. 6-9) refines the attention of V(p, target). docs/holdfast.md has the
measurements behind each choice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..base.notices import warn_user
from ..base.schema import (
    Field,
    Guidance,
    Number,
    RegionSetting,
    Share,
    SolverName,
    Steps,
    settings_class,
)
from ..sampling.field import EditInputs, Step, VelocityField, initial_state, remaining_steps
from ..sampling.guidance import GuidedPoint, guided_velocities
from ..sampling.guidance_schedule import GuidedConfig, begin_guided
from ..sampling.noise import add_noise, keyed_noise
from ..sampling.settings import region_field
from ..sampling.solvers import restore_solver
from . import flowanchor
from .base import MethodInfo

METHOD = MethodInfo(unmasked_suffix="no SAR", words_per_mask=True, explains=True)
OWN: dict[str, Any] = {
    "recommended": False
}  # what a model recommends for other methods is not meant for it


@settings_class
class Config(GuidedConfig):
    """What was best on the embedded Wan model; no published weights were available."""

    steps: Steps = Field(
        default=15, description="T: number of steps of the noise schedule", json_schema_extra=OWN
    )
    strength: Share = Field(
        default=0.66, description="share of the schedule that is run; more keeps less of the source"
    )
    source_guidance: Guidance = Field(
        default=1.0,
        description="guidance scale of the source prompt",
        json_schema_extra=OWN,
    )
    target_guidance: Guidance = Field(
        default=2.0,
        description="g: guidance scale of the target prompt, away from the negative prompt",
        json_schema_extra=OWN,
    )
    contrast_guidance: Number = Field(
        default=1.0, description="h: guidance of the target prompt away from the source prompt"
    )
    beta_text: Share = Field(default=0.3, description="b1: strength of SAR's text-token modulation")
    beta_video: Share = Field(
        default=0.3, description="b2: strength of SAR's spatio-temporal modulation"
    )
    tau: Share = Field(
        default=0.6, description="tau: attention is refined while sigma is at least this"
    )
    solver: SolverName = Field(
        default="euler", description="how the difference of velocities is integrated"
    )
    region: RegionSetting = region_field()


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    has_attention = field.attention_hooks is not None
    if inputs.mask is None and has_attention:
        warn_user("without a mask the target's attention is not refined; give one, or --mask auto")
    if inputs.mask is not None and not inputs.mask.any():
        return  # nothing is to be edited
    sampler = begin_guided(field, inputs, config, resume)
    sigmas, first, x = sampler.sigmas, sampler.first_step, inputs.latent
    region = inputs.choose_region(config.region)
    refine: flowanchor.Refinement = contextlib.nullcontext
    if has_attention:
        refinement = flowanchor.Config(beta_text=config.beta_text, beta_video=config.beta_video)
        refine = flowanchor.prepare_refinement(field, inputs, refinement)
    z, state = initial_state(resume, x)
    solver = restore_solver(config.solver, state)
    for i in remaining_steps(resume, "edit", first, config.steps):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        x_sigma = add_noise(x, sigma, keyed_noise(x, inputs.seed, i))
        z_sigma = x_sigma + (z - x)
        source = GuidedPoint(x_sigma, inputs.source, "src", config.source_guidance)
        target = GuidedPoint(
            z_sigma,
            inputs.target,
            "tgt",
            config.target_guidance,
            region,
            inputs.source,
            config.contrast_guidance,
        )
        with refine(i) if sigma >= config.tau else contextlib.nullcontext():
            v_source, v_target = guided_velocities(sampler.field, sigma, source, target)
        change = inputs.apply_mask(v_target - v_source)
        z, solver = solver.step(z, change, sigma, sigma_next, last=i == config.steps - 1)
        yield Step("edit", i + 1, config.steps, z, solver.to_dict() | sampler.state())
