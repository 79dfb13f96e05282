"""The door: it sees every site of every family with its grid, changes only what a rule asks
for, and is closed again.
"""

import pytest
import torch
from torch.nn import functional

from holdfast.models import attention, feature_hooks
from holdfast.models.attention.hooks import Layer, token_rows_columns
from holdfast.models.base import Prompt
from holdfast.models.unet.hooks import feature_blocks
from holdfast.sampling import windows

from ... import tiny

FRAMES, SIZE = 3, (5, 6)  # an odd side: halving rounds up


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def network(family):
    return tiny.FAMILIES[family]()


@pytest.fixture
def call(network, family):
    torch.manual_seed(0)
    size = (4, 6) if family == "wan" else SIZE
    z = torch.randn(1, 4, FRAMES, *size)
    words = (
        network.condition(Prompt("a plain red ball", "nothing", (2,))) if family == "wan" else None
    )

    @torch.no_grad()
    def evaluate(branch="tgt+", frames=None):
        return network.velocity(z, 0.7, words, branch=branch, frames=frames)

    return evaluate


def test_every_site_knows_its_place_its_grid_and_its_frames(network, call, family):
    with attention.record(network) as found:
        call("src-", frames=(2, 3, 7))
    assert {site.path for site in found} == {s.path for s in network.attention_hooks.layers}
    assert len({site.path for site in found}) == len(found)
    for site, (q, k, v) in found.items():
        f, h, w = site.token_grid
        assert (f, site.frames, site.branch) == (FRAMES, (2, 3, 7), "src-")
        assert site.section == (
            "block" if site.path.startswith(("blocks", "transformer_in")) else site.section
        )
        tokens = {"joint": (1, f * h * w), "spatial": (f, h * w), "temporal": (h * w, f)}[site.axis]
        assert (len(q), q.shape[2]) == tokens
        assert k.shape == v.shape
        assert site.kind == "cross" or k.shape[2] == q.shape[2]
        assert site.text_span == ((0, k.shape[2]) if site.kind == "cross" else (0, 0))
    kinds = {
        "wan": {("self", "joint"), ("cross", "joint")},
        "sd": {("self", "spatial"), ("cross", "spatial")},
        "t2v": {("self", "spatial"), ("cross", "spatial"), ("self", "temporal")},
        "svd": {
            ("self", "spatial"),
            ("cross", "spatial"),
            ("self", "temporal"),
            ("cross", "temporal"),
        },
    }
    assert {(s.kind, s.axis) for s in found} == kinds[family]
    for kind, axis in kinds[family]:
        layers = [s.index for s in found if (s.kind, s.axis) == (kind, axis)]
        assert layers == list(range(network.attention_hooks.count_layers(kind, axis)))


def test_sites_of_a_coarser_level_say_their_scale(network, call, family):
    with attention.record(network) as found:
        call()
    scales = {site.section: site.cells_per_token for site in found}
    assert scales == (
        {"block": 2}
        if family == "wan"
        else {"block": 1, "down": 1, "mid": 2, "up": 1}
        if family == "t2v"
        else {"down": 1, "mid": 2, "up": 1}
    )
    if family != "wan":
        assert {site.token_grid[1:] for site in found if site.cells_per_token == 2} == {(3, 3)}


@pytest.mark.parametrize("axis", ["joint", "spatial", "temporal"])
def test_map_puts_each_token_where_it_is_and_tokens_takes_it_back(axis):
    """A value that names its own frame, row and column, laid out as each axis lays its tokens out."""
    f, h, w = 2, 3, 4
    site = Layer("", "block", 0, "self", axis, token_grid=(f, h, w), frames=(0, 1))
    names = torch.arange(f * h * w).view(f, h, w)
    layout = {
        "joint": names.reshape(1, -1),
        "spatial": names.reshape(f, h * w),
        "temporal": names.permute(1, 2, 0).reshape(h * w, f),
    }[axis]
    assert torch.equal(site.to_grid(layout)[0, 0], names)
    assert torch.equal(site.to_tokens(names[None, None]), layout)


def test_a_mask_covers_the_tokens_that_it_touches_in_the_frames_of_the_site():
    mask = torch.zeros(1, 1, 5, 4, 4)
    mask[0, 0, 3, 1, 2] = 1
    site = Layer(
        "", "down", 0, "cross", "spatial", token_grid=(2, 2, 2), frames=(1, 3), cells_per_token=2
    )
    assert site.tokens_in_mask(mask).tolist() == [[False] * 4, [False, True, False, False]]


def test_text_may_stand_anywhere_among_the_keys():
    site = Layer("", "block", 0, "cross", "joint", text_span=(257, 769))
    assert site.key_positions((0, 4)).tolist() == [257, 261]


def test_recording_and_declining_leave_every_bit(network, call):
    stock = call()
    with attention.record(network), feature_hooks.record(network):
        assert torch.equal(call(), stock)
    with (
        attention.use_rule(network, lambda *_: None),
        feature_hooks.use_rule(network, lambda *_: None),
    ):
        assert torch.equal(call(), stock)


def test_attention_made_again_from_q_k_and_v_is_the_same(network, call):
    def again(site, q, k, v):
        return functional.scaled_dot_product_attention(q, k, v)

    stock = call()
    with attention.use_rule(network, again):
        assert torch.allclose(call(), stock, atol=1e-5)


def test_what_is_kept_is_what_was_asked_to_keep(network, call):
    with attention.record(
        network, attention.is_cross, lambda site, q, k, v: tuple(q.shape)
    ) as found:
        call()
    assert found
    assert all(site.kind == "cross" and isinstance(kept, tuple) for site, kept in found.items())


def test_only_the_chosen_sites_and_calls_change(network, call):
    stock = {b: call(b) for b in ("tgt+", "tgt-", "src+")}
    asked = []

    def silent(site, q, k, v):
        asked.append(site)
        return torch.zeros_like(q)

    last = network.attention_hooks.count_layers("self", network.attention_hooks.layers[0].axis) - 1

    def where(site):
        return site.kind == "self" and site.index == last and site.branch == "tgt+"

    with attention.use_rule(network, silent, where):
        assert not torch.equal(call("tgt+"), stock["tgt+"])
        assert torch.equal(call("tgt-"), stock["tgt-"])
        assert torch.equal(call("src+"), stock["src+"])
    assert {(s.kind, s.index, s.branch) for s in asked} == {("self", last, "tgt+")}


def processors(network):
    modules = network.network if isinstance(network, tiny.Raw) else network.transformer
    return [m.processor for m in modules.modules() if hasattr(m, "processor")]


def test_the_processors_are_back_after_an_error_and_after_the_last_of_nested_rules(network, call):
    before, stock = processors(network), call()
    with pytest.raises(ZeroDivisionError), attention.use_rule(network, lambda *_: 1 / 0):
        call()
    assert processors(network) == before
    with attention.record(network) as found:
        with attention.use_rule(network, lambda site, q, k, v: torch.zeros_like(q)):
            assert not torch.equal(call(), stock)
        assert torch.equal(call(), stock)
    assert found
    assert processors(network) == before
    assert network.attention_hooks.rules == []
    assert network.attention_hooks.call is None


def test_of_two_rules_the_one_put_in_force_last_is_asked_first(network, call):
    asked = []

    def first(site, q, k, v):
        asked.append("first")

    def second(site, q, k, v):
        asked.append("second")
        return torch.zeros_like(q) if len(asked) > 1 else None

    with attention.use_rule(network, first), attention.use_rule(network, second):
        call()
    assert asked[:3] == ["second", "first", "second"]  # one that declines lets the other answer
    assert "first" not in asked[2:]


def test_residual_blocks_put_out_clips_that_can_be_replaced(network, call):
    stock = call()
    with feature_hooks.record(network) as found:
        call("src+", frames=(4, 5, 6))
    assert {site.path for site in found} == {s.path for s in network.feature_hooks.layers}
    for site, x in found.items():
        assert tuple(x.shape[2:]) == site.token_grid
        assert site.frames == (4, 5, 6)
    kept = {site.path: x for site, x in found.items()}
    with feature_hooks.use_rule(network, lambda site, x: kept[site.path]):
        assert torch.allclose(call(), stock, atol=1e-6)  # its own outputs again
    with feature_hooks.use_rule(
        network, lambda site, x: torch.zeros_like(x), lambda s: s.index == 0
    ):
        assert not torch.allclose(call(), stock, atol=1e-4)
    assert torch.equal(call(), stock)


def test_a_residual_output_is_laid_out_by_frame_row_and_column():
    """A block that names its own frame and place: the door gives it as b c f h w from every layout."""

    class Named(torch.nn.Module):
        def forward(self, x):
            return x

    f, h, w = 3, 2, 4
    names = torch.arange(f * h * w).view(1, 1, f, h, w).float()
    layouts = {
        "spatial": names.transpose(1, 2).flatten(0, 1),
        "temporal": names,
        "joint": names.flatten(2).transpose(1, 2),
    }
    for axis, laid in layouts.items():
        block = Named()
        door = feature_hooks.output_hooks([(Layer("b", "block", 0, "residual", axis), block)])
        field = type("Field", (), {"feature_hooks": door})()
        call = attention.NetworkCall("src+", (0, 1, 2), (h, w))
        with feature_hooks.record(field) as found, door.use_call(call):
            block(laid)
        assert torch.equal(next(iter(found.values())), names)
        with feature_hooks.use_rule(field, lambda site, x: x + 1), door.use_call(call):
            assert torch.equal(block(laid), laid + 1)


def test_sizes_halve_and_round_up():
    assert token_rows_columns(30, (5, 6)) == (5, 6)
    assert token_rows_columns(9, (5, 6)) == (3, 3)
    with pytest.raises(ValueError, match="no halving"):
        token_rows_columns(7, (5, 6))


def test_a_window_tells_which_frames_it_holds(tiny_wan):
    z = torch.randn(1, 4, 7, 4, 6)
    field = windows.apply_windows(tiny_wan.field, windows.plan_windows(tiny_wan.clip_format, 25))
    with attention.record(tiny_wan, lambda s: s.kind == "cross" and s.index == 0) as found:
        field.velocity(z, 0.5, tiny_wan.condition(Prompt("a")), branch="src+")
    assert [s.frames for s in found] == [(0, 1, 2, 3), (3, 4, 5, 6)]
    assert all(s.token_grid == (4, 2, 3) for s in found)


def test_it_works_in_a_compiled_network(tiny_wan):
    torch.manual_seed(0)
    z, condition = torch.randn(1, 4, 3, 4, 6), tiny_wan.condition(Prompt("a plain red ball"))

    def call():
        return tiny_wan.velocity(z, 0.7, condition, branch="tgt+")

    def silence(site, q, k, v):
        return torch.zeros_like(q)

    stock = call()
    with attention.use_rule(tiny_wan, silence):
        silent = call()
    plain = tiny_wan.transformer
    try:
        tiny_wan.parts["transformer"] = torch.compile(plain, backend="eager")
        assert torch.allclose(call(), stock, atol=1e-5)
        with attention.use_rule(tiny_wan, silence):
            assert torch.allclose(call(), silent, atol=1e-5)
        assert torch.allclose(call(), stock, atol=1e-5)
    finally:
        tiny_wan.parts["transformer"] = plain
        torch.compiler.reset()


def test_every_feature_of_a_u_net_is_a_clip_and_can_be_replaced():
    """The new kinds of features: what each holds, and that its own output put back changes nothing."""
    network = tiny.unet2d()
    network.feature_hooks = feature_hooks.output_hooks(feature_blocks(network.network))
    z = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with feature_hooks.record(network) as found:
        stock = network.velocity(z, 0.5, None, branch="tgt+")
    kinds = {"residual", "residual_branch", "attention_input", "attention_output", "block"}
    assert {layer.kind for layer in found} == kinds | {"upsampler"}
    by_path = {layer.path: x for layer, x in found.items()}
    block = "up_blocks.1.resnets.0"
    module = network.network.get_submodule(block)
    # a residual block's output is its branch plus its skip
    skip = {}
    hook = module.conv_shortcut.register_forward_hook(lambda m, i, o: skip.update(x=o))
    network.velocity(z, 0.5, None, branch="tgt+")
    hook.remove()
    branch = by_path[f"{block}.conv2"].transpose(1, 2).flatten(0, 1)
    whole = by_path[block].transpose(1, 2).flatten(0, 1)
    assert torch.allclose(branch + skip["x"], whole, atol=1e-6)
    for layer, x in found.items():
        assert tuple(x.shape[2:]) == layer.token_grid
    with feature_hooks.use_rule(network, lambda layer, x: by_path[layer.path]):
        assert torch.allclose(network.velocity(z, 0.5, None, branch="tgt+"), stock, atol=1e-6)
