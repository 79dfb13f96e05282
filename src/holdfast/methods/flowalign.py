"""FlowAlign (arXiv:2505.23145): FlowEdit with the source prompt as the negative, and a pull towards the source.

v_p = V(p, source) + w [V(p, target) - V(p, source)],  v_q = V(q, source)
q = (1 - sigma) x + sigma eps,  p = z + q - x
z <- z + (sigma' - sigma)(v_p - v_q) + zeta [(q - sigma v_q) - (p - sigma v_p)]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..base.schema import Guidance, Number, Share, Steps, setting
from ..sampling.field import (
    EditInputs,
    Step,
    VelocityField,
    begin,
    initial_state,
    remaining_steps,
)
from ..sampling.guidance import GuidedPoint, guided_velocities
from ..sampling.noise import add_noise, keyed_noise
from ..sampling.settings import SamplingConfig
from .base import MethodInfo

METHOD = MethodInfo()


@dataclass(frozen=True)
class Config(SamplingConfig):
    """The authors' values for images, with three evaluations per step.

    The community's port to Wan uses 50 steps, strength 0.7, w 19.5 and zeta 0.001.
    """

    steps: Steps = setting(33, "number of steps; none is skipped")
    strength: Share = setting(1.0, "share of the schedule that is run")
    target_guidance: Guidance = setting(13.5, "w; the paper says 7.5, the code's command line 13.5")
    zeta: Number = setting(
        0.01, "zeta: weight of the pull of the clean estimates towards each other"
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    sampler = begin(field, inputs, config)
    sigmas, first = sampler.sigmas, sampler.first_step
    x = inputs.latent
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
            GuidedPoint(p, target, "tgt", config.target_guidance),
        )
        pull = (sigma * (v_p - v_q)) - (z - x)  # (q - sigma v_q) - (p - sigma v_p)
        change = (sigma_next - sigma) * (v_p - v_q) + config.zeta * pull
        z = z + inputs.apply_mask(change)
        yield Step("edit", i + 1, config.steps, z)
