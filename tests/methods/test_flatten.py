"""FLATTEN against its equations: explicit maps over all frames and along trajectories, and diffusers' scheduler."""

import dataclasses
import itertools

import pytest
import torch

from holdfast.methods import flatten
from holdfast.models.attention.trajectories import Trajectories
from holdfast.models.base import Prompt
from holdfast.sampling.field import EditInputs, Pixels
from holdfast.sampling.noise import keyed_noise

from . import naive_sd
from .analytic import last

STEPS, INVERSION, F, W = 4, 8, 3, 2.5


@pytest.fixture(scope="module")
def backbone():
    return naive_sd.make_backbone()


@pytest.fixture(scope="module")
def inputs(backbone):
    torch.manual_seed(4)
    texture = torch.nn.functional.interpolate(torch.rand(1, 3, 10, 10), (48, 48), mode="bicubic")
    texture = texture[0].clamp(0, 1)
    frames = [texture[:, 8 - 4 * i : 40 - 4 * i, 8:40] for i in range(F)]  # moves down
    texts = Prompt("a red ball", "bad"), Prompt("a blue cube", "bad")
    ways = backbone.encode, backbone.decode, backbone.condition, (1, 8, 8)
    latent = 3 * torch.randn(1, 4, F, 4, 4)
    pixels = Pixels(lambda: frames, *ways)
    return EditInputs(latent, *map(backbone.condition, texts), pixels=pixels, seed=2)


class Reference:
    """The inflated network: clip norms, attention over all frames, then along trajectories on the finest grid."""

    def __init__(self, backbone, keys, config):
        self.network, self.keys, self.config = backbone.network, keys, config
        self.scheduler = naive_sd.make_scheduler()
        self.saved, self.mode = {}, "plain"

    def attention(self, name, own):
        injects = name.startswith("up_blocks.1.attentions.1.")

        def forward(hidden, **_):
            q, k, v = (naive_sd.heads_of(own, p(hidden)) for p in (own.to_q, own.to_k, own.to_v))
            if injects and self.mode == "save":
                self.saved[name] = q, k
            if injects and self.mode == "inject":
                q, k = self.saved[name]
            q, k, v = (x.transpose(0, 1).flatten(1, 2) for x in (q, k, v))  # heads fN d
            out = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
            if hidden.shape[1] == 16:  # the grid of the latent, 4 x 4
                q, k = (q, k) if self.config.old_qk else (out, out)
                out = self.along_trajectories(q, k, out)
            joined = out.transpose(0, 1).flatten(1).unflatten(0, (F, -1))
            return own.to_out[0](joined)

        return forward

    def along_trajectories(self, q, k, v):
        out = torch.zeros_like(v)
        for token, (some, used) in enumerate(zip(self.keys.tokens, self.keys.is_used, strict=True)):
            logits = (k[:, some[used]] @ q[:, token, :, None])[..., 0] / q.shape[-1] ** 0.5
            out[:, token] = (logits.softmax(-1)[..., None] * v[:, some[used]]).sum(1)
        return out

    def residual(self, name):
        def hook(module, inputs, output):
            if self.mode == "save":
                self.saved[name] = output
            return self.saved[name] if self.mode == "inject" else None

        return hook

    def predict(self, x, t, text, mode):
        self.mode = mode
        return naive_sd.predict(self.network, x, t, text)

    def edit(self, latent, inputs):
        forwards = naive_sd.clip_norm_forwards(self.network)
        for name, module in naive_sd.attention_modules(self.network).items():
            forwards[module] = self.attention(name, module)
        blocks = self.network.up_blocks[1].resnets
        hooks = [b.conv2.register_forward_hook(self.residual(i)) for i, b in enumerate(blocks)]
        with naive_sd.patch_forwards(forwards):
            found = self.sample(latent, inputs)
        for hook in hooks:
            hook.remove()
        return found

    def sample(self, latent, inputs):
        """The clean latent is taken to be at the first timestep of the inversion."""
        empty, target = inputs.source.negative, inputs.target
        rising = naive_sd.list_timesteps(self.scheduler, INVERSION)[::-1]
        timesteps = naive_sd.list_timesteps(self.scheduler, STEPS)
        top = rising.index(timesteps[0]) + (self.config.variant == "released")
        x, inverted = latent, {rising[0]: latent}
        for t, t_next in itertools.pairwise(rising[: top + 1]):
            eps = self.predict(x, t, empty, "plain")
            inverted[t_next] = x = naive_sd.move(self.scheduler, x, eps, t, t_next)
        found = []
        for i, t in enumerate(timesteps):
            mode = "inject" if i < 3 else "plain"  # the whole part of 0.8 * 4
            self.predict(inverted[t], t, empty, "save")
            negative, positive = (
                self.predict(x, t, text, mode) for text in (target.negative, target.positive)
            )
            eps = negative + W * (positive - negative)
            x = self.scheduler.step(eps, t, x).prev_sample
            found.append(x)
        return found


CASES = [("released", False, "sample"), ("released", True, "mode"), ("paper", False, "mode")]


@pytest.mark.parametrize(("variant", "old_qk", "posterior"), CASES)
def test_every_step_is_that_of_the_equations(backbone, inputs, variant, old_qk, posterior):
    own = {"variant": variant, "old_qk": old_qk, "posterior": posterior}
    counts = {"steps": STEPS, "inversion_steps": INVERSION, "target_guidance": W}
    config = flatten.Config(**own, **counts)
    latent = inputs.latent
    if posterior == "sample":
        eps = keyed_noise(latent, inputs.seed, 0)[0].transpose(0, 1)
        latent = backbone.encode(inputs.pixels.frames(), eps)
    trajectories = flatten.make_trajectories(inputs, config)
    keys = trajectories.make_keys(range(F), (4, 4))
    assert (keys.is_used.sum(1) > 1).any()
    with torch.no_grad():
        expected = Reference(backbone, keys, config).edit(latent, inputs)
        steps = [s for s in flatten.edit(backbone.field, inputs, config) if s.stage == "edit"]
    sigmas = backbone.sigmas(STEPS, schedule="ddim")
    for i, (step, x) in enumerate(zip(steps, expected, strict=True)):
        scale = 1.0 if i == STEPS - 1 else naive_sd.scale_of(sigmas[i + 1])
        assert (step.z / scale - x).abs().max() < 1e-5 * x.abs().max(), i


def test_flow_is_that_of_the_source(inputs):
    made = flatten.make_trajectories(inputs, flatten.Config())
    assert isinstance(made, Trajectories)
    down = torch.stack(made.flows)[:, 1].median()
    assert 3 < down < 5


def test_a_mask_holds_the_clip_outside(backbone, inputs):
    mask = torch.zeros(1, 1, F, 4, 4)
    mask[..., :2] = 1
    config = flatten.Config(steps=2, inversion_steps=2)
    with torch.no_grad():
        z = last(flatten.edit(backbone.field, dataclasses.replace(inputs, mask=mask), config))
    assert torch.equal(z[..., 2:], inputs.latent[..., 2:])
    assert not torch.equal(z[..., :2], inputs.latent[..., :2])
