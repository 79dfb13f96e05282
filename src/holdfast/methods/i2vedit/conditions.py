"""The latents and conditionings that I2VEdit tunes on, inverts and edits under, in both of its variants."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ...sampling.field import EditInputs
from ...sampling.noise import keyed_noise
from ...sampling.perturbation import perturb_frames, perturb_latent, perturbed_source
from .settings import Config

if TYPE_CHECKING:
    from torch import Tensor


def target_conditioning(
    image: Tensor, inputs: EditInputs, config: Config, latent: Tensor | None = None
) -> Any:
    """Return the conditioning of the target's evaluations on an image.

    As released, its noise is added to the latent.
    """
    from ...models.base import Prompt

    noise = "latent" if config.variant == "released" else "pixels"
    prompt = Prompt(image=image, latent=latent, noise_target=noise)
    return inputs.get_pixels().condition(prompt)


def tuning_inputs(inputs: EditInputs, config: Config) -> tuple[Tensor, Any]:
    """Return the latent and the conditioning that the adapters are fitted to.

    As released, both are samples, and the numbers next to the image are in another order than in the model's training.
    """
    if config.variant == "clean":
        return inputs.latent, inputs.source
    from ...models.base import Prompt

    pixels = inputs.get_pixels()
    first = next(iter(pixels.frames()))
    prompt = Prompt(image=first, time_ids=(6, 0.02, 127), noise_target="sample")
    return sample_latent(inputs, pixels.frames()), pixels.condition(prompt)


def inversion_inputs(inputs: EditInputs, config: Config) -> tuple[Tensor, Any]:
    """Return the latent that is inverted and its conditioning: those of the perturbed clip.

    As released, the first frame is perturbed by a draw of its own and rounded to eight bits, and the latent is a
    sample.
    """
    from ...models.base import Prompt

    if config.variant == "released":
        return released_inputs(inputs, config)
    latent = perturbed_source(inputs, config)
    if not config.sarp or config.sarp_area == "latent":
        return latent, inputs.source
    # by the draw of the clip, so that its first frame and the conditioning stay the same picture
    pixels = inputs.get_pixels()
    first = next(perturb_frames(pixels.frames(), config, inputs.seed))
    return latent, pixels.condition(Prompt(image=first))


def released_inputs(inputs: EditInputs, config: Config) -> tuple[Tensor, Any]:
    """Return what `inversion_inputs` does, as released."""
    from ...models.base import Prompt

    pixels, first = inputs.get_pixels(), released_frame(inputs, config)
    source = pixels.condition(Prompt(image=first, time_ids=(8, 127, 0.02)))
    latent = sample_latent(inputs, perturb_frames(pixels.frames(), config, inputs.seed))
    return perturb_latent(latent, config, inputs.seed), source


def released_frame(inputs: EditInputs, config: Config) -> Tensor:
    """Return the first frame, 3 H W in [0, 1], as released: with noise of its own, rounded down to eight bits."""
    first = itertools.islice(inputs.get_pixels().frames(), 1)
    (noisy,) = perturb_frames(first, config, inputs.seed, draw=1)
    return (noisy * 255).floor() / 255


def sample_latent(inputs: EditInputs, frames: Iterable[Tensor]) -> Tensor:
    """Return a latent drawn from the VAE's posterior of the frames, 1 c f h w, in place of its mode."""
    eps = keyed_noise(inputs.latent, inputs.seed, 0)[0].transpose(0, 1)
    return inputs.get_pixels().encode(frames, eps)
