"""DDIM sampling that begins at noise, or at a noised source: what methods on noise-prediction models share.

The last step goes to the noise level that the model's own scheduler gives a clean latent. The result is x there, not z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..base.schema import Field, settings_class
from . import field as fields
from .ddim import scale_of
from .field import EditInputs, Sampler, VelocityField
from .noise import add_noise, keyed_noise
from .settings import SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor


@settings_class
class FromNoiseConfig(SamplingConfig):
    """The settings of a method that samples from noise."""

    last_level: Literal["scheduler", "clean"] = Field(
        default="scheduler",
        description="the noise level of a clean latent: that of the model's scheduler (of Stable Diffusion timestep "
        "0), or none",
    )


@dataclass(frozen=True)
class SameNoise:
    """Noise that is the same in all frames of a latent."""

    seed: int
    step: int = 0

    def __call__(self, like: Tensor) -> Tensor:
        """Return noise of the shape of `like`, b c f h w."""
        return keyed_noise(like[:, :, :1], self.seed, self.step).expand_as(like)


@dataclass(frozen=True)
class NoiseSampler(Sampler):
    """A Sampler whose last level is that of the model's scheduler."""

    starts_at_noise: bool

    def start(self, latent: Tensor, eps: Tensor) -> Tensor:
        """Return z of the first step: noise alone, or the noised source where the strength is below 1.

        Stable Diffusion takes x of unit variance for the noisiest level, which is z = eps / (a + s).
        """
        sigma = self.sigmas[self.first_step]
        return eps * scale_of(sigma) if self.starts_at_noise else add_noise(latent, sigma, eps)

    def hold(self, inputs: EditInputs, step: int, z: Tensor, eps: Tensor) -> Tensor:
        """Return z after `step` steps, with the source at the same noise level outside the mask.

        After the last step it is a latent.
        """
        sigma = self.sigmas[step]
        if step == len(self.sigmas) - 1:
            return inputs.blend_outside(z / scale_of(sigma), inputs.latent)
        return inputs.blend_outside(z, add_noise(inputs.latent, sigma, eps))


def begin(field: VelocityField, inputs: EditInputs, config: FromNoiseConfig) -> NoiseSampler:
    """Return what a sampling loop from noise starts with."""
    sampler = fields.begin(field, inputs, config)
    last = field.clean_sigma if config.last_level == "scheduler" else 0.0
    sigmas = [*sampler.sigmas[:-1], last]
    return NoiseSampler(sampler.field, sigmas, sampler.first_step, config.strength == 1)
