"""TokenFlow against its equations: explicit maps, loops over tokens, and diffusers' own scheduler."""

import math

import pytest
import torch

from holdfast.methods import tokenflow
from holdfast.models.base import Prompt
from holdfast.sampling.field import EditInputs

from . import naive_sd
from .analytic import last

STEPS, INVERSION, F, GROUP, W = 4, 8, 5, 2, 3.0
GROUPS = [[0, 1], [2, 3], [4]]


@pytest.fixture(scope="module")
def backbone():
    return naive_sd.make_backbone()


@pytest.fixture(scope="module")
def inputs(backbone):
    latent = torch.randn(1, 4, F, 4, 4, generator=torch.Generator().manual_seed(3))
    texts = Prompt("a red ball", "bad"), Prompt("a blue cube", "bad")
    return EditInputs(latent, *map(backbone.condition, texts), seed=2)


class Reference:
    """The network with its transformer blocks as the paper has them. Batches are [source, negative, target]."""

    def __init__(self, backbone, inputs, config, blends):
        from diffusers.models.attention import BasicTransformerBlock

        self.unet, self.inputs, self.config, self.blends = backbone.network, inputs, config, blends
        self.scheduler = naive_sd.make_scheduler()
        modules = self.unet.named_modules()
        self.blocks = {n: m for n, m in modules if isinstance(m, BasicTransformerBlock)}
        self.frames, self.pivotal, self.step = [], True, 0
        self.phi, self.T = {}, {}

    def abar(self, t):
        return naive_sd.abar(self.scheduler, t)

    def timesteps(self, steps):
        return naive_sd.list_timesteps(self.scheduler, steps)

    def invert(self):
        """The latents at all timesteps of the inversion; the network is given the one that a step goes to."""
        x, found, before = self.inputs.latent, {}, -1
        for t in reversed(self.timesteps(INVERSION)):
            text = self.inputs.source.positive
            eps = torch.stack([self.unet(x[:, :, i], t, text).sample for i in range(F)], 2)
            found[t] = x = naive_sd.move(self.scheduler, x, eps, before, t)
            before = t
        return found

    def attention(self, name, block):
        """attn1 of a block: joint over pivots with injected q, k; or the gathered outputs of the pivots."""
        own, injects = block.attn1, name.startswith("up_blocks.1.attentions.1.")

        def pivots(hidden):
            n = len(self.frames)
            q, k, v = (
                p(hidden).unflatten(0, (3, n)).unflatten(3, (own.heads, -1))
                for p in (own.to_q, own.to_k, own.to_v)
            )
            if injects and self.config.structure == "pnp" and self.step < 2:  # half of four
                q, k = (x[:1].expand_as(x) for x in (q, k))
            out = torch.zeros_like(q)
            for branch, i, head in torch.cartesian_prod(*map(torch.arange, (3, n, own.heads))):
                seen = [i] if branch == 0 else range(n)
                keys = torch.cat([k[branch, j, :, head] for j in seen])
                values = torch.cat([v[branch, j, :, head] for j in seen])
                weights = (q[branch, i, :, head] @ keys.mT / keys.shape[1] ** 0.5).softmax(-1)
                out[branch, i, :, head] = weights @ values
            result = own.to_out[0](out.flatten(3))
            tokens = hidden.unflatten(0, (3, n))
            for at, frame in enumerate(self.frames):
                self.phi[name, frame], self.T[name, frame] = tokens[0, at], result[:, at]
            return result.flatten(0, 1)

        def propagated(hidden):
            tokens = hidden.unflatten(0, (3, -1))
            out = torch.zeros_like(tokens)
            for at, frame in enumerate(self.frames):
                for p in range(tokens.shape[2]):
                    for pivot, w in self.blends[self.step][frame]:
                        phi = self.phi[name, pivot]
                        cos = torch.cosine_similarity(tokens[0, at, p][None], phi)
                        out[:, at, p] += w * self.T[name, pivot][:, cos.argmax()]
            return out.flatten(0, 1)

        return lambda hidden, **_: (pivots if self.pivotal else propagated)(hidden)

    def inject(self, module, inputs, output):
        if self.config.structure == "pnp" and self.step < 3:  # the whole part of 0.8 * 4
            n = len(self.frames)
            return output[:n].repeat(3, 1, 1, 1)
        return None

    def evaluate(self, x, z, t, frames):
        self.frames = list(frames)
        batch = torch.cat([x[0, :, self.frames], z[0, :, self.frames], z[0, :, self.frames]], 1)
        source, target = self.inputs.source, self.inputs.target
        text = torch.cat([source.positive, target.negative, target.positive])
        text = text.repeat_interleave(len(self.frames), 0)
        eps = self.unet(batch.transpose(0, 1), t, text).sample.unflatten(0, (3, -1))
        guided = eps[1] + W * (eps[2] - eps[1])
        return guided.transpose(0, 1)[None]

    def edit(self, pivots, first):
        inverted = self.invert()
        timesteps, top = self.timesteps(STEPS), max(inverted)
        z = inverted[timesteps[first]]
        if self.config.variant == "released":
            clean = self.inputs.latent
            eps = (inverted[top] - self.abar(top) ** 0.5 * clean) / (1 - self.abar(top)) ** 0.5
            z = self.scheduler.add_noise(clean, eps, torch.tensor([timesteps[first]]))
        forwards = {name: block.attn1.forward for name, block in self.blocks.items()}
        conv = self.unet.up_blocks[1].resnets[1].conv2.register_forward_hook(self.inject)
        for name, block in self.blocks.items():
            block.attn1.forward = self.attention(name, block)
        found = []
        for self.step in range(first, STEPS):
            t = timesteps[self.step]
            self.pivotal = True
            self.evaluate(inverted[t], z, t, pivots[self.step])
            self.pivotal = False
            eps = torch.cat([self.evaluate(inverted[t], z, t, group) for group in GROUPS], 2)
            z = self.scheduler.step(eps, t, z).prev_sample
            found.append(z)
        conv.remove()
        for name, block in self.blocks.items():
            block.attn1.forward = forwards[name]
        return found


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def released_blends(pivots):
    """Centres of the groups stand at 1, 3 and 4."""
    second = [(sigmoid(1 / 2), pivots[1], pivots[0]), (sigmoid(2 / 2), pivots[1], pivots[0])]
    third = [(sigmoid(1 / 1), pivots[2], pivots[1])]
    blends = [[(pivots[0], 1.0)]] * 2
    return blends + [[(a, w), (b, 1 - w)] for w, a, b in second + third]


def paper_blends(pivots):
    blends = []
    for frame in range(F):
        known = sorted(pivots)
        if frame <= known[0] or frame >= known[-1] or frame in known:
            blends.append([(min(known, key=lambda p: abs(p - frame)), 1.0)])
            continue
        after = next(p for p in known if p > frame)
        before = known[known.index(after) - 1]
        share = (frame - before) / (after - before)
        blends.append([(before, 1 - share), (after, share)])
    return blends


@pytest.mark.parametrize(
    ("variant", "structure", "first"),
    [("released", "pnp", 0), ("paper", "pnp", 0), ("released", "sdedit", 2)],
)
def test_every_step_is_that_of_the_equations(backbone, inputs, variant, structure, first):
    config = tokenflow.Config(
        steps=STEPS,
        inversion_steps=INVERSION,
        target_guidance=W,
        variant=variant,
        structure=structure,
        group_frames=GROUP,
    )
    assert tokenflow.first_step(config) == first  # the whole part of 0.9 * 4 - 1 are 2 steps
    groups = tokenflow.make_groups(F, GROUP)
    pivots = [tokenflow.draw_pivots(groups, inputs.seed, i) for i in range(STEPS)]
    blend = released_blends if variant == "released" else paper_blends
    reference = Reference(backbone, inputs, config, [blend(drawn) for drawn in pivots])
    with torch.no_grad():
        expected = reference.edit(pivots, first)
        steps = [s for s in tokenflow.edit(backbone.field, inputs, config) if s.stage == "edit"]
    sigmas = backbone.sigmas(STEPS, schedule="ddim")
    for i, (step, x) in enumerate(zip(steps, expected, strict=True), first):
        a = 1.0 if i == STEPS - 1 else math.hypot(1 - sigmas[i + 1], sigmas[i + 1])
        assert (step.z / a - x).abs().max() < 1e-5 * x.abs().max(), i


def test_the_sdedit_variant_samples_44_of_50_steps():
    assert tokenflow.first_step(tokenflow.Config(structure="sdedit")) == 6


def test_pivots_are_drawn_in_their_groups_by_step():
    groups = tokenflow.make_groups(20, 8)
    assert groups == [range(8), range(8, 16), range(16, 20)]
    drawn = [tokenflow.draw_pivots(groups, 0, step) for step in range(40)]
    for pivots in drawn:
        assert all(p in g for p, g in zip(pivots, groups, strict=True))
    assert {pivots[2] for pivots in drawn} == {16, 17, 18, 19}


def test_the_released_weights_stay_between_two_thirds_and_three_quarters():
    groups = tokenflow.make_groups(40, 8)
    blends = tokenflow.blend_by_centres(groups, [3, 9, 20, 30, 39])
    weights = [blend[0][1] for blend in blends[8:]]
    assert 0.622 <= min(weights) < max(weights) <= 0.7311
    assert [pivot for pivot, _ in blends[16]] == [20, 9]


def test_matches_in_blocks_are_the_most_similar_tokens(monkeypatch):
    from holdfast.models.attention import maps

    monkeypatch.setattr(maps, "CPU_BLOCK_NUMBERS", 16)
    a, b = torch.randn(2, 2, 7, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tokenflow.most_similar(a, b), (a @ b.mT).argmax(-1))


def test_a_mask_holds_the_clip_outside(backbone, inputs):
    import dataclasses

    mask = torch.zeros(1, 1, F, 4, 4)
    mask[..., :2] = 1
    config = tokenflow.Config(steps=2, inversion_steps=2, group_frames=GROUP)
    with torch.no_grad():
        z = last(tokenflow.edit(backbone.field, dataclasses.replace(inputs, mask=mask), config))
    assert torch.equal(z[..., 2:], inputs.latent[..., 2:])
    assert not torch.equal(z[..., :2], inputs.latent[..., :2])
