"""Attention whose logits are moved towards regions (VideoGrain, arXiv:2502.17258), in blocks of queries.

With S = q k^T / sqrt(d), its extremes over the keys of a query, and P = 1 where a key belongs to the query's region:

    S <- S + w P (max - S) - w (1 - P) (S - min)

with a weight w of each query. Shapes: q `b heads N d`; k and v `b heads L d`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...base.lazy import functional, torch
from .hooks import Layer
from .maps import rows_per_block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Modulation:
    """Which region each query is in, which keys belong to each region, and how far a query's logits are moved.

    regions: N, numbers from 0 on. keys: regions x L, boolean. weights: N.
    """

    regions: Tensor
    keys: Tensor
    weights: Tensor


def attend_modulated(q: Tensor, k: Tensor, v: Tensor, modulation: Modulation) -> Tensor:
    """Return attention with modulated logits, `b heads N d`."""
    keys, values = k.float().mT * q.shape[-1] ** -0.5, v.float()
    size = rows_per_block(q.shape[2], q.shape[0] * q.shape[1] * k.shape[2], q.device)
    blocks = zip(
        q.split(size, 2),
        modulation.regions.split(size),
        modulation.weights.split(size),
        strict=True,
    )
    output, begin = torch.empty_like(q, dtype=v.dtype), 0  # small parts would fragment the heap
    for rows, regions, weights in blocks:
        logits = rows.float() @ keys
        low, high = logits.aminmax(dim=-1, keepdim=True)
        goal = torch.where(modulation.keys[regions], high, low)
        logits = logits + weights[:, None] * (goal - logits)
        end = begin + rows.shape[2]
        output[:, :, begin:end] = (logits.softmax(-1) @ values).to(v)
        begin = end
    return output


def number_regions(masks: Sequence[Tensor]) -> Tensor:
    """Return the number of the region of each latent cell, `1 1 f h w`: 0 outside all masks, i + 1 in mask i.

    Where masks overlap, the later one wins. masks: 1 1 f h w in [0, 1]; a cell is inside from 0.5 on.
    """
    regions = torch.zeros_like(masks[0], dtype=torch.long)
    for number, mask in enumerate(masks, 1):
        regions = torch.where(mask >= 0.5, number, regions)
    return regions


def regions_of_tokens(regions: Tensor, layer: Layer) -> Tensor:
    """Return the region of each token of a layer's frames, `f N`: that of its first cell."""
    part = regions[0, :, list(layer.frames)].transpose(0, 1)  # f 1 h w
    size = layer.token_grid[1:]
    return functional.interpolate(part.float(), size=size, mode="nearest").long().flatten(1)


def count_regions(regions: Tensor, count: int) -> Tensor:
    """Return how many tokens of each row are in each region: `f N` to `f count`."""
    return functional.one_hot(regions, count).sum(1)
