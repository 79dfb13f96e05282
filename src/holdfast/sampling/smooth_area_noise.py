"""Smooth area random perturbation (SARP, I2VEdit, arXiv:2405.16537, Eq. 5): a little noise where a clip is flat.

Without it, the inverted latents of exactly flat areas are flat too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def find_flat_areas(x: Tensor, threshold: float = 0.001) -> Tensor:
    """Return where frames f 3 H W in [-1, 1] are flat, f 1 H W boolean.

    Flat: the mean over colours of |Sobel x| + |Sobel y| is at most the threshold. The padding is 0, as released, so the
    border counts as an edge.
    """
    import torch
    from torch.nn import functional

    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(x)
    kernels = torch.stack((kernel, kernel.T))[:, None]
    slopes = functional.conv2d(x.flatten(0, 1)[:, None], kernels, padding=1).abs().sum(1)
    return slopes.view(x.shape).mean(1, keepdim=True) <= threshold


def add_flat_area_noise(
    x: Tensor, eps: Tensor, threshold: float = 0.001, scale: float = 0.005
) -> Tensor:
    """Return frames f 3 H W in [-1, 1] with noise eps of the same shape, times scale, where they are flat."""
    import torch

    noisy = (x + scale * eps).clamp(-1, 1)
    return torch.where(find_flat_areas(x, threshold), noisy, x)
