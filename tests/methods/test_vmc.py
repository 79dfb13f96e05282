"""VMC against a copy of the network whose weights are trained in place, with the loss in loops and DDIM in abar."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from holdfast.base.errors import UserError
from holdfast.methods import vmc
from holdfast.models.base import Prompt
from holdfast.sampling import tuning
from holdfast.sampling.field import EditInputs
from holdfast.sampling.noise import keyed_noise

from .. import tiny
from .analytic import last

FRAMES, SEED = 4, 4
ABAR = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)


@pytest.fixture(scope="module")
def backbone():
    return tiny.latent_diffusion(tiny.unet3d())


@pytest.fixture(scope="module")
def inputs(backbone):
    latent = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(0))
    source, target = (backbone.condition(Prompt(t)) for t in ("a red ball", "a blue ball on sand"))
    return EditInputs(latent, source, target, seed=SEED)


def cosine(a, b):
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def naive_loss(predicted, true, variant):
    """1 - cos, averaged. paper: of each frame's change; released: of each cell's absolute changes over the frames."""
    cosines = []
    if variant == "paper":
        for n in range(FRAMES - 1):
            changes = [noise[0, :, n + 1] - noise[0, :, n] for noise in (predicted, true)]
            cosines.append(cosine(*changes))
    else:
        for c in range(4):
            for row in range(8):
                for column in range(8):
                    cells = [noise[0, c, :, row, column] for noise in (predicted, true)]
                    cosines.append(cosine(*(cell.diff().abs() for cell in cells)))
    return 1 - torch.stack(cosines).mean()


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_loss_is_one_minus_the_cosine_of_changes_between_frames(variant):
    predicted, true = torch.randn(2, 1, 4, FRAMES, 8, 8).unbind()
    ours = vmc.motion_loss(predicted, true, variant)
    assert torch.allclose(ours, naive_loss(predicted, true, variant), atol=1e-6)
    assert vmc.motion_loss(true, true, variant).item() == pytest.approx(0, abs=1e-6)


def find_timestep(sigma):
    ratio = (sigma / (1 - sigma)) ** 2
    return int((1 / (1 + ratio) - ABAR).abs().argmin())


def run_naively(backbone, inputs, config):
    unet = copy.deepcopy(backbone.network).requires_grad_(False)
    trained = []
    for path, module in unet.named_modules():
        if "temp_attentions" in path and path.endswith((".to_q", ".to_k", ".to_v")):
            trained.append(module.weight.requires_grad_())

    def predict(x, t, text):
        return unet(x.float(), t, text).sample

    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=1e-2)
    with torch.enable_grad():
        for i in range(config.tuning_steps):
            t = find_timestep(tuning.draw_training_sigma(backbone.field, SEED, i))
            eps = keyed_noise(inputs.latent, SEED, i, repeat=1)
            x = ABAR[t] ** 0.5 * inputs.latent + (1 - ABAR[t]) ** 0.5 * eps
            loss = naive_loss(predict(x, t, inputs.source.positive), eps, config.variant)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()

    def step(x, eps, here, there):
        clean = (x - (1 - here) ** 0.5 * eps) / here**0.5
        return (there**0.5 * clean + (1 - there) ** 0.5 * eps).float()

    levels = [(t, ABAR[t]) for t in range(1, 1000, 1000 // config.steps)][: config.steps]
    x, before = inputs.latent, torch.ones(())
    for t, abar in levels:
        x, before = step(x, predict(x, t, inputs.source.negative), before, abar), abar
    for i, (t, abar) in reversed(list(enumerate(levels))):
        positive, negative = (predict(x, t, text) for text in texts(inputs.target))
        eps = negative + config.target_guidance * (positive - negative)
        x = step(x, eps, abar, levels[i - 1][1] if i else torch.ones(()))
    return x


def texts(conditioning):
    return conditioning.positive, conditioning.negative


@pytest.mark.parametrize("variant", ["paper", "released"])
@torch.no_grad()
def test_an_edit_is_that_of_the_network_trained_in_place(backbone, inputs, variant):
    config = vmc.Config(
        steps=3,
        inversion_steps=3,
        tuning_steps=3,
        learning_rate=3e-3,
        variant=variant,
        target_guidance=3.0,
    )
    ours = last(vmc.edit(backbone.field, inputs, config))
    theirs = run_naively(backbone, inputs, config)
    assert torch.allclose(ours, theirs, atol=1e-5 * theirs.abs().max().item())
    untuned = last(vmc.edit(backbone.field, inputs, dataclasses.replace(config, tuning_steps=0)))
    assert not torch.allclose(ours, untuned, atol=1e-4)


def test_one_frame_has_no_motion_to_learn(backbone, inputs):
    one = dataclasses.replace(inputs, latent=inputs.latent[:, :, :1])
    config = vmc.Config(steps=2, inversion_steps=2, tuning_steps=2)
    with torch.no_grad():
        stages = {step.stage for step in vmc.edit(backbone.field, one, config)}
    assert stages == {"invert", "edit"}


def test_an_inversion_of_too_few_steps_is_refused_before_the_tuning(backbone, inputs):
    config = vmc.Config(steps=4, inversion_steps=2, tuning_steps=1)
    with pytest.raises(UserError, match="inversion_steps is 2"):
        next(vmc.edit(backbone.field, inputs, config))
