"""Perturb a clip a little before it is inverted (SARP, I2VEdit, arXiv:2405.16537, Eq. 5 and appendix A).

Without it, the inverted latents of exactly flat areas are flat too, and not Gaussian. The paper adds the noise where
frames are smooth (SARP); to compare, it also adds it everywhere else (NSARP), or to the whole latent (LRP).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from ..base.schema import Field, Range, settings_class
from .field import EditInputs
from .noise import keyed_noise
from .settings import SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor

UNUSED_UNLESS = {"sarp_threshold": "sarp", "sarp_area": "sarp"}  # for METHOD
Alpha = Annotated[float, Range(0, 1)]


@settings_class
class PerturbedConfig(SamplingConfig):
    """The settings of a method that inverts the clip. A method that perturbs by default overrides `sarp`."""

    sarp: Alpha = Field(
        default=0.0,
        description="alpha: size of the noise that is added before the inversion, to frames in [-1, 1] or to the "
        "latent; 0: none",
    )
    sarp_threshold: Annotated[float, Range(0, 16)] = Field(
        default=0.001,
        description="slope up to which a place is smooth: the mean over colours of |Sobel x| + |Sobel y|",
    )
    sarp_area: Literal["smooth", "edges", "latent"] = Field(
        default="smooth",
        description="where the noise is added. smooth: where frames are smooth (SARP); edges: everywhere else (NSARP); "
        "latent: to the whole latent (LRP)",
    )


def find_smooth_areas(x: Tensor, threshold: float = 0.001) -> Tensor:
    """Return where frames f 3 H W in [-1, 1] are smooth, f 1 H W boolean.

    Smooth: the mean over colours of |Sobel x| + |Sobel y| is at most the threshold. The padding is 0, as released, so
    the border counts as an edge.
    """
    import torch
    from torch.nn import functional

    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(x)
    kernels = torch.stack((kernel, kernel.T))[:, None]
    slopes = functional.conv2d(x.flatten(0, 1)[:, None], kernels, padding=1).abs().sum(1)
    return slopes.view(x.shape).mean(1, keepdim=True) <= threshold


def add_area_noise(x: Tensor, eps: Tensor, config: PerturbedConfig) -> Tensor:
    """Return frames f 3 H W in [-1, 1] with noise eps of the same shape, times alpha, in the area of the settings."""
    import torch

    noisy = (x + config.sarp * eps).clamp(-1, 1)
    smooth = find_smooth_areas(x, config.sarp_threshold)
    return torch.where(smooth if config.sarp_area == "smooth" else ~smooth, noisy, x)


def perturb_frames(
    frames: Iterable[Tensor], config: PerturbedConfig, seed: int, draw: int = 0
) -> Iterator[Tensor]:
    """Yield frames 3 H W in [0, 1] with the noise of the settings. draw: the key of the noise.

    Noise of the latent leaves them as they are.
    """
    for n, frame in enumerate(frames):
        if not config.sarp or config.sarp_area == "latent":
            yield frame
            continue
        eps = keyed_noise(frame[None, :, None], seed, draw, first_frame=n)[:, :, 0]
        yield (add_area_noise(frame[None] * 2 - 1, eps, config) / 2 + 0.5)[0]


def perturb_latent(latent: Tensor, config: PerturbedConfig, seed: int) -> Tensor:
    """Return a latent, 1 c f h w, with alpha times noise where the settings add it to the latent."""
    if config.sarp_area != "latent":
        return latent
    return latent + config.sarp * keyed_noise(latent, seed, 0, repeat=2)


def perturbed_source(inputs: EditInputs, config: PerturbedConfig) -> Tensor:
    """Return the latent of the clip that is inverted, 1 c f h w: of its perturbed frames, or perturbed itself."""
    if not config.sarp:
        return inputs.latent
    if config.sarp_area == "latent":
        return perturb_latent(inputs.latent, config, inputs.seed)
    pixels = inputs.get_pixels()
    return pixels.encode(perturb_frames(pixels.frames(), config, inputs.seed)).to(inputs.latent)
