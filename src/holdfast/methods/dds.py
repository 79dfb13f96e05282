"""Delta denoising score, DDS (arXiv:2304.07090): descend along the target's predicted noise minus the source's.

z <- z - eta [eps^w(z_t, target) - eps^w(x_t, source)], with one noise level t and one noise for both
"""

from __future__ import annotations

from collections.abc import Iterator

from ..base.schema import RegionSetting, settings_class
from ..sampling.distillation import CleanPoint, DistillationConfig, draw_samples
from ..sampling.field import EditInputs, Step, VelocityField, initial_state
from ..sampling.settings import region_field
from .base import MethodInfo

METHOD = MethodInfo()


@settings_class
class Config(DistillationConfig):
    """The authors' values."""

    region: RegionSetting = region_field()


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    x, region = inputs.latent, inputs.choose_region(config.region)
    z, _ = initial_state(resume, x)
    for i, sample in draw_samples(field, inputs, config, resume):
        eps_target, eps_source = sample.predict_noise(
            CleanPoint(z, inputs.target, "tgt", region), CleanPoint(x, inputs.source, "src")
        )
        z = z - config.step_size(z) * inputs.apply_mask(eps_target - eps_source)
        yield Step("edit", i + 1, config.steps, z)
