"""Attention whose logits are refined by an affine map of each row and column, exactly, without ever holding them.

What FlowAnchor's spatial-aware refinement (arXiv:2604.22586, Eqs. 6-9) needs. Written on logits A_ij of row i (a video
token) and column j (a text token), with J the columns of the words that drive the edit:

  TTM, rows inside the mask:  A'_ij  = A_ij + b1 (Amax_i - A_ij)     j in J
                              A'_ij  = A_ij - b1 (A_ij - Amin_i)     j not in J
  STM, columns J:             A''_ij = A'_ij + b2 (A'max_j - A'_ij)  i inside
                              A''_ij = A'_ij - b2 (A'_ij - A'min_j)  i outside

Both are linear in A_ij for a given row and column, so softmax over text sees

  row inside:   (1-b1) A_ij                              j not in J
                (1-b1)(1-b2) A_ij + r_i + b2 A'max_j     j in J,   r_i = (1-b2) b1 Amax_i - b1 Amin_i
                A_ij - b1 Amin_i                         j kept as it is
  row outside:  A_ij, and for j in J  (1-b2) A_ij + b2 A'min_j

(b1 Amin_i, common to an inside row, is taken off). That is plain attention on scaled keys with a term of the row and
one of the column, which ride along as extra dimensions: one fused call for inside and one for outside rows, in blocks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from . import maps

EXTRA = 8  # dimensions that carry the terms: two for each half of a number, and room


@dataclass(frozen=True)
class Refinement:
    """How logits change."""

    beta_text: float  # b1, of TTM
    beta_video: float  # b2, of STM
    length: int  # the end of the keys that row extremes see
    kept: Tensor | None = None  # L boolean: columns that TTM leaves alone
    statistics: str = "head"  # extremes of each head, or "mean": of the heads' mean
    first: int = 0  # the begin of those keys


def refined(
    q: Tensor, k: Tensor, v: Tensor, inside: Tensor, target: Tensor, how: Refinement
) -> Tensor:
    """Attention with refined logits. q: b h N d; k, v: b h L d; inside: N boolean; target: the columns J."""
    rows_inside, rows_outside = inside.nonzero().flatten(), (~inside).nonzero().flatten()
    rows, columns = _extremes(q, k, rows_inside, rows_outside, target, how)
    keys_inside, keys_outside = _keys(k, target, columns, how)
    b1, b2 = how.beta_text, how.beta_video
    of_target = (1 - b2) * b1 * rows.most - b1 * rows.least  # r_i
    of_kept = -b1 * rows.least
    none = torch.zeros(len(q), 1, len(rows_outside), 1, device=q.device)
    output = torch.empty_like(q)
    _attend(output, q, v, rows_inside, keys_inside, (of_target, of_kept))
    _attend(output, q, v, rows_outside, keys_outside, (none, none))
    return output


@dataclass(frozen=True)
class Extremes:
    least: Tensor
    most: Tensor


def _extremes(
    q: Tensor,
    k: Tensor,
    rows_inside: Tensor,
    rows_outside: Tensor,
    target: Tensor,
    how: Refinement,
) -> tuple[Extremes, Extremes]:
    """Of each inside row over text, b h n 1, and of each column J over all rows after TTM, b h J; in blocks of rows."""
    heads, dim, length = q.shape[1], q.shape[3], k.shape[2]
    least, most = [], []  # of rows, a block at a time
    column_least, column_most = [], []
    for block in _blocks(rows_inside, heads * (length + dim)):
        logits = _logits(q, k, block, how)
        low, high = logits[..., how.first : how.length].aminmax(dim=-1, keepdim=True)
        least.append(low)
        most.append(high)
        after = (1 - how.beta_text) * logits[..., target] + how.beta_text * high  # TTM
        column_least.append(after.amin(dim=2))
        column_most.append(after.amax(dim=2))
    for block in _blocks(rows_outside, heads * (len(target) + dim)):
        logits = _logits(q, k[:, :, target], block, how)
        column_least.append(logits.amin(dim=2))
        column_most.append(logits.amax(dim=2))
    none = q.new_zeros(q.shape[0], 1, 0, 1, dtype=torch.float32)
    of_rows = Extremes(torch.cat(least or [none], 2), torch.cat(most or [none], 2))
    of_columns = Extremes(torch.stack(column_least).amin(0), torch.stack(column_most).amax(0))
    return of_rows, of_columns


def _blocks(rows: Tensor, numbers: int) -> tuple[Tensor, ...]:
    parts = rows.split(maps.blocks(len(rows), numbers))
    return tuple(part for part in parts if len(part))


def _logits(q: Tensor, k: Tensor, rows: Tensor, how: Refinement) -> Tensor:
    """Pre-softmax logits of some rows, b h n L (h = 1 for statistics of the heads' mean), in float32."""
    scaled = q[:, :, rows].float() * q.shape[-1] ** -0.5
    logits = scaled @ k.float().mT
    return logits.mean(1, keepdim=True) if how.statistics == "mean" else logits


@dataclass(frozen=True)
class Keys:
    """Keys as refined attention sees them."""

    k: Tensor  # b h L d
    slope: Tensor  # L: what each column's logits are multiplied by
    target: Tensor  # positions of the columns J
    column: Tensor  # b h J: added to them
    kept: Tensor  # L boolean


def _keys(k: Tensor, target: Tensor, columns: Extremes, how: Refinement) -> tuple[Keys, Keys]:
    """For rows inside, and for rows outside."""
    b1, b2 = how.beta_text, how.beta_video
    driving = torch.zeros(k.shape[2], dtype=torch.bool, device=k.device)
    driving[target] = True
    kept = torch.zeros_like(driving) if how.kept is None else how.kept & ~driving
    others = torch.where(kept, 1.0, 1 - b1)
    slope_inside = torch.where(driving, (1 - b1) * (1 - b2), others)
    slope_outside = torch.where(driving, 1 - b2, 1.0)
    inside = Keys(k, slope_inside, target, b2 * columns.most, kept)
    outside = Keys(k, slope_outside, target, b2 * columns.least, kept)
    return inside, outside


def _attend(
    output: Tensor, q: Tensor, v: Tensor, rows: Tensor, keys: Keys, terms: tuple[Tensor, Tensor]
) -> None:
    """Write the rows' attention into `output`. terms: of each row to the columns J and to kept ones, b h n 1."""
    heads, dim = q.shape[1], q.shape[3]
    root = dim**0.5  # attention divides by it
    k = _extended_keys(keys, root, q.dtype)
    v = functional.pad(v, (0, EXTRA))
    for at in _blocks(torch.arange(len(rows), device=rows.device), heads * (dim + EXTRA)):
        block = q[:, :, rows[at]]
        extra = [_riding(root * term[:, :, at], block) for term in terms]
        ones = torch.ones_like(block[..., :2])
        wide = torch.cat((block, *extra, ones, torch.zeros_like(ones)), -1)
        attended = functional.scaled_dot_product_attention(wide, k, v, scale=1 / root)
        output[:, :, rows[at]] = attended[..., :dim]


def _extended_keys(keys: Keys, root: float, dtype: torch.dtype) -> Tensor:
    """Keys with the dimensions that meet the rows' terms, and their own columns' terms."""
    b, h, length, _ = keys.k.shape
    extra = torch.zeros(b, h, length, EXTRA, device=keys.k.device)
    extra[:, :, keys.target, 0:2] = 1
    extra[:, :, keys.kept, 2:4] = 1
    column = _halves(root * keys.column.expand(b, h, -1), dtype)
    extra[:, :, keys.target, 4:6] = torch.stack(column, -1)
    scaled = keys.k.float() * keys.slope[:, None]
    return torch.cat((scaled, extra), -1).to(dtype)


def _riding(term: Tensor, like: Tensor) -> Tensor:
    """A row's term as two extra dimensions of its query, b h n 2."""
    whole = term.expand(*like.shape[:3], 1)
    return torch.cat(_halves(whole, like.dtype), -1).to(like.dtype)


def _halves(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A number as the sum of two that the dtype can hold: bfloat16 alone would lose it."""
    high = x.to(dtype).float()
    return high, x - high
