"""Space-Time Features against a plain loop over the network itself, written from the equations."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from diffusers import UNet3DConditionModel
from torch.nn import functional

from holdfast.base.errors import UserError
from holdfast.methods import spacetime
from holdfast.models import feature_hooks
from holdfast.models.base import Prompt
from holdfast.models.noise_schedule import NoiseSchedule
from holdfast.sampling import ddim
from holdfast.sampling.field import EditInputs
from holdfast.sampling.noise import keyed_noise

from .. import tiny
from .analytic import Gaussian, as_field

SCHEDULER = {"set_alpha_to_one": False, "clip_sample": False, "beta_schedule": "scaled_linear"}
SETTINGS: dict[str, Any] = {
    "steps": 5,
    "inversion_steps": 10,
    "feature_iterations": 3,
    "target_guidance": 4.0,
}
LAYERS = {"branch": "resnets.1.conv2", "time": "temp_convs.1", "enlarged": "upsamplers.0"}


@pytest.fixture(scope="module")
def backbone():
    """Three levels, so that the second block on the way up enlarges its output."""
    torch.manual_seed(0)
    network = UNet3DConditionModel(
        **tiny.SMALL | {"block_out_channels": (8, 8, 16)},
        in_channels=4,
        out_channels=4,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "UpBlock3D", "CrossAttnUpBlock3D"),
    )
    for name, parameter in network.named_parameters():
        if "temp_convs" in name or "proj_out" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    backbone = tiny.latent_diffusion(tiny.Raw(network, None))
    backbone.schedule = NoiseSchedule.from_config(SCHEDULER)
    backbone.clean_sigma = backbone.schedule.clean_sigma
    return backbone


@pytest.fixture(scope="module")
def inputs(backbone):
    latent = torch.randn(1, 4, 4, 8, 12, generator=torch.Generator().manual_seed(1))
    conditions = (backbone.condition(Prompt(f"a {word} ball", "bad")) for word in ("red", "blue"))
    return EditInputs(latent, *conditions, seed=7)


def abar(backbone, t):
    return 1 / (1 + backbone.schedule.ratios[t] ** 2)


def marginal_means(backbone, x, t, text):
    """Return m of each layer, f c, by a whole evaluation."""
    found, block = {}, backbone.network.up_blocks[1]
    handles = [
        block.get_submodule(path).register_forward_hook(
            lambda module, given, out, name=name: found.update({name: out.mean((2, 3))})
        )
        for name, path in LAYERS.items()
    ]
    backbone.network(x, t, text)
    for handle in handles:
        handle.remove()
    assert len(found) == 3
    return found


def loss_of(ours, theirs):
    total = 0
    for name, m in ours.items():
        frames, terms = len(m), []
        for i in range(frames):
            for j in range(frames):
                d, d_source = m[j] - m[i], theirs[name][j] - theirs[name][i]
                lengths = d.norm().clamp(min=1e-8) * d_source.norm().clamp(min=1e-8)
                terms.append(1 - d @ d_source / lengths if i != j else torch.ones(()))
        total = total + sum(terms) / frames**2
    return total


def adam(gradient_of, x, rate, iterations):
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for k in range(1, iterations + 1):
        gradient = gradient_of(x)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        x = x - rate * (first / (1 - 0.9**k)) / ((second / (1 - 0.999**k)).sqrt() + 1e-8)
    return x


def low(x):
    small = [max(n // 4, 1) for n in x.shape[-2:]]
    options = {"mode": "bilinear", "align_corners": True, "antialias": True}
    frames = [
        functional.interpolate(
            functional.interpolate(x[:, :, i], small, **options), x.shape[-2:], **options
        )
        for i in range(x.shape[2])
    ]
    return torch.stack(frames, 2)


def reference(backbone, inputs, variant):
    """Return x after each step. Timesteps are 1, 101, ..., 901 of the inversion and 801, 601, ..., 1 of sampling."""
    network, text = backbone.network, inputs.source.positive
    level = lambda t: abar(backbone, t)  # noqa: E731
    eps_of = lambda x, t, text: network(x, t, text).sample  # noqa: E731

    def move(x, eps, t, t_next):
        clean = (x - math.sqrt(1 - level(t)) * eps) / math.sqrt(level(t))
        return math.sqrt(level(t_next)) * clean + math.sqrt(1 - level(t_next)) * eps

    x, last, inverted = inputs.latent, 0, {}
    for t in range(1, 1000, 100):
        x = inverted[t] = move(x, eps_of(x, t, text), last, t)
        last = t
    if variant == "paper":
        x = inverted[801]
    else:
        eps = (x - math.sqrt(level(901)) * inputs.latent) / math.sqrt(1 - level(901))
        x = math.sqrt(level(801)) * inputs.latent + math.sqrt(1 - level(801)) * eps
    noise = keyed_noise(x, inputs.seed, 0)
    x, steps = low(x) + noise - low(noise), []

    def denoise(x, t, t_next):
        plus, minus = (
            eps_of(x, t, part) for part in (inputs.target.positive, inputs.target.negative)
        )
        return move(x, minus + 4 * (plus - minus), t, t_next)

    for i, (t, t_next) in enumerate([(801, 601), (601, 401), (401, 201), (201, 1), (1, 0)]):
        if i < 2:
            source = marginal_means(backbone, inverted[t], t, text)

            def gradient_of(x, t=t, source=source):
                x = x.detach().requires_grad_()
                with torch.enable_grad():
                    means = marginal_means(backbone, x, t, inputs.target.positive)
                    return torch.autograd.grad(loss_of(means, source), x)[0]

            x = adam(gradient_of, x, (0.007, 0.004)[i], 3)
        x = denoise(x, t, t_next)
        if variant == "released" and t != 1:
            ratio = level(t) / level(t_next)
            noise = keyed_noise(x, inputs.seed, i, repeat=1)
            x = math.sqrt(ratio) * x + math.sqrt(1 - ratio) * noise
            x = denoise(x, t, t_next)
        steps.append(x)
    return steps


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_it_is_the_plain_loop(backbone, inputs, variant):
    config = spacetime.Config(**SETTINGS, variant=variant)
    with torch.no_grad():
        found = [s for s in spacetime.edit(backbone.field, inputs, config) if s.stage == "edit"]
        expected = reference(backbone, inputs, variant)
    levels = ddim.plan_levels(backbone.field, inputs, config)
    assert len(found) == len(expected) == 5
    for step, x in zip(found, expected, strict=True):
        scale = ddim.scale_of(levels.sigmas[step.index]) if step.index < 5 else 1.0
        error = (step.z / scale - x).abs().max() / x.abs().max()
        assert error < 1e-5, (step.index, float(error))


def test_the_network_stops_after_the_last_layer_and_not_where_windows_follow(backbone, inputs):
    paths = spacetime.find_features(backbone.field)
    assert paths == tuple(f"up_blocks.1.{path}" for path in LAYERS.values())
    ran = []
    handle = backbone.network.conv_out.register_forward_hook(lambda *_: ran.append(True))
    measure = lambda frames: spacetime.measure_motion(  # noqa: E731
        backbone.field, frames, 0.4, inputs.source, "src+", paths
    )
    try:
        with torch.no_grad():
            whole = measure(inputs.latent)
            assert (len(whole), ran) == (3, [])
            with feature_hooks.record_until_last(
                backbone.field, paths, 5, lambda layer, x: x
            ) as part:
                backbone.field.velocity(inputs.latent, 0.4, inputs.source, branch="src+")
            assert (len(part), ran) == (3, [True])
    finally:
        handle.remove()
    assert not backbone.feature_hooks.rules


def test_a_checkpointed_network_has_the_same_gradients(backbone, inputs, monkeypatch):
    config = spacetime.Config(**SETTINGS | {"steps": 2, "feature_iterations": 2})
    run = lambda: list(spacetime.edit(backbone.field, inputs, config))[-1].z  # noqa: E731
    with torch.no_grad():
        plain = run()
        monkeypatch.setattr("holdfast.sampling.tuning.MIN_CHECKPOINTED", 0)
        assert torch.allclose(run(), plain, rtol=0, atol=1e-5 * float(plain.abs().max()))


def test_matching_brings_the_motion_nearer_to_the_sources(backbone, inputs):
    config = spacetime.Config(feature_iterations=8)
    paths = spacetime.find_features(backbone.field)
    z = keyed_noise(inputs.latent, 3, 0)
    measure = lambda z, of, branch: spacetime.measure_motion(  # noqa: E731
        backbone.field, z, 0.5, of, branch, paths
    )
    with torch.no_grad():
        source = measure(inputs.latent, inputs.source, "src+")
        moved = spacetime.match_motion(backbone.field, z, 0.5, inputs.target, source, config, 0.05)
        before, after = (
            float(spacetime.motion_loss(measure(each, inputs.target, "tgt+"), source))
            for each in (z, moved)
        )
    assert after < 0.8 * before


def test_the_steps_that_match_and_their_learning_rates():
    rates = spacetime.learning_rates(spacetime.Config(), 0)
    assert list(rates) == list(range(20))
    assert (rates[0], rates[19]) == (0.007, pytest.approx(0.004))
    late = spacetime.learning_rates(spacetime.Config(strength=0.8), 10)
    assert (list(late), late[10]) == (list(range(10, 20)), 0.007)
    assert spacetime.learning_rates(spacetime.Config(feature_share=0.0), 0) == {}


def test_a_factor_of_one_keeps_the_inverted_noise(inputs):
    levels = ddim.make_levels([0.8, 0.4, 0.03], 0, 0.03, [0.4, 0.8])
    config = spacetime.Config(frequency_factor=1, variant="paper")
    noisy = keyed_noise(inputs.latent, 3, 0)
    found = spacetime.first_latent(inputs, config, levels, noisy, noisy)
    assert torch.allclose(found, noisy, atol=1e-6)


def test_a_network_without_these_layers_is_refused(inputs):
    config = spacetime.Config(steps=2, inversion_steps=2)
    inputs = dataclasses.replace(inputs, source=None, target=None)
    with pytest.raises(UserError, match="no second block on the way up"):
        next(spacetime.edit(as_field(Gaussian()), inputs, config))
