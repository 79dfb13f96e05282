"""Attention whose logits are changed by an affine map of each row and column, exactly and without storing them.

FlowAnchor's spatial-aware attention refinement (arXiv:2604.22586, Eqs. 6-9) needs it. For the logit A_ij of row i (a
video token) and column j (a text token), with J the columns of the words that drive the edit:

  TTM, rows inside the mask:  A'_ij  = A_ij + b1 (Amax_i - A_ij)     j in J
                              A'_ij  = A_ij - b1 (A_ij - Amin_i)     j not in J
  STM, columns J:             A''_ij = A'_ij + b2 (A'max_j - A'_ij)  i inside the mask
                              A''_ij = A'_ij - b2 (A'_ij - A'min_j)  i outside the mask

For a given row and column both are linear in A_ij, so softmax over text sees

  row inside:   (1-b1) A_ij                              j not in J
                (1-b1)(1-b2) A_ij + r_i + b2 A'max_j     j in J,   r_i = (1-b2) b1 Amax_i - b1 Amin_i
                A_ij - b1 Amin_i                         j exempt from TTM
  row outside:  A_ij, and for j in J  (1-b2) A_ij + b2 A'min_j

(b1 Amin_i, which all columns of an inside row share, is subtracted.) That is plain attention on scaled keys, plus a
term for the row and a term for the column. The terms are carried in extra dimensions: one fused call for the rows
inside and one for the rows outside, in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...base.lazy import functional, torch
from .maps import rows_per_block

if TYPE_CHECKING:
    from torch import Tensor

EXTRA_DIMENSIONS = 8  # carry the terms: two for each half of a number, and padding


@dataclass(frozen=True)
class LogitRefinement:
    """The parameters of the refinement."""

    beta_text: float  # b1, of TTM
    beta_video: float  # b2, of STM
    key_end: int  # the end of the keys that the row extremes are taken over
    exempt_keys: Tensor | None = None  # L boolean: columns that TTM does not change
    statistics: str = "head"  # extremes of each head, or "mean": of the mean over heads
    key_begin: int = 0  # the first of those keys


@dataclass(frozen=True)
class MaskRows:
    """The positions of the rows inside and outside the mask.

    A mask's rows do not change from layer to layer and step to step. Finding them makes a GPU wait, so a caller keeps
    them.
    """

    inside: Tensor
    outside: Tensor

    @staticmethod
    def split(inside: Tensor) -> MaskRows:
        """Return the positions by N booleans, on their device."""
        found = inside.cpu()
        positions = found.nonzero().flatten(), (~found).nonzero().flatten()
        return MaskRows(*(rows.to(inside.device) for rows in positions))


def refine_attention(
    q: Tensor, k: Tensor, v: Tensor, rows: MaskRows, target: Tensor, refinement: LogitRefinement
) -> Tensor:
    """Return attention with refined logits, `b h N d`.

    q: b h N d; k, v: b h L d; target: positions of the columns J.
    """
    extremes, columns = _find_extremes(q, k, rows, target, refinement)
    keys_inside, keys_outside = _refine_keys(k, target, columns, refinement)
    b1, b2 = refinement.beta_text, refinement.beta_video
    target_term = (1 - b2) * b1 * extremes.high - b1 * extremes.low  # r_i
    exempt_term = -b1 * extremes.low
    zero = torch.zeros(len(q), 1, len(rows.outside), 1, device=q.device)
    output = torch.empty_like(q)
    _attend(output, q, v, rows.inside, keys_inside, (target_term, exempt_term))
    _attend(output, q, v, rows.outside, keys_outside, (zero, zero))
    return output


@dataclass(frozen=True)
class Extremes:
    """The lowest and the highest logits of rows or columns."""

    low: Tensor
    high: Tensor


def _find_extremes(
    q: Tensor, k: Tensor, rows: MaskRows, target: Tensor, refinement: LogitRefinement
) -> tuple[Extremes, Extremes]:
    """Return the extremes of each inside row over text, b h n 1, and of each column J over all rows after TTM, b h J.

    They are computed in blocks of rows.
    """
    heads, dim, length = q.shape[1], q.shape[3], k.shape[2]
    k = k.float()
    row_low, row_high = [], []  # a block at a time
    column_low, column_high = [], []
    for block in _split_rows(rows.inside, heads * (length + dim)):
        logits = _logits(q, k, block, refinement)
        text = logits[..., refinement.key_begin : refinement.key_end]
        low, high = text.aminmax(dim=-1, keepdim=True)
        row_low.append(low)
        row_high.append(high)
        b1 = refinement.beta_text
        refined = (1 - b1) * logits[..., target] + b1 * high  # TTM
        column_low.append(refined.amin(dim=2))
        column_high.append(refined.amax(dim=2))
    for block in _split_rows(rows.outside, heads * (len(target) + dim)):
        logits = _logits(q, k[:, :, target], block, refinement)
        column_low.append(logits.amin(dim=2))
        column_high.append(logits.amax(dim=2))
    empty = q.new_zeros(q.shape[0], 1, 0, 1, dtype=torch.float32)
    of_rows = Extremes(torch.cat(row_low or [empty], 2), torch.cat(row_high or [empty], 2))
    columns = Extremes(torch.stack(column_low).amin(0), torch.stack(column_high).amax(0))
    return of_rows, columns


def _split_rows(rows: Tensor, numbers_per_row: int) -> tuple[Tensor, ...]:
    parts = rows.split(rows_per_block(len(rows), numbers_per_row, rows.device))
    return tuple(part for part in parts if len(part))


def _logits(q: Tensor, k: Tensor, rows: Tensor, refinement: LogitRefinement) -> Tensor:
    """Return the logits of some rows before softmax in float32, b h n L; h is 1 for statistics of the mean.

    k: in float32.
    """
    scaled = q[:, :, rows].float() * q.shape[-1] ** -0.5
    logits = scaled @ k.mT
    return logits.mean(1, keepdim=True) if refinement.statistics == "mean" else logits


@dataclass(frozen=True)
class RefinedKeys:
    """Keys with what refined attention adds to them."""

    k: Tensor  # b h L d
    slope: Tensor  # L: multiplies each column's logits
    target: Tensor  # positions of the columns J
    target_term: Tensor  # b h J: is added to their logits
    exempt: Tensor  # L boolean: columns that TTM does not change


def _refine_keys(
    k: Tensor, target: Tensor, columns: Extremes, refinement: LogitRefinement
) -> tuple[RefinedKeys, RefinedKeys]:
    """Return the keys for rows inside the mask, and for rows outside."""
    b1, b2 = refinement.beta_text, refinement.beta_video
    is_target = torch.zeros(k.shape[2], dtype=torch.bool, device=k.device)
    is_target.index_fill_(0, target, True)
    exempt = torch.zeros_like(is_target)
    if refinement.exempt_keys is not None:
        exempt = refinement.exempt_keys & ~is_target
    others = torch.where(exempt, 1.0, 1 - b1)
    slope_inside = torch.where(is_target, (1 - b1) * (1 - b2), others)
    slope_outside = torch.where(is_target, 1 - b2, 1.0)
    inside = RefinedKeys(k, slope_inside, target, b2 * columns.high, exempt)
    outside = RefinedKeys(k, slope_outside, target, b2 * columns.low, exempt)
    return inside, outside


def _attend(
    output: Tensor,
    q: Tensor,
    v: Tensor,
    rows: Tensor,
    keys: RefinedKeys,
    terms: tuple[Tensor, Tensor],
) -> None:
    """Write the attention of some rows into `output`.

    terms: of each row to the columns J and to exempt columns, b h n 1.
    """
    heads, dim = q.shape[1], q.shape[3]
    root = dim**0.5  # attention divides by it
    k = _extend_keys(keys, root, q.dtype)
    v = functional.pad(v, (0, EXTRA_DIMENSIONS))
    positions = torch.arange(len(rows), device=rows.device)
    for block in _split_rows(positions, heads * (dim + EXTRA_DIMENSIONS)):
        part = q[:, :, rows[block]]
        extra = [_term_dimensions(root * term[:, :, block], part) for term in terms]
        ones = torch.ones_like(part[..., :2])
        extended = torch.cat((part, *extra, ones, torch.zeros_like(ones)), -1)
        attended = functional.scaled_dot_product_attention(extended, k, v, scale=1 / root)
        output[:, :, rows[block]] = attended[..., :dim]


def _extend_keys(keys: RefinedKeys, root: float, dtype: torch.dtype) -> Tensor:
    """Return keys with the dimensions that multiply the rows' terms, and with their own columns' terms."""
    b, h, length, _ = keys.k.shape
    extra = torch.zeros(b, h, length, EXTRA_DIMENSIONS, device=keys.k.device)
    extra[..., 0:2].index_fill_(2, keys.target, 1)
    extra[..., 2:4] = keys.exempt[:, None]
    column = _split_halves(root * keys.target_term.expand(b, h, -1), dtype)
    extra[:, :, keys.target, 4:6] = torch.stack(column, -1)
    scaled = keys.k.float() * keys.slope[:, None]
    return torch.cat((scaled, extra), -1).to(dtype)


def _term_dimensions(term: Tensor, like: Tensor) -> Tensor:
    """Return a row's term as two extra dimensions of its query, b h n 2."""
    expanded = term.expand(*like.shape[:3], 1)
    return torch.cat(_split_halves(expanded, like.dtype), -1).to(like.dtype)


def _split_halves(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Split a number into a sum of two that the dtype can hold: one bfloat16 number would lose precision."""
    high = x.to(dtype).float()
    return high, x - high
