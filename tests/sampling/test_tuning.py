"""Motion tuning: the loss against EDM's weighted one, the levels, adapters that come and go without a trace."""

import copy
import math

import pytest
import torch

from holdfast.models.base import Prompt
from holdfast.models.svd import spec
from holdfast.sampling import adapters as low_rank
from holdfast.sampling import tuning
from holdfast.sampling.noise import add_noise, keyed_noise

from .. import tiny

FIT = tuning.TuningOptions(steps=4, learning_rate=5e-3, seed=0)


@pytest.fixture(scope="module")
def backbone():
    return tiny.stable_video()


@pytest.fixture(scope="module")
def clip(backbone):
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    z = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return z, backbone.condition(Prompt(image=image))


@pytest.mark.parametrize("s", [0.05, 1.0, 30.0])
def test_the_loss_is_edms_weighted_error_of_the_clean_estimate(backbone, clip, s):
    """(1 + s^2) / s^2 |D - x0|^2, with D from the network's own v."""
    clean, condition = clip
    eps, sigma = torch.randn_like(clean), spec.sigma_from_edm(s)
    x = clean + s * eps
    with torch.no_grad():
        velocity = backbone.velocity(add_noise(clean, sigma, eps), sigma, condition, branch="tgt+")
        ours = tuning.v_loss(backbone, clean, eps, sigma, condition)
    # velocity = noise - D and x = D + s noise
    denoised = (x - s * velocity) / (1 + s)
    weighted = (1 + s**2) / s**2 * (denoised - clean).square().mean()
    assert ours.item() == pytest.approx(weighted.item(), rel=1e-3)


def test_levels_span_the_models_range_and_half_are_noisier_than_the_signal_shifted():
    spreads = [spec.edm_from_sigma(tuning.sigma_at(i / 1000)) for i in range(1001)]
    assert spreads[0] == pytest.approx(700, rel=1e-6)
    assert spreads[-1] == pytest.approx(0.002, rel=1e-6)
    assert spreads == sorted(spreads, reverse=True)
    # halfway: the plain cosine schedule is at the data's deviation, shifted by half of log(2) in s
    assert spreads[500] == pytest.approx(0.5 * math.sqrt(2), rel=0.01)
    # a quarter from the noisy end, by the two schedules written out: three quarters of the shifted one
    logs = []
    for side in (32, 64):
        shift = 2 * math.log(side / 64)
        ends = [-2 * math.log(s / 0.5) - shift for s in (700, 0.002)]
        first, last = (math.atan(math.exp(-e / 2)) for e in ends)
        logs.append(-2 * math.log(math.tan(0.75 * first + 0.25 * last)) + shift)
    expected = 0.5 * math.exp(-(0.75 * logs[0] + 0.25 * logs[1]) / 2)
    assert spreads[250] == pytest.approx(expected, rel=1e-6)


def test_what_is_tuned_by_the_papers_words_and_as_released(backbone):
    network, sites = backbone.network, backbone.attention_hooks.layers
    blocks = {s.path.rpartition(".")[0] for s in sites if s.axis == "temporal"}
    own = low_rank.find_layers(network, sites, "attention")
    assert len(own) == 4 * len(blocks)
    assert all(".temporal_transformer_blocks.0.attn1." in path for path in own)
    every = low_rank.find_layers(network, sites, "published")
    assert len(every) == 10 * len(blocks)  # 12 less the two without effect
    assert not any(path.endswith(("attn2.to_q", "attn2.to_k")) for path in every)


def test_queries_and_keys_over_one_token_have_no_effect(backbone, clip):
    """Attention over a context of one token is that token's value, whatever the queries are."""
    z, condition = clip
    before = backbone.velocity(z, 0.7, condition, branch="tgt+")
    changed = copy.deepcopy(backbone.network.state_dict())
    for name in changed:
        if "attn2.to_q" in name or "attn2.to_k" in name:
            changed[name] = torch.randn_like(changed[name])
    kept = copy.deepcopy(backbone.network.state_dict())
    backbone.network.load_state_dict(changed)
    try:
        after = backbone.velocity(z, 0.7, condition, branch="tgt+")
    finally:
        backbone.network.load_state_dict(kept)
    assert torch.allclose(before, after, atol=1e-5)


def velocities(field, clip):
    z, condition = clip
    with torch.no_grad():
        return [field.velocity(z, 0.7, condition, branch=b) for b in ("src+", "tgt+", "tgt-")]


def test_adapters_begin_without_effect_act_in_target_calls_alone_and_leave_no_trace(backbone, clip):
    stock, names = velocities(backbone, clip), list(backbone.network.state_dict())
    paths = low_rank.find_layers(backbone.network, backbone.attention_hooks.layers, "attention")
    with low_rank.mount_adapters(backbone.network, paths, 2, seed=0) as adapters:
        field = low_rank.enable_for_target(backbone.field, adapters)
        for ours, theirs in zip(velocities(field, clip), stock, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)
        for _, state in tuning.tune_adapters(field, adapters, clip, FIT, {}):  # noqa: B007
            pass
        source, *targets = velocities(field, clip)
        assert torch.equal(source, stock[0])
        assert not any(
            torch.allclose(a, b, atol=1e-4) for a, b in zip(targets, stock[1:], strict=True)
        )
    assert list(backbone.network.state_dict()) == names
    assert all(torch.equal(a, b) for a, b in zip(velocities(backbone, clip), stock, strict=True))
    assert not any(p.requires_grad for p in backbone.network.parameters())
    assert set(state) == {f"{path}.{part}" for path in paths for part in ("down", "up")}
    down, up = state[f"{paths[0]}.down"], state[f"{paths[0]}.up"]
    assert (up @ down).shape == backbone.network.get_submodule(paths[0]).weight.shape


def test_fitting_lowers_the_loss_of_the_clip(backbone, clip):
    clean, condition = clip
    paths = low_rank.find_layers(backbone.network, backbone.attention_hooks.layers, "published")
    fit = tuning.TuningOptions(steps=40, learning_rate=5e-3, seed=0)

    def loss(field):
        levels = [tuning.sigma_at(s) for s in (0.2, 0.4, 0.6)]
        eps = keyed_noise(clean, 9, 0)
        with torch.no_grad():
            return sum(float(tuning.v_loss(field, clean, eps, s, condition)) for s in levels)

    with low_rank.mount_adapters(backbone.network, paths, 4, seed=0) as adapters:
        field = low_rank.enable_for_target(backbone.field, adapters)
        before = loss(field)
        for _ in tuning.tune_adapters(field, adapters, clip, fit, {}):
            pass
        assert loss(field) < 0.97 * before


def test_adapters_are_fitted_in_float32_whatever_the_network_is_in(clip):
    """In bfloat16 most entries of `down` would never move. Down begins with a deviation of 1 / rank."""
    half = tiny.stable_video()
    half.network.to(torch.bfloat16)
    half.dtype = torch.bfloat16
    paths = low_rank.find_layers(half.network, half.attention_hooks.layers, "attention")
    with low_rank.mount_adapters(half.network, paths, 8, seed=0) as adapters:
        before = adapters.tensors()
        downs = torch.cat([t.flatten() for n, t in before.items() if n.endswith(".down")])
        assert downs.dtype == torch.float32
        assert downs.std().item() == pytest.approx(1 / 8, rel=0.1)
        fit = tuning.TuningOptions(steps=8, learning_rate=5e-4, seed=0)
        for _ in tuning.tune_adapters(
            low_rank.enable_for_target(half.field, adapters), adapters, clip, fit, {}
        ):
            pass
        after = adapters.tensors()
        moved = [
            (after[n] != t).float().mean().item() for n, t in before.items() if n.endswith(".down")
        ]
        assert min(moved) > 0.95


@pytest.mark.parametrize("which", ["attention", "published"])
def test_a_users_own_lora_is_tuned_around_and_left_as_it_was(clip, which):
    from peft import LoraConfig, inject_adapter_in_model

    made = tiny.stable_video()
    stock = low_rank.find_layers(made.network, made.attention_hooks.layers, which)
    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    inject_adapter_in_model(config, made.network, adapter_name="style")
    before, told = velocities(made, clip), copy.deepcopy(made.network.state_dict())
    paths = low_rank.find_layers(made.network, made.attention_hooks.layers, which)
    assert paths == stock
    with low_rank.mount_adapters(made.network, paths, 2, seed=0) as adapters:
        field = low_rank.enable_for_target(made.field, adapters)
        for ours, theirs in zip(velocities(field, clip), before, strict=True):
            assert torch.equal(ours, theirs)  # the style acts in all calls
        for _ in tuning.tune_adapters(field, adapters, clip, FIT, {}):
            pass
        source, target, _ = velocities(field, clip)
        assert torch.equal(source, before[0])
        assert not torch.allclose(target, before[1], atol=1e-4)
    assert list(made.network.peft_config) == ["style"]
    after = made.network.state_dict()
    assert list(after) == list(told)
    assert all(torch.equal(after[name], value) for name, value in told.items())
    layer = made.network.get_submodule(next(p for p in paths if p.endswith("to_q")))
    assert layer.active_adapters == ["style"]


def test_mounting_draws_nothing_from_the_callers_generator(backbone):
    paths = low_rank.find_layers(backbone.network, backbone.attention_hooks.layers, "attention")
    before = torch.get_rng_state()
    with low_rank.mount_adapters(backbone.network, paths, 2, seed=0):
        pass
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("how", ["lacks one", "another shape"])
def test_adapters_that_do_not_fit_are_refused_with_the_cure(backbone, how):
    paths = low_rank.find_layers(backbone.network, backbone.attention_hooks.layers, "published")
    with low_rank.mount_adapters(backbone.network, paths, 2, 0) as adapters:
        tensors = adapters.tensors()
        name = list(tensors)[-1]
        if how == "lacks one":
            del tensors[name]
        else:
            tensors[name] = tensors[name][:1]
        with pytest.raises(ValueError, match=r"do not fit at .*: delete the \.safetensors files"):
            adapters.load(tensors)


@pytest.mark.parametrize("is_large", [False, True])
def test_a_large_networks_blocks_are_computed_again_in_the_backward_pass(
    clip, is_large, monkeypatch
):
    """With the adapters of the forward pass, so the gradients are the same. The network is restored."""
    made = tiny.stable_video()
    paths = low_rank.find_layers(made.network, made.attention_hooks.layers, "published")
    with low_rank.mount_adapters(made.network, paths, 2, seed=0) as adapters:
        field = low_rank.enable_for_target(made.field, adapters)
        for _ in tuning.tune_adapters(
            field, adapters, clip, FIT, {}
        ):  # both factors have gradients
            pass
        plain = tuning._compute_gradients(field, adapters, clip, 0, 0)
        calls = []
        block = made.network.get_submodule(paths[0]).layer
        block.register_forward_hook(lambda *_: calls.append(1))
        monkeypatch.setattr(tuning, "MIN_CHECKPOINTED", 0 if is_large else 10**8)
        gradients = tuning._compute_gradients(field, adapters, clip, 0, 0)
    assert len(calls) == (2 if is_large else 1)
    assert not made.network.is_gradient_checkpointing
    assert not any("forward" in vars(module) for module in made.network.modules())
    for ours, theirs in zip(gradients, plain, strict=True):
        assert theirs.abs().max() > 0
        assert torch.allclose(ours, theirs, atol=1e-6, rtol=1e-4)


def test_checkpoints_that_the_user_switched_on_stay_on(monkeypatch):
    monkeypatch.setattr(tuning, "MIN_CHECKPOINTED", 0)
    network = tiny.stable_video().network
    with tuning.checkpoint_gradients(network):
        assert network.is_gradient_checkpointing
    assert not network.is_gradient_checkpointing
    network.enable_gradient_checkpointing()
    with tuning.checkpoint_gradients(network):
        pass
    assert network.is_gradient_checkpointing
