"""Noise that is keyed by its purpose, and the straight line from a clean latent to noise.

`z = (1 - sigma) * clean + sigma * noise` and `velocity = noise - clean`, with sigma in [0, 1]. Latents are b c f h w.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def keyed_noise(like: Tensor, seed: int, step: int, repeat: int = 0) -> Tensor:
    """Return standard normal noise of the shape, type and device of `like`, keyed by its purpose.

    Each latent frame is drawn on the CPU from (seed, step, repeat, index of the frame in the clip): the same seed gives
    the same noise whatever the window, batch order, resume point or device. No other function draws noise.
    """
    import torch

    b, c, f, h, w = like.shape
    frames = []
    for frame in range(f):
        generator = _keyed_generator(f"{seed}/{step}/{repeat}/{frame}")
        frames.append(torch.randn(b, c, 1, h, w, generator=generator))
    return torch.cat(frames, dim=2).to(like)


def keyed_integer(seed: int, step: int, low: int, high: int) -> int:
    """Return an integer in [low, high), uniform, keyed as noise is."""
    import torch

    generator = _keyed_generator(f"{seed}/{step}/level")
    return int(torch.randint(low, high, (), generator=generator))


def _keyed_generator(key: str) -> torch.Generator:
    import torch

    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def add_noise(clean: Tensor, sigma: float, eps: Tensor) -> Tensor:
    """Return the point at noise level sigma on the straight line: `(1 - sigma) clean + sigma eps`."""
    return (1 - sigma) * clean + sigma * eps


def predict_noise(z: Tensor, sigma: float, velocity: Tensor) -> Tensor:
    """Return the noise that the velocity predicts in z: `z + (1 - sigma) velocity`."""
    return z + (1 - sigma) * velocity
