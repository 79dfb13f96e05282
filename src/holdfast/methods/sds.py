"""Score distillation sampling, SDS (DreamFusion, arXiv:2209.14988), from the source on: DDS without its source branch.

z <- z - eta [eps^w(z_t, target) - eps]. It keeps what DDS subtracts, so the edit blurs. A baseline.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..base.schema import settings_class
from ..sampling.distillation import CleanPoint, DistillationConfig, draw_samples
from ..sampling.field import EditInputs, Step, VelocityField, initial_state
from .base import MethodInfo

METHOD = MethodInfo()


@settings_class
class Config(DistillationConfig):
    """The values of DDS's authors, who compare with SDS."""


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    z, _ = initial_state(resume, inputs.latent)
    for i, sample in draw_samples(field, inputs, config, resume):
        (eps_target,) = sample.predict_noise(CleanPoint(z, inputs.target, "tgt"))
        z = z - config.step_size(z) * inputs.apply_mask(eps_target - sample.eps)
        yield Step("edit", i + 1, config.steps, z)
