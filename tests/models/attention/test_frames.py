"""Attention over space that reads other frames, against loops over frames and explicit maps."""

import dataclasses

import pytest
import torch

from holdfast.models import attention
from holdfast.models.attention import Layer, frames, maps

F, HEADS, N, D = 4, 2, 3, 5
LAYER = dataclasses.replace(Layer("a", "up", 0, "self", "spatial"), frames=tuple(range(F)))


def draw(seed):
    return torch.randn(2 * F, HEADS, N, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("own", [[0], [1], [2], [3]]),
        ("first", [[0]] * 4),
        ("previous", [[0], [0], [1], [2]]),
        ("first+previous", [[0, 0], [0, 0], [0, 1], [0, 2]]),
        ("previous+first", [[0, 0], [0, 0], [1, 0], [2, 0]]),
        ("middle", [[2]] * 4),
        ("all", [[0, 1, 2, 3]] * 4),
    ],
)
def test_each_frame_attends_to_the_frames_of_its_kind(kind, expected):
    sources = frames.frame_sources(kind, F)
    assert sources == expected
    q, k, v = draw(0), draw(1), draw(2)
    out = frames.attend_to_frames(LAYER, q, k, v, sources)
    for batch in range(2):
        for i, chosen in enumerate(expected):
            keys = torch.cat([k[batch * F + j] for j in chosen], 1)  # heads nN d
            values = torch.cat([v[batch * F + j] for j in chosen], 1)
            weights = (q[batch * F + i] @ keys.mT / D**0.5).softmax(-1)
            assert torch.allclose(out[batch * F + i], weights @ values, atol=1e-6)


def test_key_frames_are_the_same_for_all():
    assert frames.fixed_sources([0, 2], 3) == [[0, 2]] * 3


def test_the_whole_map_gives_the_output_of_attention():
    q, k, v = draw(3), draw(4), draw(5)
    out = maps.attention_probabilities(q, k) @ v
    stock = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(out, stock, atol=1e-6)


def test_frames_join_and_split():
    x = draw(6)
    joined = frames.merge_frames(x, F)
    assert joined.shape == (2, HEADS, F * N, D)
    assert torch.equal(joined[1, :, N : 2 * N], x[F + 1])
    assert torch.equal(frames.split_frames(joined, F), x)


def test_a_rule_sees_all_frames_of_a_long_clip_together():
    """An image model runs 16 frames a call, but not while a rule may read other frames."""
    from holdfast.models.base import Prompt

    from ... import tiny

    backbone = tiny.ADAPTERS["sd"]()
    conditioning = backbone.condition(Prompt("a ball", ""))
    z = torch.randn(1, 4, 18, 4, 4, generator=torch.Generator().manual_seed(0))
    seen = set()

    def rule(layer, q, k, v):
        seen.add(len(layer.frames))

    with torch.no_grad():
        stock = backbone.field.velocity(z, 0.5, conditioning, branch="tgt+")
        with attention.use_rule(backbone.field, rule):
            together = backbone.field.velocity(z, 0.5, conditioning, branch="tgt+")
    assert seen == {18}
    assert torch.allclose(stock, together, atol=1e-5)
