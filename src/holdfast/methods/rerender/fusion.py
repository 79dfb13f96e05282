"""Fusion of a key frame with those before it: of clean latents early, of pictures in the middle, of colours late.

early:   x0 <- M w(x0_j) + (1 - M) x0
middle:  picture = M_0 w(I_0) + (1 - M_0) (M_p w(I_p) + (1 - M_p) I);  x <- it, noised, where M_0 or M_p
late:    x0 <- sigma(x0_first) (x0 - mu(x0)) / sigma(x0) + mu(x0_first)
E'(I) = E(I) + m (E(I) - E(D(E(I)))), m where D(E(I)) is near I
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...base.lazy import functional
from .flows import ClipFlow, to_array, to_cells, to_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from ...sampling.field import Pixels

NEAR = 0.25  # of a decoded picture to its original, as the mean difference of a cell's numbers in [-1, 1]


def decode_frame(pixels: Pixels, z: Tensor) -> Tensor:
    """Return the picture of a latent of one frame, 1 c 1 h w, as 3 H W in [0, 1]."""
    (chunk,) = pixels.decode(z.contiguous())
    return chunk[0]


def encode_faithfully(pixels: Pixels, picture: Tensor) -> Tensor:
    """Return the latent 1 c 1 h w of a picture 3 H W, corrected for what encoding and decoding lose (E')."""
    z = pixels.encode([picture]).contiguous()
    decoded = decode_frame(pixels, z)
    difference = 2 * (decoded - picture.to(decoded)).abs().mean(0)
    cells = functional.avg_pool2d(difference[None, None], pixels.stride[1:])
    near = (cells < NEAR).to(z)[:, :, None]
    return z + near * (z - pixels.encode([decoded]).contiguous())


def fuse_pictures(
    flow: ClipFlow, frame: int, pictures: dict[int, Tensor], own: Tensor
) -> tuple[Tensor, np.ndarray]:
    """Return a picture that is made of earlier key frames where they are visible, and of its own elsewhere.

    pictures: of earlier key frames by frame, 3 H W; those that come first count first. Also return where any of them is
    visible, H W boolean.
    """
    result = to_array(own)
    visible = np.zeros(result.shape[:2], bool)
    for other, picture in reversed(pictures.items()):
        warped, seen = flow.warp(to_array(picture), frame, other)
        result = np.where(seen[..., None], warped, result)
        visible |= seen
    return to_tensor(result), visible


def blend_fused(
    clean: Tensor,
    noise: Tensor,
    fused: tuple[Tensor, Tensor, Tensor],
    strength: float,
    noise_strength: float,
) -> tuple[Tensor, Tensor]:
    """Return the clean latent and the noise after pixel-aware fusion.

    fused: the fused picture's latent, fresh noise, and where it is visible. Inside, with w the strength and
    r = max(1 - w, noise_strength sqrt(1 - w^2)), the clean latent is w of the picture's and 1 - w of its own, and the
    noise is w of the fresh one and r of its own.
    """
    picture, fresh, visible = fused
    w = strength
    kept = max(1 - w, noise_strength * (1 - w * w) ** 0.5)
    clean = clean + visible * w * (picture - clean)
    noise = noise + visible * (w * fresh + (kept - 1) * noise)
    return clean, noise


def match_statistics(clean: Tensor, first: Tensor) -> Tensor:
    """Return a clean latent with each channel's mean and deviation of another one (AdaIN), 1 c 1 h w."""
    dims = (2, 3, 4)
    mean, deviation = clean.mean(dims, keepdim=True), clean.std(dims, keepdim=True)
    wanted, spread = first.mean(dims, keepdim=True), first.std(dims, keepdim=True)
    return spread * (clean - mean) / (deviation + 1e-6) + wanted


def visible_cells(visible: np.ndarray, pixels: Pixels, like: Tensor) -> Tensor:
    """Return which cells are visible, 1 1 1 h w, as `like`."""
    return to_cells(visible, pixels.stride).to(like)
