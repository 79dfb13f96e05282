"""Blend the attention of a source and an edited branch (I2VEdit, arXiv:2405.16537) without storing a map.

How far a query's attention has moved is one number per query, shared by the heads. So blending the two maps by it is
blending the two outputs: two fused attentions. Only that number needs both rows of weights, and it is computed in
blocks. Shapes: q `B heads N d`; k and v `B heads L d`; q0 and k0 are the source's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...base.lazy import functional, torch
from ...sampling.masking import apply_mask, blend_by_mask
from .hooks import Layer
from .maps import rows_per_block

if TYPE_CHECKING:
    from torch import Tensor


def attention_distance(q: Tensor, k: Tensor, q0: Tensor, k0: Tensor) -> Tensor:
    """Return how far each query's attention is from the source's, `B N` in [0, 1] and in float32.

    It is the total variation, half the sum over keys of |A - A0|, averaged over heads after the difference.
    """
    scale = q.shape[-1] ** -0.5
    size = rows_per_block(q.shape[2], q.shape[0] * q.shape[1] * k.shape[2], q.device)
    keys, keys0 = (
        k.float().mT,
        k0.float().mT,
    )  # once: a cast in each block would read all keys again
    parts = []
    for rows, rows0 in zip(q.split(size, 2), q0.split(size, 2), strict=True):
        edited = (rows.float() @ keys * scale).softmax(-1)
        source = (rows0.float() @ keys0 * scale).softmax(-1)
        parts.append((edited - source).abs().sum(-1).mean(1) / 2)
    return torch.cat(parts, 1)


def blend_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q0: Tensor,
    k0: Tensor,
    threshold: float | Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Return attention to the edited values, `B heads N d`: `(1 - M) A0 V + M A V`.

    M is 1 where the two maps differ by the threshold or more, else their difference. threshold: one number, or one
    for each query, `B N`. mask: `B N`; where it is 0 the source's attention stays, whatever M is.
    """
    distance = attention_distance(q, k, q0, k0)
    share = torch.where(distance >= threshold, torch.ones_like(distance), distance)
    share = share if mask is None else apply_mask(mask, share)
    share = share[:, None, :, None].to(v)
    edited = functional.scaled_dot_product_attention(q, k, v)
    source = functional.scaled_dot_product_attention(q0, k0, v)
    return blend_by_mask(share, edited, source)


def frame_thresholds(bounds: tuple[float, float], frames: int) -> Tensor:
    """Return one threshold per frame, `f`: evenly from the first bound towards the second, which no frame reaches."""
    low, high = bounds
    return low + (high - low) * torch.arange(frames) / frames


def uses_source_attention(
    layer: Layer,
    step: int,
    steps: int,
    shares: tuple[float, float],
    coarse: int = 4,
    skipped_path: str | None = None,
) -> bool:
    """Return whether the source's temporal attention replaces the edited one's at a layer and step.

    There are three stages: every layer in the first `b1 steps`; up to `b2 steps` the layers of at least `coarse`
    latent cells a token, except the one at `skipped_path`; no layer after that. shares: (b1, b2).
    """
    first, second = (int(b * steps) for b in shares)
    is_coarse = layer.cells_per_token >= coarse and layer.path != skipped_path
    return step < first or (step < second and is_coarse)


def coarse_scale(layers: Iterable[Layer]) -> int:
    """Return where the coarser half of a network's scales begins, in latent cells a token: 4 of SVD's 1, 2, 4 and 8."""
    scales = sorted({layer.cells_per_token for layer in layers})
    return scales[len(scales) // 2]


def last_coarse_path(layers: Iterable[Layer], coarse: int) -> str | None:
    """Return the path of the last temporal layer of a scale, on the way up; None if there is none.

    The released code skips that layer in its second stage. layers: in the order in which the network calls them.
    """
    paths = [x.path for x in layers if x.axis == "temporal" and x.cells_per_token == coarse]
    return paths[-1] if paths else None
