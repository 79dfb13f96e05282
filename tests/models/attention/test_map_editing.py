"""Edited attention maps, against maps that are made whole and edited entry by entry."""

import dataclasses

import pytest
import torch

from holdfast.base.errors import UserError
from holdfast.base.prompt_tokens import PromptTokens, locate_tokens
from holdfast.models import attention
from holdfast.models.attention import Layer, map_editing
from holdfast.models.base import Prompt
from tests import tiny

LENGTH = 8


def prompt(*words):
    """The tokens of words that are given as texts of their tokens' letters; 1 begins and 2 ends a prompt."""
    ids, positions = [1], []
    for word in words:
        positions.append(tuple(range(len(ids), len(ids) + len(word))))
        ids += [ord(letter) for letter in word]
    return PromptTokens((*ids, 2), words, tuple(positions))


def pairs(matrix):
    """The entries of a matrix that are not 0, by (source, target)."""
    return {(i, j): round(matrix[i, j].item(), 3) for i, j in matrix.nonzero().tolist()}


def test_tokens_of_words_between_spaces():
    from holdfast.shapeworld.training.text import new_clip_tokenizer

    found = locate_tokens(new_clip_tokenizer(), "a plain red ball, moves", 16)
    assert found.words == ("a", "plain", "red", "ball,", "moves")
    assert [len(p) for p in found.positions] == [1, 1, 1, len(found.ids) - 6, 1]
    assert [p for word in found.positions for p in word] == list(range(1, len(found.ids) - 1))
    short = locate_tokens(new_clip_tokenizer(), "a plain red ball moves", 4)
    assert (len(short.ids), short.positions) == (4, ((1,), (2,), (), (), ()))


def test_a_backbone_says_the_tokens_of_its_prompt():
    backbone = tiny.ADAPTERS["sd"]()
    tokens = backbone.condition(Prompt("a red ball")).tokens
    assert tokens.words == ("a", "red", "ball")
    assert len(tokens.ids) == 5


def test_a_word_is_replaced_by_the_word_in_its_place():
    matrix = map_editing.replacement_matrix(
        prompt("a", "b", "c"), prompt("a", "x", "c"), 6, "paper"
    )
    assert torch.equal(matrix, torch.eye(6))


def test_words_of_other_token_counts_share_their_maps_and_later_ones_shift_as_released_not():
    """a bb c -> a x c, and back: token 4 (c) of one is token 3 of the other."""
    long, short = prompt("a", "bb", "c"), prompt("a", "x", "c")
    shrunk = map_editing.replacement_matrix(long, short, LENGTH, "paper")
    assert pairs(shrunk) == {
        **{(0, 0): 1, (1, 1): 1, (2, 2): 1, (3, 2): 1, (4, 3): 1, (5, 4): 1},
        **{(6, 5): 1, (7, 6): 1, (7, 7): 1},
    }
    released = map_editing.replacement_matrix(long, short, LENGTH, "released")
    assert pairs(released) == {
        **{(0, 0): 1, (1, 1): 1, (2, 2): 1, (3, 2): 1},
        **{(j, j): 1 for j in range(3, LENGTH - 1)},
    }
    grown = map_editing.replacement_matrix(short, long, LENGTH, "paper")
    assert pairs(grown) == {
        **{(0, 0): 1, (1, 1): 1, (2, 2): 0.5, (2, 3): 0.5, (3, 4): 1, (4, 5): 1},
        **{(5, 6): 1, (6, 7): 1},
    }


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("abc", "abc", [0, 1, 2]),
        ("abc", "axc", [0, None, 2]),
        ("ac", "abc", [0, None, 1]),
        ("abc", "ac", [0, 2]),
        ("ab", "ba", [1, None]),  # two alignments are equally good
        ("aba", "a", [0]),
        ("a", "aa", [0, None]),
        ("", "a", [None]),
    ],
)
def test_tokens_are_aligned(source, target, expected):
    found = map_editing.align_tokens(list(map(ord, source)), list(map(ord, target)))
    assert found == expected


def test_new_tokens_keep_their_own_maps_when_a_prompt_is_refined():
    source, target = prompt("a", "c"), prompt("a", "b", "c")
    paddings: dict[map_editing.Variant, tuple] = {"paper": (4, 5, 6), "released": (5, 6, 7)}
    for variant, padding in paddings.items():
        matrix, alpha = map_editing.refinement_matrix(source.ids, target.ids, LENGTH, variant)
        assert alpha.tolist() == [1, 1, 0, 1, 1, 1, 1, 1]
        expected = {(0, 0): 1, (1, 1): 1, (2, 3): 1, (3, 4): 1}
        assert pairs(matrix) == expected | dict.fromkeys(zip(padding, (5, 6, 7), strict=True), 1)


def test_the_kind_follows_the_number_of_words_and_a_replacement_needs_as_many():
    two, other, three = prompt("a", "c"), prompt("b", "c"), prompt("a", "b", "c")
    assert map_editing.plan_word_map(two, other, LENGTH).alpha.all()
    assert not map_editing.plan_word_map(two, three, LENGTH).alpha.all()
    assert not map_editing.plan_word_map(two, other, LENGTH, "refine").alpha.all()
    with pytest.raises(UserError, match="have 2 and 3"):
        map_editing.plan_word_map(two, three, LENGTH, "replace")


F, HEADS, N, D = 3, 2, 4, 5
CROSS = Layer(
    "c", "up", 0, "cross", "spatial", (F, 2, 2), (0, 1, 2), 1, "tgt+", text_span=(0, LENGTH)
)
SELF = dataclasses.replace(CROSS, kind="self", text_span=(0, 0))


def draw(seed, tokens=N):
    return torch.randn(F, HEADS, tokens, D, generator=torch.Generator().manual_seed(seed))


def naive_map(q, k):
    weights = (q @ k.T / D**0.5).exp()
    return weights / weights.sum(1, keepdim=True)


def test_a_cross_map_is_edited_entry_by_entry():
    source, target = prompt("a", "c"), prompt("a", "b", "c")
    q, k, v, q0, k0 = draw(0), draw(1, LENGTH), draw(2, LENGTH), draw(3), draw(4, LENGTH)
    found = {dataclasses.replace(CROSS, branch="src+"): (q0, k0)}
    words = map_editing.plan_word_map(source, target, LENGTH, weights={2: 3.0})
    out = map_editing.edit_cross_attention(CROSS, q, k, v, found, words)
    origin = {0: 0, 1: 1, 3: 2, 4: 3} | {j: j for j in range(5, LENGTH)}  # as released
    for f in range(F):
        for head in range(HEADS):
            own, old = naive_map(q[f, head], k[f, head]), naive_map(q0[f, head], k0[f, head])
            edited = torch.zeros(N, LENGTH)
            for j in range(LENGTH):
                column = own[:, j] if j not in origin else old[:, origin[j]]
                edited[:, j] = column * (3 if j == 2 else 1)
            assert torch.allclose(out[f, head], edited @ v[f, head], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sources", [[[0], [1], [2]], [[0, 0], [0, 0], [1, 0]]])
def test_a_self_map_is_the_sources_outside_the_mask(sources):
    q, k, v, q0, k0 = (draw(seed) for seed in range(5))
    found = {dataclasses.replace(SELF, branch="src+"): (q0, k0)}
    mask = (torch.rand(1, 1, F, 2, 2, generator=torch.Generator().manual_seed(9)) > 0.5).float()
    for given in (mask, None):
        out = map_editing.edit_self_attention(SELF, q, k, v, found, sources, given)
        for f in range(F):
            for head in range(HEADS):
                keys, old_keys, values = (
                    torch.cat([x[j, head] for j in sources[f]]) for x in (k, k0, v)
                )
                own, old = naive_map(q[f, head], keys), naive_map(q0[f, head], old_keys)
                share = 0 if given is None else given[0, 0, f].flatten()[:, None]
                expected = (share * own + (1 - share) * old) @ values
                assert torch.allclose(out[f, head], expected, rtol=1e-5, atol=1e-5)


def test_a_mask_is_where_the_words_attend_more_than_a_share_of_the_frames_most():
    heat = torch.zeros(1, 1, 2, 4, 4)
    heat[0, 0, 0, 0, 0], heat[0, 0, 0, 3, 3] = 1.0, 0.3
    heat[0, 0, 1, 3, 0] = 0.01  # each frame has its own scale
    found = map_editing.blend_mask(heat, (8, 8), 0.3)
    expected = torch.zeros(2, 8, 8)
    expected[0, :4, :4] = expected[1, 4:, :4] = 1  # the neighbours of a peak, at twice the size
    assert torch.equal(found[0, 0], expected)
    assert not map_editing.blend_mask(torch.zeros(1, 1, 1, 2, 2), (2, 2), 0.3).any()
    other = 1 - found
    assert map_editing.unite_masks([found, other]).all()


def test_a_mask_is_made_of_the_third_and_fourth_layer_down_and_the_first_three_up():
    def layer(section, index, side, kind="cross"):
        return Layer(f"{section}{index}", section, index, kind, "spatial", (1, side, side))

    down = [layer("down", i, side) for i, side in enumerate((64, 64, 32, 32, 16, 16))]
    up = [layer("up", 6 + i, side) for i, side in enumerate((16, 16, 16, 32, 32, 32, 64))]
    middle, other = layer("mid", 13, 8), layer("down", 0, 16, "self")
    found = map_editing.blend_layers([*down, middle, other, *up])
    assert [x.path for x in found] == ["down4", "down5", "up6", "up7", "up8"]
    assert map_editing.blend_layers([middle]) == [middle]


def test_the_heat_of_words_is_the_mean_over_heads_and_layers():
    layers = [dataclasses.replace(CROSS, path=path, branch="src+") for path in ("up0", "up1")]
    found = {x: (draw(2 * i), draw(2 * i + 1, LENGTH)) for i, x in enumerate(layers)}
    heat = map_editing.word_heat(found, (1, 3))
    assert heat is not None
    expected = torch.zeros(F, N)
    for q, k in found.values():
        for f in range(F):
            for head in range(HEADS):
                expected[f] += naive_map(q[f, head], k[f, head])[:, [1, 3]].mean(1)
    assert torch.allclose(heat[0, 0].flatten(1), expected / (2 * HEADS), atol=1e-6)
    assert map_editing.word_heat(found, ()) is None


def test_maps_are_replaced_in_the_first_share_of_the_steps():
    """As released the share of cross maps is one of N + 1: at 49 steps 0.8 is 40 of them, not 39."""
    last = lambda *args: max(i for i in range(49) if map_editing.is_replaced(0.8, i, 49, *args))  # noqa: E731
    assert last("cross", "released") == 39
    assert last("cross", "paper") == last("self", "released") == 38
    assert not map_editing.is_replaced(0.0, 0, 49, "cross", "released")


def test_the_sources_positive_evaluations_are_recorded_at_coarse_layers():
    backbone = tiny.ADAPTERS["sd"]()
    conditioning = backbone.condition(Prompt("a red ball"))
    z = torch.zeros(1, 4, 2, 4, 8)
    where = lambda layer: map_editing.has_small_map(layer, 4)  # noqa: E731
    with torch.no_grad(), map_editing.record_source(backbone.field, where) as found:
        for branch in ("src+", "src-", "tgt+"):
            backbone.field.velocity(z, 0.5, conditioning, branch=branch)
    assert {layer.branch for layer in found} == {"src+"}
    assert {layer.token_grid for layer in found} == {(2, 2, 4)}
    with torch.no_grad(), attention.record(backbone.field) as every:
        backbone.field.velocity(z, 0.5, conditioning, branch="src+")
    assert len(found) < len(every)
