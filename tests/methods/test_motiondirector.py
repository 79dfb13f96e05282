"""MotionDirector against low-rank weights in plain functions, trained in place, and DDIM in abar."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from holdfast.methods import motiondirector
from holdfast.models.base import Prompt
from holdfast.sampling import tuning
from holdfast.sampling.adapters import mount_adapters
from holdfast.sampling.field import EditInputs
from holdfast.sampling.noise import keyed_integer, keyed_noise, keyed_uniform

from .. import tiny
from .analytic import last

FRAMES, SEED, RANK = 4, 4, 2
ABAR = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)


@pytest.fixture(scope="module")
def backbone():
    return tiny.latent_diffusion(tiny.unet3d())


@pytest.fixture(scope="module")
def inputs(backbone):
    latent = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(0))
    source, target = (backbone.condition(Prompt(t)) for t in ("a red ball", "a blue ball on sand"))
    return EditInputs(latent, source, target, seed=SEED)


class NaiveAdapters:
    """Low-rank additions to the linear layers of some parts of a network's transformers, by hooks."""

    def __init__(self, unet, kind, parts, initial, dropout):
        self.scale, self.key, self.dropout, self.weights = 0, "", dropout, []
        for path, module in unet.named_modules():
            owner = "TransformerTemporalModel" if is_temporal(path) else "Transformer2DModel"
            if isinstance(module, nn.Linear) and owner == kind and is_part(path, parts):
                down, up = (initial[f"{path}.{n}"].clone().requires_grad_() for n in ("down", "up"))
                self.weights += [down, up]
                module.register_forward_hook(self.make_hook(path, down, up))

    def make_hook(self, path, down, up):
        def hook(module, args, output):
            if not self.scale:
                return output
            change = args[0] @ down.T @ up.T
            if self.key:
                kept = keyed_uniform(change.shape, f"{self.key}/{path}", change.device)
                change = torch.where(kept < self.dropout, 0.0, change / (1 - self.dropout))
            return output + change

        return hook


def is_temporal(path):
    return "temp_attentions" in path or "transformer_in" in path


def is_part(path, parts):
    return any(f".transformer_blocks.0.{part}." in path for part in parts)


def find_timestep(sigma):
    ratio = (sigma / (1 - sigma)) ** 2
    return int((1 / (1 + ratio) - ABAR).abs().argmin())


def step_ddim(x, eps, here, there):
    clean = (x - (1 - here) ** 0.5 * eps) / here**0.5
    return (there**0.5 * clean + (1 - there) ** 0.5 * eps).float()


def initial_adapters(backbone, config):
    """The values that the adapters begin with; the method's test checks how they are drawn."""
    found = {}
    for axis, parts, first in (
        ("temporal", ("attn1", "attn2", "ff"), 0),
        ("spatial", ("attn1", "ff"), motiondirector.SPATIAL_NUMBERS),
    ):
        paths = motiondirector.find_paths(backbone.field, axis, parts)
        made = config.rank, SEED, config.dropout, first
        with mount_adapters(backbone.network, paths, *made) as adapters:
            found |= adapters.tensors()
    return found


def train_naively(backbone, predict, spatial, temporal, inputs, config):
    rate = config.learning_rate
    optimizers = [torch.optim.AdamW(a.weights, lr=rate) for a in (spatial, temporal)]
    for i in range(config.tuning_steps):
        t = find_timestep(tuning.draw_training_sigma(backbone.field, SEED, i))
        eps = keyed_noise(inputs.latent, SEED, i, repeat=1)
        x = (ABAR[t] ** 0.5 * inputs.latent + (1 - ABAR[t]) ** 0.5 * eps).float()
        k, anchor = (keyed_integer(SEED, i, 0, FRAMES, n) for n in ("frame", "anchor"))
        losses, skips = [], keyed_integer(SEED, i, 0, 1000, "skip") < 1000 * config.skip_spatial
        spatial.scale, temporal.scale = int(not skips), 0
        spatial.key = temporal.key = f"{SEED}/{i}/frame"
        if not skips:
            one = predict(x[:, :, k : k + 1], t, inputs.source.positive)
            losses.append((one[:, :, 0] - eps[:, :, k]).square().mean())
        temporal.scale = 1
        spatial.key = temporal.key = f"{SEED}/{i}/clip"
        found = predict(x, t, inputs.source.positive)
        b, parts = config.debias, []
        for n in range(FRAMES):
            phi = [(b**2 + 1) ** 0.5 * e[:, :, n] - b * e[:, :, anchor] for e in (found, eps)]
            parts.append((phi[0] - phi[1]).square().mean())
        losses.append((found - eps).square().mean() + torch.stack(parts).mean())
        pairs = zip(([temporal] if skips else [spatial, temporal]), losses, strict=True)
        for adapters, loss in list(pairs):
            gradients = torch.autograd.grad(loss, adapters.weights)
            for weight, gradient in zip(adapters.weights, gradients, strict=True):
                weight.grad = gradient
        for optimizer in optimizers[skips:]:
            optimizer.step()
    spatial.scale, spatial.key, temporal.key = 0, "", ""


def run_naively(backbone, inputs, config):
    unet = copy.deepcopy(backbone.network).requires_grad_(False)
    initial = initial_adapters(backbone, config)
    make = [unet, "Transformer2DModel", ("attn1", "ff"), initial, config.dropout]
    spatial = NaiveAdapters(*make)
    make[1:3] = "TransformerTemporalModel", ("attn1", "attn2", "ff")
    temporal = NaiveAdapters(*make)

    def predict(x, t, text):
        return unet(x, t, text).sample

    size = 1000 // config.inversion_steps
    rising, x, before = range(1, 1000, size)[: config.inversion_steps], inputs.latent, ABAR[0] ** 0
    with torch.no_grad():
        for t in rising:
            eps = predict(x, t, inputs.source.negative)
            x, before = step_ddim(x, eps, before, ABAR[t]), ABAR[t]
    train_naively(backbone, predict, spatial, temporal, inputs, config)
    noise = keyed_noise(inputs.latent, SEED, 0, repeat=2)
    x = config.noise_prior**0.5 * x + (1 - config.noise_prior) ** 0.5 * noise
    temporal.scale = 1
    falling = range(1, 1000, 1000 // config.steps)[: config.steps][::-1]
    with torch.no_grad():
        for i, t in enumerate(falling):
            positive, negative = (
                predict(x, t, text) for text in (inputs.target.positive, inputs.target.negative)
            )
            eps = negative + config.target_guidance * (positive - negative)
            there = ABAR[falling[i + 1]] if i + 1 < config.steps else ABAR[0] ** 0
            x = step_ddim(x, eps, ABAR[t], there)
    return x


@pytest.mark.parametrize(("prior", "skip"), [(0.0, 0.5), (0.3, 0.0)])
def test_an_edit_is_that_of_adapters_in_plain_functions(backbone, inputs, prior, skip):
    config = motiondirector.Config(
        steps=2,
        inversion_steps=3,
        tuning_steps=3,
        rank=RANK,
        learning_rate=1e-2,
        noise_prior=prior,
        skip_spatial=skip,
        target_guidance=3.0,
    )
    with torch.no_grad():
        ours = last(motiondirector.edit(backbone.field, inputs, config))
        untuned = dataclasses.replace(config, tuning_steps=0)
        without = last(motiondirector.edit(backbone.field, inputs, untuned))
    theirs = run_naively(backbone, inputs, config)
    assert torch.allclose(ours, theirs, atol=1e-5 * theirs.abs().max().item())
    assert not torch.allclose(ours, without, atol=1e-3)


def test_layers_are_self_attention_and_feed_forward_over_space_and_all_over_time(backbone):
    """As released: of spatial transformers attn1 and ff, of temporal ones attn1, attn2 and ff, the first one's too."""
    found = {
        axis: motiondirector.find_paths(backbone.field, axis, parts)
        for axis, parts in {
            "spatial": ("attn1", "ff"),
            "temporal": ("attn1", "attn2", "ff"),
        }.items()
    }
    for axis, paths in found.items():
        expected = [
            path
            for path, module in backbone.network.named_modules()
            if isinstance(module, nn.Linear)
            and is_temporal(path) == (axis == "temporal")
            and is_part(path, ("attn1", "ff") if axis == "spatial" else ("attn1", "attn2", "ff"))
        ]
        assert paths == expected
        assert paths


@torch.no_grad()
def test_only_the_temporal_adapters_are_saved_and_serve_another_run(backbone, inputs):
    config = motiondirector.Config(
        steps=2, inversion_steps=3, tuning_steps=2, rank=RANK, noise_prior=0.5
    )
    whole = list(motiondirector.edit(backbone.field, inputs, config))
    (fitted,) = (step.adapters for step in whole if step.adapters)
    assert fitted
    assert all(is_temporal(name) for name in fitted)
    assert any(not is_temporal(name) for name in whole[0].state if not name.startswith("adam"))
    again = dataclasses.replace(inputs, adapters=fitted)
    steps = list(motiondirector.edit(backbone.field, again, config))
    assert [step.stage for step in steps] == ["invert"] * 3 + ["edit"] * 2
    assert torch.equal(steps[-1].z, whole[-1].z)
    for done in (1, 2, 3, 5, 6):  # in each stage
        rest = motiondirector.edit(backbone.field, inputs, config, whole[done - 1])
        following = next(rest)
        assert torch.equal(following.z, whole[done].z)
        assert following.state.keys() == whole[done].state.keys()


@torch.no_grad()
def test_part_of_the_schedule_begins_with_the_clip_and_its_noise(backbone, inputs):
    noise = keyed_noise(inputs.latent, SEED, 0, repeat=2)
    seen = []

    def velocities(sigma, evaluations, frames=None):
        seen.append((sigma, evaluations[0].z))
        return backbone.field.velocities(sigma, evaluations, frames)

    field = dataclasses.replace(backbone.field, velocities=velocities)
    for strength in (1.0, 0.5):
        seen.clear()
        config = motiondirector.Config(steps=4, tuning_steps=0, strength=strength)
        last(motiondirector.edit(field, inputs, config))
        sigma, z = seen[0]
        a, s = (v / (sigma**2 + (1 - sigma) ** 2) ** 0.5 for v in (1 - sigma, sigma))
        x = noise if strength == 1 else a * inputs.latent + s * noise
        assert torch.allclose(z * (a + s), x, atol=1e-5)
