"""Whole weights, low-rank weights with dropout and attention over time, fitted to a clip; checkpointed blocks."""

import copy

import pytest
import torch
from torch import nn

from holdfast.models.base import Prompt
from holdfast.sampling import adapters as adapters_of
from holdfast.sampling import tuning
from holdfast.sampling.noise import add_noise, keyed_noise, keyed_uniform
from holdfast.sampling.tuned_layers import AppendedAttention, FullWeight, LowRank

from .. import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbones():
    return {name: tiny.ADAPTERS[name]() for name in ("sd", "t2v")}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def list_layers(backbone, kind, axis="spatial"):
    found = backbone.attention_hooks.layers
    return [layer.path for layer in found if (layer.kind, layer.axis) == (kind, axis)]


def test_uniform_numbers_depend_on_their_key_and_index_alone():
    numbers = keyed_uniform((100, 1000), "7/0/x", CPU)
    assert torch.equal(numbers.flatten()[:50], keyed_uniform((50,), "7/0/x", CPU))
    assert not torch.equal(numbers, keyed_uniform((100, 1000), "7/1/x", CPU))
    assert 0 <= numbers.min() < 1e-3
    assert 0.999 < numbers.max() < 1
    assert numbers.mean().item() == pytest.approx(0.5, abs=4 / 12**0.5 / 1e5**0.5)
    assert (numbers < 0.1).float().mean().item() == pytest.approx(0.1, abs=4 * 0.3 / 1e5**0.5)
    neighbours = torch.corrcoef(torch.stack((numbers.flatten(), numbers.flatten().roll(1))))
    assert abs(neighbours[0, 1].item()) < 4 / 1e5**0.5


def test_a_whole_weight_begins_as_the_layers_own_and_replaces_it():
    layer, x = nn.Linear(6, 4), noise(3, 5, 6)
    tuned = FullWeight(layer)
    tuned.is_enabled = True
    assert torch.equal(tuned(x), layer(x))
    own = noise(4, 6, seed=1)
    tuned.load({"weight": own})
    assert torch.allclose(tuned(x), x @ own.T + layer.bias, atol=1e-6)
    tuned.is_enabled = False
    assert torch.equal(tuned(x), layer(x))


def test_dropout_zeroes_a_share_of_the_low_rank_addition_by_its_key():
    layer, x = nn.Linear(64, 64), noise(50, 64)
    tuned = LowRank(layer, 4, dropout=0.25)
    tuned.initialise(0, 0)
    nn.init.normal_(tuned.up.weight)
    tuned.is_enabled = True
    whole = tuned(x) - layer(x)  # without a key nothing is dropped
    assert torch.allclose(whole, x @ (tuned.up.weight @ tuned.down.weight).T, atol=1e-4)
    tuned.dropout_key = "0/3"
    dropped = tuned(x) - layer(x)
    assert torch.equal(dropped, tuned(x) - layer(x))
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.05)
    assert torch.allclose(dropped[kept], whole[kept] / 0.75, atol=1e-4)
    tuned.dropout_key = "0/4"
    assert not torch.equal(kept, tuned(x) != layer(x))


def attend_over_time(attention, y, frames):
    """Explicit maps, one position and head at a time. y: (b f) N c."""
    out = torch.empty_like(y)
    width = y.shape[2] // attention.heads
    for b in range(len(y) // frames):
        rows = slice(b * frames, (b + 1) * frames)
        for n in range(y.shape[1]):
            tokens = y[rows, n]  # f c
            centred = tokens - tokens.mean(1, keepdim=True)
            normed = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
            q, k, v = (
                normed @ layer.weight.T
                for layer in (attention.to_q, attention.to_k, attention.to_v)
            )
            parts = []
            for head in range(attention.heads):
                at = slice(head * width, (head + 1) * width)
                maps = (q[:, at] @ k[:, at].T / width**0.5).softmax(1)
                parts.append(maps @ v[:, at])
            found = torch.cat(parts, 1) @ attention.to_out.weight.T + attention.out_bias
            out[rows, n] = tokens + found
    return out


def test_attention_over_time_follows_a_block_and_begins_as_its_outputs_bias():
    block, y = nn.Identity(), noise(6, 5, 8)
    block.weight = nn.Parameter(torch.zeros(1))  # it has a device
    attention = AppendedAttention(block, (8, 2), lambda: 3)
    attention.initialise("0", draws_bias=True)
    assert torch.equal(attention(y), y)
    attention.is_enabled = True
    assert torch.allclose(attention(y), y + attention.out_bias, atol=1e-6)
    assert attention.out_bias.abs().max() > 0.1
    assert attention.to_q.weight.abs().max() <= 8**-0.5
    assert attention.to_q.weight.min() < -0.8 * 8**-0.5
    assert not torch.equal(attention.to_q.weight, attention.to_k.weight)
    attention.initialise("0", draws_bias=False)
    assert torch.equal(attention(y), y)
    for weight in attention.tuned_weights().values():
        nn.init.normal_(weight)
    assert torch.allclose(attention(y), attend_over_time(attention, y, 3), atol=1e-5)


def make_layers(backbone):
    """Tuned layers of every kind that the network can have, inside each other too."""
    network, hooks, made = backbone.network, backbone.attention_hooks, {}
    for number, path in enumerate(list_layers(backbone, "self")):
        query, value = (network.get_submodule(f"{path}.{name}") for name in ("to_q", "to_v"))
        low_rank = LowRank(value, 2, dropout=0.5)
        low_rank.initialise(0, number)
        nn.init.normal_(low_rank.up.weight)
        low_rank.dropout_key = f"0/{number}"
        made |= {f"{path}.to_q": FullWeight(query), f"{path}.to_v": low_rank}
        block = path.rpartition(".")[0]
        attention = AppendedAttention(
            network.get_submodule(block),
            (query.out_features, 2),
            lambda: len(hooks.running_call.frames),
        )
        attention.initialise(block, draws_bias=True)
        nn.init.normal_(attention.to_out.weight)
        made[block] = attention
    return made


@pytest.mark.parametrize("family", ["sd", "t2v"])
def test_mounted_layers_come_and_go_without_a_trace(backbones, family):
    backbone = backbones[family]
    z, conditioning = noise(1, 4, 3, 8, 8), backbone.condition(Prompt("a red ball"))
    names = list(backbone.network.state_dict())

    @torch.no_grad()
    def evaluate():
        return backbone.velocity(z, 0.6, conditioning, branch="src+")

    stock = evaluate()
    with adapters_of.mount_layers(backbone.network, make_layers(backbone)) as adapters:
        assert torch.equal(evaluate(), stock)
        adapters.enable(True)
        changed, saved = evaluate(), adapters.tensors()
        assert not torch.allclose(changed, stock, atol=1e-3)
    assert list(backbone.network.state_dict()) == names
    assert torch.equal(evaluate(), stock)
    with adapters_of.mount_layers(backbone.network, make_layers(backbone)) as adapters:
        adapters.load(saved)
        adapters.enable(True)
        assert torch.equal(evaluate(), changed)


@pytest.mark.parametrize("family", ["sd", "t2v"])
def test_a_large_networks_blocks_are_computed_again_in_the_backward_pass(
    backbones, family, monkeypatch
):
    """With the same dropout and in the same call, so the gradients are the same. The network is restored."""
    backbone = backbones[family]
    clean, conditioning = noise(1, 4, 3, 8, 8), backbone.condition(Prompt("a red ball"))
    field, eps = backbone.field, keyed_noise(clean, 0, 0)

    def loss():
        predicted, true = tuning.predict_clip(field, clean, eps, 0.6, conditioning)
        return (predicted - true).square().mean()

    found, calls = [], []
    with adapters_of.mount_layers(backbone.network, make_layers(backbone)) as adapters:
        first = next(iter(adapters.layers.values())).layer
        handle = first.register_forward_hook(lambda *_: calls.append(1))
        for smallest in (10**8, 0):
            monkeypatch.setattr(tuning, "MIN_CHECKPOINTED", smallest)
            adapters.enable(True)
            calls.clear()
            found.append(tuning.differentiate(adapters, loss, [backbone.attention_hooks]))
            assert len(calls) == (2 if smallest == 0 else 1)
        handle.remove()
    assert not backbone.network.is_gradient_checkpointing
    assert not any("forward" in vars(module) for module in backbone.network.modules())
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().max() > 0
        assert torch.allclose(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_prediction_is_what_the_network_says(prediction):
    """x = a x0 + s eps, at z = x / (a + s); v = a eps - s x0."""
    backbone = tiny.latent_diffusion(tiny.unet2d())
    backbone.schedule = type(backbone.schedule).from_config({"prediction_type": prediction})
    backbone.prediction = prediction
    clean, conditioning = noise(1, 4, 2, 8, 8), backbone.condition(Prompt("a red ball"))
    sigma = backbone.training_sigmas()[700]
    eps, text = keyed_noise(clean, 0, 0), conditioning.positive.expand(2, -1, -1)
    scale = (sigma**2 + (1 - sigma) ** 2) ** 0.5
    a, s = (1 - sigma) / scale, sigma / scale
    x = a * clean + s * eps
    with torch.no_grad():
        predicted, true = tuning.predict_clip(backbone.field, clean, eps, sigma, conditioning)
        said = backbone.network(x[0].transpose(0, 1), 700, text).sample.transpose(0, 1)[None]
    assert torch.allclose(x, add_noise(clean, sigma, eps) * (a + s), atol=1e-6)
    assert torch.allclose(predicted, said, atol=1e-5)
    expected = eps if prediction == "epsilon" else a * eps - s * clean
    assert torch.allclose(true, expected, atol=1e-6)


def test_every_timestep_of_the_training_is_drawn_alike(backbones):
    field = backbones["sd"].field
    sigmas = field.training_sigmas()
    assert len(sigmas) == 1000
    assert sigmas == sorted(sigmas)
    schedule = backbones["sd"].schedule
    assert [schedule.timestep_at(sigma) for sigma in sigmas[::111]] == list(range(0, 1000, 111))
    drawn = {tuning.draw_training_sigma(field, 0, i) for i in range(300)}
    assert drawn <= set(sigmas)
    assert 240 < len(drawn) < 290  # 1000 (1 - .999^300) = 259
    assert 0.45 < sum(sigmas.index(s) >= 500 for s in drawn) / len(drawn) < 0.55


def test_fitting_is_adamw_on_the_networks_own_weights(backbones):
    """Against a copy of the network whose weights are trained in place: decay and the norm's limit included."""
    backbone = backbones["sd"]
    clean, conditioning = noise(1, 4, 2, 8, 8), backbone.condition(Prompt("a red ball"))
    paths = [f"{path}.to_q" for path in list_layers(backbone, "cross")]
    options = tuning.TuningOptions(steps=3, learning_rate=1e-2, seed=0, clip_norm=1e-3)

    def loss(model, i):
        found = tuning.predict_clip(model, clean, keyed_noise(clean, 0, i), 0.5, conditioning)
        return nn.functional.mse_loss(*found)

    layers = {path: FullWeight(backbone.network.get_submodule(path)) for path in paths}
    with adapters_of.mount_layers(backbone.network, layers) as adapters:
        adapters.enable(True)
        gradients = lambda i: tuning.differentiate(adapters, lambda: loss(backbone.field, i))  # noqa: E731
        *_, (_, state) = tuning.fit_adapters(adapters, gradients, options, {})
    other = tiny.latent_diffusion(tiny.unet2d())
    other.network.load_state_dict(copy.deepcopy(backbone.network.state_dict()))
    weights = [other.network.get_submodule(path).weight.requires_grad_() for path in paths]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=1e-2)
    for i in range(3):
        optimizer.zero_grad()
        loss(other.field, i).backward()
        total = sum(weight.grad.square().sum() for weight in weights) ** 0.5
        assert total > 1e-3
        for weight in weights:
            weight.grad *= 1e-3 / (total + 1e-6)
        optimizer.step()
    for path, weight in zip(paths, weights, strict=True):
        assert torch.allclose(state[f"{path}.weight"], weight, atol=1e-6)


def test_a_parameter_without_a_gradient_stays_and_its_moments_come_back(backbones):
    """An iteration may fit some weights only; the next ones resume with what each of them remembers."""
    backbone = backbones["sd"]
    paths = [f"{path}.to_q" for path in list_layers(backbone, "cross")]
    options = tuning.TuningOptions(steps=3, learning_rate=1e-2, seed=0)

    def run(state, done):
        layers = {path: LowRank(backbone.network.get_submodule(path), 2) for path in paths}
        for number, layer in enumerate(layers.values()):
            layer.initialise(0, number)
        with adapters_of.mount_layers(backbone.network, layers) as adapters:

            def gradients(i):
                parts = [noise(*p.shape, seed=i) for p in adapters.parameters()]
                return [part if i or n else None for n, part in enumerate(parts)]

            return list(tuning.fit_adapters(adapters, gradients, options, state, done))

    whole = run({}, 0)
    name = f"{paths[0]}.down"
    assert "adam.0.step" not in whole[0][1]
    assert whole[0][1]["adam.1.step"] == 1
    assert whole[1][1]["adam.0.step"] == 1
    assert not torch.equal(whole[0][1][name], whole[1][1][name])
    for done in (1, 2):
        rest = run(whole[done - 1][1], done)
        for (_, ours), (_, theirs) in zip(rest, whole[done:], strict=True):
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
