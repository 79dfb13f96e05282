"""Attention matching of a source and an edited branch (I2VEdit, arXiv:2405.16537), without storing a map.

How far a query's attention moved is one number per query, shared by heads, so that mixing the two maps by it is mixing
the two outputs: two fused attentions. Only the number itself needs both rows of weights, and those go in blocks.
Shapes: q B heads N d; k and v B heads L d; q0 and k0 are the source's.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attended

from ...sampling.maths import apply_mask, blend_by_mask
from .hooks import Site
from .maps import blocks

# (b1, b2) of `replaces`, by what an edit is
PRESETS = {"local": (0.5, 0.8), "style": (0.8, 0.9), "shape": (0.4, 0.5)}


def difference(q: Tensor, k: Tensor, q0: Tensor, k0: Tensor) -> Tensor:
    """How far each query's attention is from the source's, B N in [0, 1] and in float32.

    Half the sum over keys of |A - A0|, the total variation, of maps averaged over heads after the difference.
    """
    scale, size = q.shape[-1] ** -0.5, blocks(q.shape[2], q.shape[0] * q.shape[1] * k.shape[2])
    parts = []
    for rows, rows0 in zip(q.split(size, 2), q0.split(size, 2), strict=True):
        here = (rows.float() @ k.float().mT * scale).softmax(-1)
        there = (rows0.float() @ k0.float().mT * scale).softmax(-1)
        parts.append((here - there).abs().sum(-1).mean(1) / 2)
    return torch.cat(parts, 1)


def blended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q0: Tensor,
    k0: Tensor,
    threshold: float | Tensor,
    within: Tensor | None = None,
) -> Tensor:
    """Attention to the edited values, B heads N d: `(1 - M) A0 V + M A V`, M = 1 where the two maps differ by the
    threshold or more, else the difference itself.

    threshold: a number, or one for each query, B N. within: B N, 0 where the source's attention is kept whatever M is.
    """
    moved = difference(q, k, q0, k0)
    share = torch.where(moved >= threshold, torch.ones_like(moved), moved)
    share = share if within is None else apply_mask(within, share)
    share = share[:, None, :, None].to(v)
    return blend_by_mask(share, attended(q, k, v), attended(q0, k0, v))


def thresholds(pair: tuple[float, float], frames: int) -> Tensor:
    """One threshold a frame, f: from the first of the pair on, evenly towards the second, which no frame reaches."""
    low, high = pair
    return low + (high - low) * torch.arange(frames) / frames


def replaces(
    site: Site,
    step: int,
    steps: int,
    pair: tuple[float, float],
    coarse: int = 4,
    left_out: str | None = None,
) -> bool:
    """Whether the source's temporal attention stands in for the edited one's at a layer and step.

    In three stages: all layers in the first `b1 steps`; up to `b2 steps` those at `coarse` latent cells a token or
    more, but for the one at the path `left_out`; none after that. pair: (b1, b2).
    """
    first, second = (int(b * steps) for b in pair)
    chosen = site.scale >= coarse and site.path != left_out
    return step < first or (step < second and chosen)


def coarse(sites: Iterable[Site]) -> int:
    """Where the coarser half of a network's levels begins, in latent cells a token: 4 of SVD's 1, 2, 4 and 8."""
    scales = sorted({site.scale for site in sites})
    return scales[len(scales) // 2]


def last_coarse(sites: Iterable[Site], coarse: int) -> str | None:
    """The path of the last temporal layer at that level, on the way up, which the released code leaves out of its
    second stage. sites: in the order in which they are called.
    """
    paths = [s.path for s in sites if s.axis == "temporal" and s.scale == coarse]
    return paths[-1] if paths else None
