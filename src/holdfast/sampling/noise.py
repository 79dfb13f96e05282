"""Noise that is keyed by its purpose, and the straight line from a clean latent to noise.

`z = (1 - sigma) * clean + sigma * noise` and `velocity = noise - clean`, with sigma in [0, 1]. Latents are b c f h w.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .noise_ahead import NoiseAhead, NoiseKey

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Odd 64-bit constants, as signed integers: 2^64 over the golden ratio, and the multipliers of MurmurHash3's finaliser.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_LOW_24, _LOW_31 = 2**24 - 1, 2**31 - 1  # masks: a shift of a signed number repeats its sign
_MIXERS = (0xFF51AFD7ED558CCD - 2**64, 0xC4CEB9FE1A85EC53 - 2**64)


def keyed_noise(
    like: Tensor, seed: int, step: int, repeat: int = 0, first_frame: int = 0
) -> Tensor:
    """Return standard normal noise of the shape, type and device of `like`, keyed by its purpose.

    Each latent frame is drawn on the CPU from (seed, step, repeat, index of the frame in the clip): the same seed gives
    the same noise whatever the window, batch order, resume point or device. first_frame: the index of the first frame
    of `like`. No other function draws noise for a latent.
    """
    is_pinned = like.device.type == "cuda"
    key = NoiseKey(tuple(like.shape), seed, step, repeat, is_pinned, first_frame)
    return _ahead.take(key).to(like, non_blocking=is_pinned)


def _draw_noise(key: NoiseKey) -> Tensor:
    """Return the noise of a key, float32 on the CPU."""
    import torch

    b, c, f, h, w = key.shape
    frames = []
    for frame in range(key.first_frame, key.first_frame + f):
        generator = _keyed_generator(f"{key.seed}/{key.step}/{key.repeat}/{frame}")
        frames.append(torch.randn(b, c, 1, h, w, generator=generator))
    noise = torch.cat(frames, dim=2)
    return noise.pin_memory() if key.is_pinned else noise


_ahead = NoiseAhead(_draw_noise)


def draw_ahead(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Draw the noise of each next step while a step runs, inside the block.

    On a CPU this has no effect: the thread would take its time from the network.
    """
    return contextlib.nullcontext() if device.type == "cpu" else _ahead.run()


def keyed_integer(seed: int, step: int, low: int, high: int, purpose: str = "level") -> int:
    """Return an integer in [low, high), uniform, keyed as noise is, and by its purpose."""
    import torch

    generator = _keyed_generator(f"{seed}/{step}/{purpose}")
    return int(torch.randint(low, high, (), generator=generator))


def keyed_uniform(shape: Sequence[int], key: str, device: torch.device) -> Tensor:
    """Return float32 numbers in [0, 1) of a shape, keyed by a text.

    They are hashed on the device from each element's index (MurmurHash3's 64-bit finaliser), so every device gives the
    same numbers, in a checkpointed block's second pass as well. For many numbers: drawing them on the CPU takes longer.
    """
    import torch

    bits = torch.arange(math.prod(shape), device=device)
    bits = (bits + 1) * _GOLDEN + _hash_key(key)
    for multiplier in _MIXERS:
        bits = (bits ^ (bits >> 33 & _LOW_31)) * multiplier
    return (bits >> 40 & _LOW_24).float().reshape(*shape) / 2**24


def _hash_key(key: str) -> int:
    """Return a signed 64-bit integer for a text."""
    return int.from_bytes(
        hashlib.blake2b(key.encode(), digest_size=8).digest(), "little", signed=True
    )


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
