"""Edits of attention maps: Prompt-to-Prompt (arXiv:2208.01626), and FateZero's masked self maps (arXiv:2303.09535).

cross-attention, C of the target and C_src of the source, one column for each token:
    replace    C <- C_src M                              M maps the tokens of one prompt to those of the other
    refine     C <- alpha C_src[M] + (1 - alpha) C       alpha is 0 for a token that the source prompt does not have
    re-weight  C <- C c                                  not renormalized
self-attention, S and S_src:  S <- B S + (1 - B) S_src   B is 1 at the queries that the edited words attend to

No self map is ever made: its rows are mixed by a number per query, so the outputs are. The source's queries and keys
are kept instead of its maps; they are smaller by a factor of the number of tokens over the width of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from ...base.errors import UserError
from ...base.lazy import functional, torch
from ...base.prompt_tokens import PromptTokens
from .frames import Sources, attend_to_frames
from .hooks import HasAttention, Layer, record
from .maps import attention_probabilities, average_layers, token_heatmap

if TYPE_CHECKING:
    from torch import Tensor

Variant = Literal["paper", "released"]
MappingKind = Literal["auto", "replace", "refine"]
SourceAttention: TypeAlias = "dict[Layer, tuple[Tensor, Tensor]]"  # q and k of each layer
MAP_SIDE = 32  # the authors edit maps of at most 32^2 queries


@dataclass(frozen=True)
class WordMap:
    """How the target's cross-attention is made from the source's: `(alpha C_src M + (1 - alpha) C) c`."""

    matrix: Tensor  # L L: M, a row for each token of the source, a column for each of the target
    alpha: Tensor  # L
    weights: Tensor  # L: c

    def edit(self, source: Tensor, own: Tensor) -> Tensor:
        """Return the edited map. source, own: maps ... L."""
        matrix, alpha, weights = (x.to(own) for x in (self.matrix, self.alpha, self.weights))
        return (alpha * (source.to(own) @ matrix) + (1 - alpha) * own) * weights


def plan_word_map(
    source: PromptTokens,
    target: PromptTokens,
    length: int,
    kind: MappingKind = "auto",
    variant: Variant = "released",
    weights: Mapping[int, float] | None = None,
) -> WordMap:
    """Return how the map of one prompt becomes that of another, for texts of `length` tokens with their padding.

    kind: auto replaces where both prompts have as many words, and refines otherwise. weights: c by position; 1 where it
    has none. Raise UserError for a replacement between prompts of different length.
    """
    is_equal = len(source.words) == len(target.words)
    if kind == "replace" and not is_equal:
        raise UserError(
            f"a replacement needs prompts of as many words: they have {len(source.words)} and {len(target.words)}",
            "set mapping=refine",
        )
    if kind == "replace" or (kind == "auto" and is_equal):
        matrix, alpha = replacement_matrix(source, target, length, variant), torch.ones(length)
    else:
        matrix, alpha = refinement_matrix(source.ids, target.ids, length, variant)
    c = torch.ones(length)
    for position, weight in (weights or {}).items():
        c[position] = weight
    return WordMap(matrix, alpha, c)


def replacement_matrix(
    source: PromptTokens, target: PromptTokens, length: int, variant: Variant
) -> Tensor:
    """Return M of prompts with as many words, L L: a word that differs takes the map of the word in its place.

    Its tokens are mapped one to one, or all to all with weights 1 / n if they are not as many. As released, all tokens
    after the last such word are mapped to those of the same number, even where the words have shifted.
    """
    matrix = torch.zeros(length, length)
    pairs = [
        (old, new)
        for a, b, old, new in zip(
            source.words, target.words, source.positions, target.positions, strict=True
        )
        if a != b and old and new
    ]
    i = j = 0
    while j < length and (i < length or variant == "paper"):
        if pairs and pairs[0][0][0] == i:
            old, new = pairs.pop(0)
            _map_word(matrix, old, new)
            i, j = i + len(old), j + len(new)
            continue
        matrix[j if variant == "released" and not pairs else min(i, length - 1), j] = 1
        i, j = i + 1, j + 1
    return matrix


def _map_word(matrix: Tensor, old: Sequence[int], new: Sequence[int]) -> None:
    if len(old) == len(new):
        for a, b in zip(old, new, strict=True):
            matrix[a, b] = 1
        return
    for b in new:
        matrix[list(old), b] = 1 / len(new)


def refinement_matrix(
    source: Sequence[int], target: Sequence[int], length: int, variant: Variant
) -> tuple[Tensor, Tensor]:
    """Return M, L L, and alpha, L, of the tokens of two prompts: equal tokens in the same order are mapped.

    Padding is mapped to padding; as released to that of the same number, even where the prompts are not as long.
    """
    matrix, alpha = torch.zeros(length, length), torch.ones(length)
    found = align_tokens(source, target)
    for j, i in enumerate(found):
        if i is None:
            alpha[j] = 0
        else:
            matrix[i, j] = 1
    shift = len(source) - len(target) if variant == "paper" else 0
    for j in range(len(target), length):
        matrix[min(j + shift, length - 1), j] = 1
    return matrix, alpha


def align_tokens(source: Sequence[int], target: Sequence[int]) -> list[int | None]:
    """Return for each target token the source token that it stands for, or None.

    It is the best global alignment (Needleman-Wunsch): 1 for equal tokens, -1 for others, 0 for a gap. Of equally good
    ones: read from the end, new tokens of the target come first.
    """
    rows, columns = len(source), len(target)
    scores = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            match = 1 if source[i - 1] == target[j - 1] else -1
            scores[i][j] = max(scores[i][j - 1], scores[i - 1][j], scores[i - 1][j - 1] + match)
    found: list[int | None] = [None] * columns
    i, j = rows, columns
    while i and j:
        if scores[i][j] == scores[i][j - 1]:
            j -= 1
        elif scores[i][j] == scores[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            found[j] = i
    return found


def has_small_map(layer: Layer, side: int = MAP_SIDE) -> bool:
    """Return whether a layer over space has at most side^2 queries a frame. One that no call has reached has."""
    _, rows, columns = layer.token_grid
    return layer.axis == "spatial" and rows * columns <= side**2


def record_source(
    field: HasAttention, where: Callable[[Layer], bool]
) -> contextlib.AbstractContextManager[SourceAttention]:
    """Collect q and k of the source's positive evaluations at the layers that `where` selects."""
    return record(
        field,
        lambda layer: layer.branch in ("", "src+") and where(layer),
        lambda _, q, k, v: (q, k),
    )


def find_source(found: SourceAttention, layer: Layer) -> tuple[Tensor, Tensor]:
    """Return q and k of the source at a layer of a target's evaluation."""
    return found[replace(layer, branch="src+")]


def edit_cross_attention(
    layer: Layer, q: Tensor, k: Tensor, v: Tensor, found: SourceAttention, words: WordMap
) -> Tensor:
    """Return the output of a cross-attention layer whose map is made from the source's, B heads N d."""
    source = attention_probabilities(*find_source(found, layer))
    return words.edit(source, attention_probabilities(q, k)).to(v) @ v


def edit_self_attention(
    layer: Layer,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    found: SourceAttention,
    sources: Sources,
    mask: Tensor | None,
) -> Tensor:
    """Return `(B S + (1 - B) S_src) v`, B heads N d. mask: B, 1 1 f h w of the clip on the layer's grid; None: 0.

    sources: the frames that each frame attends to.
    """
    q0, k0 = find_source(found, layer)
    kept = attend_to_frames(layer, q0, k0, v, sources)
    if mask is None:
        return kept
    own = attend_to_frames(layer, q, k, v, sources)
    share = layer.to_tokens(mask[:, :, list(layer.frames)])[:, None, :, None].bool()
    return torch.where(share, own, kept)


def word_heat(found: SourceAttention, tokens: Sequence[int]) -> Tensor | None:
    """Return how much each position attends to some tokens, 1 1 f h w: the mean over heads and `blend_layers`.

    None without tokens.
    """
    if not tokens:
        return None
    extract = token_heatmap(tuple(tokens))
    layers = blend_layers(found)
    return average_layers(
        {layer: extract(layer, *found[layer], found[layer][1]) for layer in layers}
    )


def blend_layers(layers: Iterable[Layer]) -> list[Layer]:
    """Return the layers whose maps make a mask: cross-attention of at most 32^2 queries, of these numbers 2 and 3 on
    the way down and the first three on the way up; all of them, of a network that has no such layers.
    """
    small = [layer for layer in layers if layer.kind == "cross" and has_small_map(layer)]
    paths = {
        s: list(dict.fromkeys(x.path for x in small if x.section == s)) for s in ("down", "up")
    }
    chosen = {*paths["down"][2:4], *paths["up"][:3]} or {layer.path for layer in small}
    return [layer for layer in small if layer.path in chosen]


def blend_mask(heat: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Return where the words are, 1 1 f h w in {0, 1}: heat, as its maximum over 3x3, exceeds a share of the frame's.

    heat: 1 1 f h w; size: rows and columns of the mask.
    """
    peaks = functional.max_pool3d(heat, (1, 3, 3), stride=1, padding=(0, 1, 1))
    peaks = functional.interpolate(peaks, size=(heat.shape[2], *size))
    return (peaks / peaks.amax((3, 4), keepdim=True) > threshold).float()


def unite_masks(masks: Iterable[Tensor]) -> Tensor:
    """Return where any of some masks is 1."""
    first, *others = masks
    for other in others:
        first = torch.maximum(first, other)
    return first


def is_replaced(share: float, number: int, count: int, kind: str, variant: Variant) -> bool:
    """Return whether step `number` of `count`, from 0 on, takes the source's maps for a share of the steps.

    As released, the share of cross maps is one of count + 1 steps.
    """
    total = count + 1 if kind == "cross" and variant == "released" else count
    return number < int(share * total)
