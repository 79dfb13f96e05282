"""The latents and conditionings that I2VEdit tunes on, inverts and edits under, in both of its variants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ...sampling.field import EditInputs
from ...sampling.noise import keyed_noise
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
    """Return the latent that is inverted and its conditioning: those of the clip with its flat areas perturbed.

    As released, the first frame is perturbed by a draw of its own and rounded to eight bits, and the latent is a
    sample.
    """
    import torch

    from ...models.base import Prompt

    is_released = config.variant == "released"
    if not config.sarp and not is_released:
        return inputs.latent, inputs.source
    pixels, seed = inputs.get_pixels(), inputs.seed
    frames = torch.stack(list(pixels.frames())).to(inputs.latent)
    # one draw for the clip, so that its first frame and the conditioning stay the same picture
    noisy = perturb_flat_areas(frames, seed, 0, config.sarp)
    if not is_released:
        source = pixels.condition(Prompt(image=noisy[0]))
        return pixels.encode(noisy), source
    first = perturb_flat_areas(frames[:1], seed, 1, config.sarp)[0]
    first = (first * 255).floor() / 255
    source = pixels.condition(Prompt(image=first, time_ids=(8, 127, 0.02)))
    return sample_latent(inputs, noisy), source


def perturb_flat_areas(frames: Tensor, seed: int, draw: int, scale: float) -> Tensor:
    """Return frames f 3 H W in [0, 1] with noise where they are flat. draw: the key of the noise."""
    from ...sampling.smooth_area_noise import add_flat_area_noise

    eps = keyed_noise(frames.transpose(0, 1)[None], seed, draw)[0].transpose(0, 1)
    return add_flat_area_noise(frames * 2 - 1, eps, scale=scale) / 2 + 0.5


def sample_latent(inputs: EditInputs, frames: Iterable[Tensor]) -> Tensor:
    """Return a latent drawn from the VAE's posterior of the frames, 1 c f h w, in place of its mode."""
    eps = keyed_noise(inputs.latent, inputs.seed, 0)[0].transpose(0, 1)
    return inputs.get_pixels().encode(frames, eps)
