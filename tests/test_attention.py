"""The door: it sees every site with its grid, changes only what a rule asks for, and is closed again whatever happens."""

import pytest
import torch
from torch.nn import functional

from holdfast import attention, windows


@pytest.fixture
def call(tiny_wan):
    torch.manual_seed(0)
    z = torch.randn(1, 4, 3, 4, 6)
    condition = tiny_wan.condition("a plain red ball", "nothing", words=[2])
    return lambda branch="tgt+", field=tiny_wan: field.velocity(z, 0.7, condition, branch=branch)


def processors(backbone):
    return [p for block in backbone.transformer.blocks for p in (block.attn1.processor, block.attn2.processor)]


def test_a_site_knows_its_place_and_grid(tiny_wan, call):
    with attention.record(tiny_wan) as found:
        call("src-")
    assert [(s.layer, s.kind) for s in found] == [(0, "self"), (0, "cross"), (1, "self"), (1, "cross")]
    for site, (q, k, v) in found.items():
        assert (site.axis, site.grid, site.first, site.branch) == ("joint", (3, 2, 3), 0, "src-")
        assert q.shape == (1, 2, 18, 12)
        assert k.shape == v.shape == (1, 2, 18 if site.kind == "self" else 32, 12)


def test_recording_and_declining_leave_every_bit(tiny_wan, call):
    stock = call()
    with attention.record(tiny_wan):
        assert torch.equal(call(), stock)
    with attention.edit(tiny_wan, lambda *_: None):
        assert torch.equal(call(), stock)


def test_attention_made_again_from_q_k_and_v_is_the_same(tiny_wan, call):
    def again(site, q, k, v):
        return functional.scaled_dot_product_attention(q, k, v)

    stock = call()
    with attention.edit(tiny_wan, again):
        assert torch.allclose(call(), stock, atol=1e-5)


def test_only_the_chosen_sites_and_calls_change(tiny_wan, call):
    stock = {b: call(b) for b in ("tgt+", "tgt-", "src+")}
    asked = []

    def silent(site, q, k, v):
        asked.append(site)
        return torch.zeros_like(q)

    with attention.edit(tiny_wan, silent, lambda s: s.kind == "cross" and s.layer == 1 and s.branch == "tgt+"):
        assert not torch.equal(call("tgt+"), stock["tgt+"])
        assert torch.equal(call("tgt-"), stock["tgt-"])
        assert torch.equal(call("src+"), stock["src+"])
    assert [(s.layer, s.kind, s.branch) for s in asked] == [(1, "cross", "tgt+")]


def test_the_processors_are_back_after_an_error_and_after_the_last_of_nested_rules(tiny_wan, call):
    before, stock = processors(tiny_wan), call()
    with pytest.raises(ZeroDivisionError), attention.edit(tiny_wan, lambda *_: 1 / 0):
        call()
    assert processors(tiny_wan) == before
    with attention.record(tiny_wan) as found:
        with attention.edit(tiny_wan, lambda site, q, k, v: torch.zeros_like(q)):
            assert not torch.equal(call(), stock)
        assert torch.equal(call(), stock)
    assert found
    assert processors(tiny_wan) == before
    assert tiny_wan.door.rules == []


def test_a_window_tells_where_it_begins(tiny_wan):
    z = torch.randn(1, 4, 7, 4, 6)
    field = windows.fitted(tiny_wan, windows.plan(tiny_wan.grid, 25))
    with attention.record(tiny_wan, lambda s: s.kind == "cross" and s.layer == 0) as found:
        field.velocity(z, 0.5, tiny_wan.condition("a"), branch="src+")
    assert [s.first for s in found] == [0, 3]
    assert all(s.grid == (4, 2, 3) for s in found)
    assert tiny_wan.door.first == 0


def test_it_works_in_a_compiled_network(tiny_wan, call):
    stock = call()
    with attention.edit(tiny_wan, lambda site, q, k, v: torch.zeros_like(q)):
        silent = call()
    plain = tiny_wan.transformer
    try:
        tiny_wan.transformer = torch.compile(plain, backend="eager")
        assert torch.allclose(call(), stock, atol=1e-5)
        with attention.edit(tiny_wan, lambda site, q, k, v: torch.zeros_like(q)):
            assert torch.allclose(call(), silent, atol=1e-5)
        assert torch.allclose(call(), stock, atol=1e-5)
    finally:
        tiny_wan.transformer = plain
        torch.compiler.reset()


def test_share_is_the_softmax_probability_of_some_columns():
    torch.manual_seed(0)
    q, k = torch.randn(1, 3, 50, 8), torch.randn(1, 3, 20, 8)
    columns = torch.tensor([2, 7])
    whole = (q @ k.mT / 8**0.5).softmax(-1)[..., columns].mean((0, 1, 3))
    assert torch.allclose(attention.share(q, k, columns), whole, atol=1e-6)


def test_maps_of_windows_become_one_of_the_clip():
    parts = [(0, torch.ones(1, 1, 3, 2, 2)), (2, 3 * torch.ones(1, 1, 3, 2, 2))]
    assert attention.assembled(parts)[0, 0, :, 0, 0].tolist() == [1, 1, 2, 3, 3]


def test_the_refinement_runs_in_bfloat16(tiny_wan):
    import copy

    from holdfast.backbones.wan import Wan
    from holdfast.methods.flowanchor import Anchor, Config

    half = Wan(copy.deepcopy(tiny_wan.transformer).to(torch.bfloat16), shift=3.0)
    condition = tiny_wan.condition("a plain red ball", words=[2])
    z, mask = torch.randn(1, 4, 3, 4, 6), torch.zeros(1, 1, 3, 4, 6)
    mask[..., :3] = 1
    results = []
    for backbone in (tiny_wan, half):
        with attention.edit(backbone, Anchor(mask, condition, Config()), Anchor.where):
            results.append(backbone.velocity(z, 0.7, condition, branch="tgt+"))
    assert torch.allclose(*results, atol=0.05)
