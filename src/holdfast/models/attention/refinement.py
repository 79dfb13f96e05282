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

Several targets t, each with its own mask and its own columns J_t, are our extension. J is the union of all J_t, and a
row belongs to one mask at most. Inside mask t, "in J" of TTM reads "in J_t". In STM a column of J is raised in the rows
of the masks that own it, and lowered in all other rows, those of the other masks included:

  TTM, rows inside mask t:    A'_ij  = A_ij + b1 (Amax_i - A_ij)     j in J_t
                              A'_ij  = A_ij - b1 (A_ij - Amin_i)     j not in J_t
  STM, columns J:             A''_ij = A'_ij + b2 (A'max_j - A'_ij)  i inside a mask t with j in J_t
                              A''_ij = A'_ij - b2 (A'_ij - A'min_j)  all other i

so that a row inside mask t sees (1-b1)(1-b2) A_ij - b1 b2 Amin_i + b2 A'min_j for another target's column j. With one
target these are the paper's equations.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...base.lazy import functional, torch
from .maps import rows_per_block

if TYPE_CHECKING:
    from torch import Tensor

EXTRA_DIMENSIONS = 8  # carry the terms: two halves of each of three row terms and of the column's


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
    """The positions of the rows inside each target's mask, and of those outside all masks.

    A mask's rows do not change from layer to layer and step to step. Finding them makes a GPU wait, so a caller keeps
    them.
    """

    inside: tuple[Tensor, ...]
    outside: Tensor

    @staticmethod
    def split(*inside: Tensor) -> MaskRows:
        """Return the positions by N booleans for each target, on their device.

        A row in several masks belongs to the last of them.
        """
        owners = torch.full(inside[0].shape, -1)
        for number, covered in enumerate(inside):
            owners[covered.cpu()] = number
        device = inside[0].device
        positions = [(owners == n).nonzero().flatten().to(device) for n in range(len(inside))]
        return MaskRows(tuple(positions), (owners < 0).nonzero().flatten().to(device))


@dataclass(frozen=True)
class WordColumns:
    """The columns J of all targets' words, and which of them are each target's own."""

    positions: Tensor  # J
    own: Tensor  # targets x J, boolean

    @staticmethod
    def join(*targets: Sequence[int], device: torch.device | None = None) -> WordColumns:
        """Return the columns of targets, given each one's positions among the keys."""
        union = list(dict.fromkeys(itertools.chain(*targets)))
        own = [[position in positions for position in union] for positions in targets]
        positions = torch.tensor(union, dtype=torch.long, device=device)
        return WordColumns(positions, torch.tensor(own, dtype=torch.bool, device=device))


def refine_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: MaskRows,
    words: WordColumns,
    refinement: LogitRefinement,
) -> Tensor:
    """Return attention with refined logits, `b h N d`.

    q: b h N d; k, v: b h L d; rows, words: of the same targets, in one order.
    """
    extremes, columns = _find_extremes(q, k, rows, words, refinement)
    b1, b2 = refinement.beta_text, refinement.beta_video
    output = torch.empty_like(q)
    for inside, own, row in zip(rows.inside, words.own, extremes, strict=True):
        own_term = (1 - b2) * b1 * row.high - b1 * row.low  # r_i
        terms = own_term, -b1 * row.low, -b1 * b2 * row.low
        keys = _refine_keys_inside(k, words, own, columns, refinement)
        _attend(output, q, v, inside, keys, terms)
    zero = torch.zeros(len(q), 1, len(rows.outside), 1, device=q.device)
    keys = _refine_keys_outside(k, words, columns, refinement)
    _attend(output, q, v, rows.outside, keys, (zero, zero, zero))
    return output


@dataclass(frozen=True)
class Extremes:
    """The lowest and the highest logits of rows or columns."""

    low: Tensor
    high: Tensor


def _find_extremes(
    q: Tensor, k: Tensor, rows: MaskRows, words: WordColumns, refinement: LogitRefinement
) -> tuple[list[Extremes], Extremes]:
    """Return the extremes over text of each target's rows, b h n 1, and of each column J over all rows after TTM,
    b h J.

    They are computed in blocks of rows.
    """
    heads, dim, length = q.shape[1], q.shape[3], k.shape[2]
    k = k.float()
    of_rows, column_low, column_high = [], [], []  # the columns' a block at a time
    empty = q.new_zeros(q.shape[0], 1, 0, 1, dtype=torch.float32)
    for inside, own in zip(rows.inside, words.own, strict=True):
        row_low, row_high = [], []
        for block in _split_rows(inside, heads * (length + dim)):
            logits = _logits(q, k, block, refinement)
            text = logits[..., refinement.key_begin : refinement.key_end]
            low, high = text.aminmax(dim=-1, keepdim=True)
            row_low.append(low)
            row_high.append(high)
            b1 = refinement.beta_text
            refined = (1 - b1) * logits[..., words.positions] + b1 * torch.where(own, high, low)
            column_low.append(refined.amin(dim=2))
            column_high.append(refined.amax(dim=2))
        of_rows.append(
            Extremes(torch.cat(row_low or [empty], 2), torch.cat(row_high or [empty], 2))
        )
    for block in _split_rows(rows.outside, heads * (len(words.positions) + dim)):
        logits = _logits(q, k[:, :, words.positions], block, refinement)
        column_low.append(logits.amin(dim=2))
        column_high.append(logits.amax(dim=2))
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
    columns: Tensor  # positions of the columns J
    own: Tensor  # J boolean: those of the rows' own target
    column_term: Tensor  # b h J: is added to their logits
    exempt: Tensor  # L boolean: columns that TTM does not change


def _refine_keys_inside(
    k: Tensor, words: WordColumns, own: Tensor, columns: Extremes, refinement: LogitRefinement
) -> RefinedKeys:
    """Return the keys for rows inside a target's mask. own: J boolean, the target's columns."""
    b1, b2 = refinement.beta_text, refinement.beta_video
    is_word = _mark_columns(k, words)
    exempt = torch.zeros_like(is_word)
    if refinement.exempt_keys is not None:
        exempt = refinement.exempt_keys & ~is_word
    others = torch.where(exempt, 1.0, 1 - b1)
    slope = torch.where(is_word, (1 - b1) * (1 - b2), others)
    column_term = b2 * torch.where(own, columns.high, columns.low)
    return RefinedKeys(k, slope, words.positions, own, column_term, exempt)


def _refine_keys_outside(
    k: Tensor, words: WordColumns, columns: Extremes, refinement: LogitRefinement
) -> RefinedKeys:
    """Return the keys for rows outside all masks."""
    b2 = refinement.beta_video
    is_word = _mark_columns(k, words)
    slope = torch.where(is_word, 1 - b2, 1.0)
    own, exempt = torch.zeros_like(words.own[0]), torch.zeros_like(is_word)
    return RefinedKeys(k, slope, words.positions, own, b2 * columns.low, exempt)


def _mark_columns(k: Tensor, words: WordColumns) -> Tensor:
    """Return which keys are columns of J, L boolean."""
    is_word = torch.zeros(k.shape[2], dtype=torch.bool, device=k.device)
    return is_word.index_fill_(0, words.positions, True)


def _attend(
    output: Tensor,
    q: Tensor,
    v: Tensor,
    rows: Tensor,
    keys: RefinedKeys,
    terms: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Write the attention of some rows into `output`.

    terms: of each row to its own target's columns, to exempt columns and to other targets' columns, b h n 1.
    """
    heads, dim = q.shape[1], q.shape[3]
    root = dim**0.5  # attention divides by it
    k = _extend_keys(keys, root, q.dtype)
    v = functional.pad(v, (0, EXTRA_DIMENSIONS))
    positions = torch.arange(len(rows), device=rows.device)
    for block in _split_rows(positions, heads * (dim + EXTRA_DIMENSIONS)):
        part = q[:, :, rows[block]]
        extra = [_term_dimensions(root * term[:, :, block], part) for term in terms]
        own, exempt, others = extra
        extended = torch.cat((part, own, exempt, torch.ones_like(own), others), -1)
        attended = functional.scaled_dot_product_attention(extended, k, v, scale=1 / root)
        output[:, :, rows[block]] = attended[..., :dim]


def _extend_keys(keys: RefinedKeys, root: float, dtype: torch.dtype) -> Tensor:
    """Return keys with the dimensions that multiply the rows' terms, and with their own columns' terms."""
    b, h, length, _ = keys.k.shape
    extra = torch.zeros(b, h, length, EXTRA_DIMENSIONS, device=keys.k.device)
    extra[:, :, keys.columns, 0:2] = keys.own[:, None].float()
    extra[..., 2:4] = keys.exempt[:, None]
    column = _split_halves(root * keys.column_term.expand(b, h, -1), dtype)
    extra[:, :, keys.columns, 4:6] = torch.stack(column, -1)
    extra[:, :, keys.columns, 6:8] = 1 - keys.own[:, None].float()
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
