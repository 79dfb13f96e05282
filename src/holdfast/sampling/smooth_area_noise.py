"""Smooth area random perturbation (I2VEdit, arXiv:2405.16537, Eq. 5): a little noise where a clip is exactly flat,
so that inverting it does not leave the noisy latents flat there too."""

import torch
from torch import Tensor
from torch.nn import functional


def find_flat_areas(x: Tensor, threshold: float = 0.001) -> Tensor:
    """Where frames f 3 H W in [-1, 1] do not change, f 1 H W boolean: the mean over colours of |Sobel x| + |Sobel y|
    is at most the threshold. Beyond the edge is 0, as released: the border counts as an outline.
    """
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(x)
    kernels = torch.stack((kernel, kernel.T))[:, None]
    slopes = functional.conv2d(x.flatten(0, 1)[:, None], kernels, padding=1).abs().sum(1)
    return slopes.view(x.shape).mean(1, keepdim=True) <= threshold


def add_flat_area_noise(x: Tensor, eps: Tensor, threshold: float = 0.001, scale: float = 0.005) -> Tensor:
    """Frames f 3 H W in [-1, 1] with noise eps of the same shape, times scale, where they are smooth."""
    noisy = (x + scale * eps).clamp(-1, 1)
    return torch.where(find_flat_areas(x, threshold), noisy, x)
