"""UniEdit-Flow (arXiv:2504.13109): Uni-Inv to a middle level, then Uni-Edit: both prompts on one state, no guidance.

g = V(z, target) - V(z, source);  m = g's mean over channels, scaled to [0, 1] over the clip
z <- z + (sigma' - sigma) [ omega (1 + m) g + m V(z, target) + (1 - m) V(z, source) ]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from ..base.schema import Field, Number, ScheduleName, Share, Shift, Steps, settings_class
from ..sampling.field import (
    EditInputs,
    Evaluation,
    Step,
    VelocityField,
    begin,
    initial_state,
    remaining_steps,
)
from ..sampling.inversion import drop_latent, load_latent, store_latent, uni_inv_step
from ..sampling.masking import contrast_map
from ..sampling.perturbation import UNUSED_UNLESS, PerturbedConfig, perturbed_source
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

METHOD = MethodInfo(draws_noise="sarp", unused_unless=UNUSED_UNLESS)


@settings_class
class Config(PerturbedConfig):
    """The values of the authors' script for Wan. Its defaults are 15 steps and alpha 0.6."""

    steps: Steps = Field(default=25, description="number of steps of the noise schedule")
    strength: Share = Field(
        default=0.8, description="alpha: the share of the schedule that is inverted"
    )
    omega: Number = Field(default=5.0, description="omega: strength of the guidance along g")
    contrast: Literal["signed", "abs"] = Field(
        default="signed",
        description="m from the signed mean of g (their code for video), or from magnitudes (for images)",
    )
    invert_with_source: bool = Field(
        default=False,
        description="invert with the source prompt; the authors invert with the negative prompt, "
        "which is empty by default",
    )
    shift: Shift = Field(
        default=None,
        description="shift of the noise schedule; the authors' is 3; none: the backbone's own",
    )
    schedule: ScheduleName = Field(
        default="euler", description="how the noise levels are spaced; the authors' is euler"
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    sampler = begin(field, inputs, config)
    field, x = sampler.field, inputs.latent
    count = int(config.strength * config.steps + 1e-9)
    rising = sampler.sigmas[::-1][: count + 1]  # from clean to the middle

    def velocity(z: Tensor, sigma: float) -> Tensor:
        branch = "src+" if config.invert_with_source else "src-"
        return field.velocity(z, sigma, inputs.source, branch=branch)

    z, state = initial_state(resume, x if resume else perturbed_source(inputs, config))
    for i in remaining_steps(resume, "invert", 0, count):
        last = state["last"] if i else velocity(z, 0.0)
        z, last = uni_inv_step(velocity, z, last, rising[i], rising[i + 1])
        state = state if inputs.mask is None else store_latent(state, i + 1, z)
        state = state | {"last": last}
        yield Step("invert", i + 1, count, z, state)
    state = {name: value for name, value in state.items() if name != "last"}
    for i in remaining_steps(resume, "edit", 0, count):
        level = count - i  # index in `rising` of the noise level before this step
        sigma, sigma_next = rising[level], rising[level - 1]
        v_target, v_source = field.velocities(
            sigma,
            [Evaluation(z, inputs.target, "tgt+"), Evaluation(z, inputs.source, "src+")],
        )
        g = v_target - v_source
        m = contrast_map(g, config.contrast)
        guided = config.omega * (1 + m) * g + m * v_target + (1 - m) * v_source
        z = z + (sigma_next - sigma) * guided
        if inputs.mask is not None:
            z = inputs.blend_outside(z, load_latent(state, x, level - 1))
        state = drop_latent(state, level)
        yield Step("edit", i + 1, count, z, state)
