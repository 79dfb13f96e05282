"""Affine refinement in closed form against a naive reference that builds the whole map, and its limits."""

import itertools

import pytest
import torch

from holdfast.models.attention import maps
from holdfast.models.attention.refinement import (
    LogitRefinement,
    MaskRows,
    WordColumns,
    refine_attention,
)


def naive_logits(a, inside, target, how):
    """Equations 6 to 9 on the map itself, b h N L."""
    return naive_logits_of_targets(a, [inside], [target], how)


def naive_logits_of_targets(a, masks, targets, how):
    """Equations 6 to 9 for several masks, N booleans without a common row, and each one's own columns."""
    stats = a.mean(1, keepdim=True) if how.statistics == "mean" else a
    b1, b2 = how.beta_text, how.beta_video
    top, bottom = (
        stats[..., : how.key_end].amax(-1, keepdim=True),
        stats[..., : how.key_end].amin(-1, keepdim=True),
    )
    length = a.shape[-1]
    is_own = torch.zeros(a.shape[-2], length, dtype=torch.bool)  # row i, column j: i in t, j in J_t
    columns, inside = torch.zeros(length, dtype=torch.bool), torch.zeros(len(is_own)).bool()
    for covered, target in zip(masks, targets, strict=True):
        own = torch.zeros(length, dtype=torch.bool)
        own[target] = True
        is_own |= covered[:, None] & own
        columns |= own
        inside |= covered

    def ttm(x, high, low):
        changed = torch.where(is_own, x + b1 * (high - x), x - b1 * (x - low))
        if how.exempt_keys is not None:
            changed = torch.where(how.exempt_keys & ~columns, x, changed)
        return torch.where(inside[:, None], changed, x)

    first, first_stats = ttm(a, top, bottom), ttm(stats, top, bottom)
    high, low = first_stats.amax(2, keepdim=True), first_stats.amin(2, keepdim=True)
    second = torch.where(is_own, first + b2 * (high - first), first - b2 * (first - low))
    return torch.where(columns, second, first)


def naive(q, k, v, inside, target, how):
    a = q @ k.mT / q.shape[-1] ** 0.5
    return naive_logits(a, inside, target, how).softmax(-1) @ v


def refine(q, k, v, inside, target, how):
    return refine_attention(q, k, v, MaskRows.split(inside), WordColumns.join(target.tolist()), how)


def setup(tokens=60, text=20, dim=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    q, k, v = (
        torch.randn(1, 3, n, dim, generator=generator) * s
        for n, s in ((tokens, 2), (text, 1.5), (text, 1))
    )
    k[:, :, 12:], v[:, :, 12:] = k[:, :, 12:13], v[:, :, 12:13]  # padding: all alike
    return q.to(dtype), k.to(dtype), v.to(dtype)


MASKS = {
    "some": torch.arange(60) % 3 == 0,
    "one": torch.arange(60) == 7,
    "all": torch.ones(60, dtype=torch.bool),
    "none": torch.zeros(60, dtype=torch.bool),
}
BETAS = [(0.3, 0.3), (0, 0.5), (0.5, 0), (1, 1), (1, 0), (0, 1), (0.7, 0.1)]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("betas", BETAS)
def test_the_closed_form_is_the_naive_one(mask, betas):
    q, k, v = setup()
    for target, length, kept, statistics in itertools.product(
        [[4], [3, 9]], [20, 12], [None, torch.arange(20) >= 12], ["head", "mean"]
    ):
        how = LogitRefinement(*betas, length, kept, statistics)
        ours = refine(q, k, v, MASKS[mask], torch.tensor(target), how)
        assert torch.allclose(
            ours, naive(q, k, v, MASKS[mask], torch.tensor(target), how), atol=1e-5
        ), (target, length, statistics)


def test_it_is_the_same_in_blocks(monkeypatch):
    q, k, v = setup()
    how, target = LogitRefinement(0.3, 0.3, 20), torch.tensor([4])
    whole = refine(q, k, v, MASKS["some"], target, how)
    monkeypatch.setattr(maps, "rows_per_block", lambda count, row, device=None: min(count, 7) or 1)
    assert torch.allclose(refine(q, k, v, MASKS["some"], target, how), whole, atol=1e-6)


def test_bfloat16_is_as_near_as_bfloat16_attention_is():
    q, k, v = setup(dtype=torch.bfloat16)
    how, target = LogitRefinement(0.3, 0.3, 20), torch.tensor([4])
    exact = naive(q.float(), k.float(), v.float(), MASKS["some"], target, how)
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v).float() - naive(
        q.float(), k.float(), v.float(), MASKS["none"], target, LogitRefinement(0, 0, 20)
    )
    ours = refine(q, k, v, MASKS["some"], target, how).float() - exact
    assert ours.abs().max() < 3 * plain.abs().max() + 0.02


def test_keys_that_are_no_text_do_not_count():
    """The same text behind five other keys that are left alone: the refined part of the softmax is the naive one's."""
    q, k, v = setup()
    others = torch.arange(20) < 5
    how = LogitRefinement(0.3, 0.3, 20, exempt_keys=others, key_begin=5)
    a = q @ k.mT / 4
    top, bottom = a[..., 5:].amax(-1, keepdim=True), a[..., 5:].amin(-1, keepdim=True)
    inside, column = MASKS["some"][:, None], torch.arange(20) == 7
    raised = torch.where(column, a + 0.3 * (top - a), a - 0.3 * (a - bottom))
    first = torch.where(inside & ~others, raised, a)
    high, low = first.amax(2, keepdim=True), first.amin(2, keepdim=True)
    moved = torch.where(inside, first + 0.3 * (high - first), first - 0.3 * (first - low))
    expected = torch.where(column, moved, first).softmax(-1) @ v
    ours = refine(q, k, v, MASKS["some"], torch.tensor([7]), how)
    assert torch.allclose(ours, expected, atol=1e-5)


def test_a_term_is_carried_in_two_halves_that_bfloat16_keeps():
    from holdfast.models.attention.refinement import _split_halves

    x = torch.linspace(-7, 9, 501)
    high, low = (half.to(torch.bfloat16).float() for half in _split_halves(x, torch.bfloat16))
    assert (high + low - x).abs().max() < 2e-4
    assert (high - x).abs().max() > 2e-3  # one alone would not do


def test_the_papers_worked_example():
    """b = 0.3, rows 0 and 1 inside, column 0 the target."""
    a = torch.tensor([[1, 2, 0], [0.5, 1.5, 1], [2, 1, 0.5]])[None, None]
    refined_logits = naive_logits(
        a, torch.tensor([True, True, False]), torch.tensor([0]), LogitRefinement(0.3, 0.3, 3)
    )
    assert refined_logits[0, 0, :, 0].tolist() == pytest.approx([1.51, 1.16, 1.64])
    assert refined_logits[0, 0, 0, 1:].tolist() == pytest.approx([1.4, 0])
    assert refined_logits[0, 0, 1, 1:].tolist() == pytest.approx([1.2, 0.85])


@pytest.mark.parametrize("betas", BETAS)
def test_refined_logits_stay_in_the_old_range(betas):
    q, k, _ = setup()
    a = q @ k.mT / 4
    changed = naive_logits(a, MASKS["some"], torch.tensor([3, 9]), LogitRefinement(*betas, 20))
    assert changed.amax() <= a.amax() + 1e-6
    assert changed.amin() >= a.amin() - 1e-6


TARGETS = {
    "apart": ([4], [9]),
    "a shared word": ([4, 9], [9, 2]),
    "one without words": ([4], []),
    "three": ([4], [9], [1, 2]),
}


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("betas", BETAS)
def test_several_targets_are_the_naive_equations(targets, betas):
    q, k, v = setup()
    a = q @ k.mT / 4
    masks = [torch.arange(60) % 5 == n for n in range(len(targets))]
    rows, words = MaskRows.split(*masks), WordColumns.join(*targets)
    for length, kept, statistics in itertools.product(
        [20, 12], [None, torch.arange(20) >= 12], ["head", "mean"]
    ):
        how = LogitRefinement(*betas, length, kept, statistics)
        expected = naive_logits_of_targets(a, masks, targets, how).softmax(-1) @ v
        ours = refine_attention(q, k, v, rows, words, how)
        assert torch.allclose(ours, expected, atol=1e-5), (length, statistics)


def test_each_target_raises_its_own_words_and_lowers_the_others():
    q, k, _ = setup()
    a = q @ k.mT / 4
    masks = [torch.arange(60) < 20, torch.arange(60) >= 40]
    changed = naive_logits_of_targets(a, masks, [[4], [9]], LogitRefinement(0.3, 0.3, 20))
    higher, lower = changed >= a, changed <= a
    for rows, own, other in ((masks[0], 4, 9), (masks[1], 9, 4)):
        assert higher[:, :, rows, own].all()
        assert lower[:, :, rows, other].all()
    outside = ~(masks[0] | masks[1])
    assert lower[:, :, outside][..., [4, 9]].all()
    assert torch.equal(changed[:, :, outside][..., 10:], a[:, :, outside][..., 10:])


def test_a_row_in_two_masks_belongs_to_the_last():
    first, last = torch.arange(6) < 4, torch.arange(6) > 2
    rows = MaskRows.split(first, last)
    assert [inside.tolist() for inside in rows.inside] == [[0, 1, 2], [3, 4, 5]]
    assert rows.outside.tolist() == []
    assert MaskRows.split(first).outside.tolist() == [4, 5]


def test_two_targets_with_the_same_words_are_one_with_both_masks():
    q, k, v = setup()
    masks, how = [MASKS["one"], MASKS["some"] & ~MASKS["one"]], LogitRefinement(0.3, 0.3, 20)
    both = refine_attention(q, k, v, MaskRows.split(*masks), WordColumns.join([4], [4]), how)
    one = refine(q, k, v, masks[0] | masks[1], torch.tensor([4]), how)
    assert torch.allclose(both, one, atol=1e-6)
