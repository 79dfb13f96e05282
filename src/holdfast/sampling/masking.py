"""Masks on latents: a change within a mask, and maps of where a change is large."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def apply_mask(mask: Tensor, change: Tensor) -> Tensor:
    """Return a change times a mask in [0, 1]; exactly 0 where the mask is 0.

    0 times infinity is not a number, and what a model predicts outside the mask does not matter.
    """
    import torch

    return torch.where(mask == 0, torch.zeros_like(change), mask * change)


def blend_by_mask(mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Return `mask * inside + (1 - mask) * outside`; exactly one of the two where the mask is 1 or 0."""
    import torch

    mixed = torch.where(mask == 1, inside, mask * inside + (1 - mask) * outside)
    return torch.where(mask == 0, outside, mixed)


def normalize_range(values: Tensor, eps: float = 1e-12, top: float = 1.0) -> Tensor:
    """Return each sample's values scaled to [0, top] over all its elements.

    eps is added to the range, so that constant values become 0.
    """
    dims = tuple(range(1, values.dim()))
    low, high = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    return top * (values - low) / (high - low + eps)


def contrast_map(difference: Tensor, kind: str, eps: float = 1e-12, top: float = 1.0) -> Tensor:
    """Return where a difference of velocities b c f h w is large, b 1 f h w in [0, top].

    It is the mean over channels, scaled over the sample. kind: "signed", or "abs" for the mean magnitude.
    """
    mean = (difference if kind == "signed" else difference.abs()).mean(1, keepdim=True)
    return normalize_range(mean, eps, top)
