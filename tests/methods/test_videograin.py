"""VideoGrain against its equations: explicit logits moved query by query, and diffusers' scheduler."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from holdfast.base.notices import Notice
from holdfast.methods import videograin
from holdfast.models.attention import Layer, modulation
from holdfast.models.attention.trajectories import Trajectories
from holdfast.models.base import Prompt
from holdfast.sampling.field import EditInputs, Pixels, TargetArea
from holdfast.sampling.noise import keyed_noise

from . import naive_sd
from .analytic import last

STEPS, F, W, SELF, CROSS = 4, 3, 2.5, 3.0, 5.0
TARGET = "a blue cube and a green ball on sand"
WORDS = ("blue cube", (1, 2)), ("green ball", (5, 6))


@pytest.fixture(scope="module")
def backbone():
    return naive_sd.make_backbone()


@pytest.fixture(scope="module")
def inputs(backbone):
    torch.manual_seed(4)
    frames = list(torch.rand(F, 3, 32, 32))
    ways = backbone.encode, backbone.decode, backbone.condition, (1, 8, 8)
    latent = 3 * torch.randn(1, 4, F, 4, 4)
    areas, masks = [], torch.zeros(2, 1, 1, F, 4, 4)
    masks[0, ..., :2], masks[1, ..., :2, 1:] = 1, 1  # they overlap; a corner is in neither
    for (text, indices), mask in zip(WORDS, masks, strict=True):
        tokens = backbone.condition(Prompt(TARGET, "bad", words=indices)).edit_tokens
        areas.append(TargetArea(mask, tokens, text))
    texts = Prompt("a red cube and a red ball on sand", "bad"), Prompt(TARGET, "bad")
    source, target = map(backbone.condition, texts)
    union = masks.amax(0)
    pixels = Pixels(lambda: frames, *ways)
    return EditInputs(latent, source, target, union, tuple(areas), seed=2, pixels=pixels)


class Reference:
    """The network with modulated attention. region: 0 outside the masks, else the number of the later mask."""

    def __init__(self, backbone, inputs, keys, config):
        self.backbone, self.network, self.inputs = backbone, backbone.network, inputs
        self.keys, self.config = keys, config
        self.scheduler = naive_sd.make_scheduler()
        self.branch, self.tau, self.saved, self.mode = "", 0.0, {}, "plain"
        first, second = (area.mask[0, 0] for area in inputs.areas)
        self.region = torch.where(second > 0, 2, torch.where(first > 0, 1, 0))  # f 4 4

    @property
    def is_released(self):
        return self.config.variant == "released"

    def move_logits(self, logits, regions, belongs, shares, strength):
        """S of one head, N L. belongs(r, key): whether a key belongs to region r."""
        out = logits.clone()
        for n, region in enumerate(regions.tolist()):
            high, low = logits[n].max(), logits[n].min()
            size = 1.0 if self.is_released and region == 0 else 1 - shares[n]
            w = float(size * strength * torch.tensor(self.tau))  # of the shares' precision
            for j in range(logits.shape[1]):
                if belongs(region, j):
                    out[n, j] += w * (high - logits[n, j])
                else:
                    out[n, j] -= w * (logits[n, j] - low)
        return out

    def regions_on(self, tokens):
        step = 4 // round(tokens**0.5)
        return self.region[:, ::step, ::step].flatten(1)  # f N

    def self_attention(self, name, own):
        injects = name.startswith("up_blocks.1.attentions.1.")

        def forward(hidden, **_):
            q, k, v = (naive_sd.heads_of(own, p(hidden)) for p in (own.to_q, own.to_k, own.to_v))
            if injects and self.mode == "save":
                self.saved[name] = q, k
            if injects and self.mode == "inject":
                q, k = self.saved[name]
            q, k, v = (x.transpose(0, 1).flatten(1, 2) for x in (q, k, v))  # heads fN d
            logits = q @ k.mT / q.shape[-1] ** 0.5
            branch = "negative" if self.is_released else "positive"
            is_fine = hidden.shape[1] == 16
            if self.branch == branch and self.tau and not is_fine:
                logits = torch.stack([self.move_self(head, hidden.shape[1]) for head in logits])
            out = logits.softmax(-1) @ v
            if is_fine:
                out = self.along_trajectories(out)
            return own.to_out[0](out.transpose(0, 1).flatten(1).unflatten(0, (F, -1)))

        return forward

    def move_self(self, logits, tokens):
        regions = self.regions_on(tokens).flatten()
        total = len(regions) * (F if self.is_released else 1)
        sizes = torch.stack([(regions == r).sum() for r in regions])
        shares = (sizes.half() if self.is_released else sizes) / total

        def belongs(region, j):
            return regions[j] == region and not (self.is_released and region == 0)

        return self.move_logits(logits, regions, belongs, shares, SELF)

    def along_trajectories(self, x):
        out = torch.zeros_like(x)
        for token, (some, used) in enumerate(zip(self.keys.tokens, self.keys.is_used, strict=True)):
            logits = (x[:, some[used]] @ x[:, token, :, None])[..., 0] / x.shape[-1] ** 0.5
            out[:, token] = (logits.softmax(-1)[..., None] * x[:, some[used]]).sum(1)
        return out

    def cross_attention(self, own):
        def forward(hidden, encoder_hidden_states, **_):
            q = naive_sd.heads_of(own, own.to_q(hidden))
            k, v = (naive_sd.heads_of(own, p(encoder_hidden_states)) for p in (own.to_k, own.to_v))
            logits = q @ k.mT / q.shape[-1] ** 0.5  # f heads N L
            is_left = self.is_released and hidden.shape[1] == 16
            if self.branch == "positive" and self.tau and not is_left:
                logits = self.move_cross(logits)
            out = logits.softmax(-1) @ v
            return own.to_out[0](out.transpose(1, 2).flatten(2))

        return forward

    def move_cross(self, logits):
        words = [set(), *(set(area.edit_tokens) for area in self.inputs.areas)]
        if not self.is_released:
            words[0] = set(range(1, self.inputs.target.token_count - 1)) - words[1] - words[2]
        out = torch.zeros_like(logits)
        for f, regions in enumerate(self.regions_on(logits.shape[2])):
            shares = torch.stack([(regions == r).float().mean() for r in regions])
            for head in range(logits.shape[1]):
                out[f, head] = self.move_logits(
                    logits[f, head], regions, lambda r, j: j in words[r], shares, CROSS
                )
        return out

    def residual(self, name):
        def hook(module, inputs, output):
            if self.mode == "save":
                self.saved[name] = output
            return self.saved[name] if self.mode == "inject" else None

        return hook

    def predict(self, x, t, text, branch, mode="plain", tau=0.0):
        self.branch, self.mode, self.tau = branch, mode, tau
        return naive_sd.predict(self.network, x, t, text)

    def edit(self, latent):
        forwards = naive_sd.clip_norm_forwards(self.network)
        for name, module in self.network.named_modules():
            if name.endswith("attn1"):
                forwards[module] = self.self_attention(name, module)
            if name.endswith("attn2"):
                forwards[module] = self.cross_attention(module)
        blocks = self.network.up_blocks[1].resnets
        hooks = [b.conv2.register_forward_hook(self.residual(i)) for i, b in enumerate(blocks)]
        with naive_sd.patch_forwards(forwards):
            found = self.sample(latent)
        for hook in hooks:
            hook.remove()
        return found

    def spliced(self):
        states = self.inputs.target.positive.clone()
        for area in self.inputs.areas:
            alone = self.backbone.condition(Prompt(area.text)).positive
            for i, position in enumerate(area.edit_tokens):
                states[:, position] = alone[:, 1 + i]
        return states

    def sample(self, latent):
        inputs, source = self.inputs, self.inputs.source.positive
        timesteps = naive_sd.list_timesteps(self.scheduler, STEPS)
        x, inverted = latent, {timesteps[-1]: latent}
        for t, t_next in itertools.pairwise(timesteps[::-1]):
            eps = self.predict(x, t, source, "source")
            inverted[t_next] = x = naive_sd.move(self.scheduler, x, eps, t, t_next)
        found, positive = [], self.spliced()
        for i, t in enumerate(timesteps):
            tau = ((t - 1) / 1000) ** 5 if i < self.config.modulated_steps else 0.0
            at = i + 1 if self.is_released else i
            mode = "inject" if i < self.config.inject_steps else "plain"
            eps_of = {}
            for sign, text in (("negative", inputs.target.negative), ("positive", positive)):
                if mode == "inject":
                    of_negative = self.is_released and sign == "negative"
                    own = inputs.source.negative if of_negative else source
                    self.predict(inverted[timesteps[at]], timesteps[at], own, "source", "save")
                eps_of[sign] = self.predict(x, t, text, sign, mode, tau)
            negative, positive_eps = eps_of["negative"], eps_of["positive"]
            eps = negative + W * (positive_eps - negative)
            x = self.scheduler.step(eps, t, x).prev_sample
            found.append(x := self.blend(x, i, t, inverted, timesteps))
        return found

    def blend(self, x, i, t, inverted, timesteps):
        clip, mask = self.inputs.latent, self.inputs.mask
        if i == STEPS - 1:
            outside = clip
        elif self.is_released:
            eps = keyed_noise(clip, self.inputs.seed, i, repeat=1)
            outside = self.scheduler.add_noise(clip, eps, torch.tensor([t]))
        else:
            outside = inverted[timesteps[i + 1]]
        return x * mask + outside * (1 - mask)


def make_config(**settings):
    counts = {"steps": STEPS, "inversion_steps": STEPS, "modulated_steps": 2}
    strengths = {"self_strength": SELF, "cross_strength": CROSS, "target_guidance": W}
    return videograin.Config(**(counts | strengths | settings))


@pytest.mark.parametrize(
    ("variant", "posterior", "inject"), [("released", "sample", 2), ("paper", "mode", 1)]
)
def test_every_step_is_that_of_the_equations(backbone, inputs, variant, posterior, inject):
    config = make_config(variant=variant, posterior=posterior, inject_steps=inject)
    latent = inputs.latent
    if posterior == "sample":
        eps = keyed_noise(latent, inputs.seed, 0)[0].transpose(0, 1)
        latent = backbone.encode(inputs.pixels.frames(), eps)
    frames = inputs.pixels.frames()
    keys = Trajectories.of_clip(frames, "dis", inputs.seed, variant).make_keys(range(F), (4, 4))
    with torch.no_grad():
        expected = Reference(backbone, inputs, keys, config).edit(latent)
        steps = [s for s in videograin.edit(backbone.field, inputs, config) if s.stage == "edit"]
    sigmas = backbone.sigmas(STEPS, schedule="ddim")
    for i, (step, x) in enumerate(zip(steps, expected, strict=True)):
        scale = 1.0 if i == STEPS - 1 else naive_sd.scale_of(sigmas[i + 1])
        assert (step.z / scale - x).abs().max() < 1e-5 * x.abs().max(), i


def test_the_later_of_two_masks_wins():
    masks = [torch.tensor(m).view(1, 1, 1, 1, 4) for m in ([1.0, 1, 0, 0], [0.0, 1, 0.6, 0.4])]
    assert modulation.number_regions(masks).flatten().tolist() == [1, 2, 2, 0]


@pytest.mark.parametrize("block", [2**22, 8])
def test_modulation_in_blocks_of_queries(block, monkeypatch):
    from holdfast.models.attention import maps

    monkeypatch.setattr(maps, "CPU_BLOCK_NUMBERS", block)
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 6, 4, generator=generator)
    made = modulation.Modulation(
        torch.tensor([0, 1, 0, 1, 0, 1]),
        torch.tensor([[1, 0, 0, 0, 1, 1], [0, 1, 0, 0, 0, 0]]).bool(),
        torch.linspace(0, 1, 6),
    )
    logits = q @ k.mT / 2
    moved = logits.clone()
    for head, n, j in torch.cartesian_prod(*map(torch.arange, (2, 6, 6))):
        row, w = logits[0, head, n], made.weights[n]
        belongs = made.keys[made.regions[n], j]
        moved[0, head, n, j] += w * (row.max() - row[j]) if belongs else -w * (row[j] - row.min())
    out = modulation.attend_modulated(q, k, v, made)
    assert torch.allclose(out, moved.softmax(-1) @ v, atol=1e-6)


def test_released_weights_of_self_attention_are_rounded_to_half_precision(
    backbone, inputs, monkeypatch
):
    attend, seen = modulation.attend_modulated, []

    def read(q, k, v, made):
        seen.append(made.weights)
        return attend(q, k, v, made)

    monkeypatch.setattr(modulation, "attend_modulated", read)
    config = make_config(posterior="mode", modulated_steps=1)
    with torch.no_grad():
        last(videograin.edit(backbone.field, inputs, config))
    reference = Reference(backbone, inputs, None, config)
    tau = np.float32(((naive_sd.list_timesteps(reference.scheduler, STEPS)[0] - 1) / 1000) ** 5)
    regions = reference.regions_on(4).flatten().tolist()
    shares = [np.float16(regions.count(r) / (len(regions) * F)) if r else 0 for r in regions]
    strengths = [np.float16(np.float32(SELF) * np.float16(1 - share)) for share in shares]
    weights = [np.float16(tau * np.float32(strength)) for strength in strengths]
    found = next(w for w in seen if w.dtype == torch.float16)
    assert found.tolist() == [float(w) for w in weights]


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_attention_of_a_controlnet_is_not_modulated(kind):
    own = Layer("down_blocks.0.attentions.0", "down", 0, kind, "spatial")
    other = dataclasses.replace(own, path=f"controlnet.{own.path}")
    applies_to = videograin.RegionAttention.applies_to
    assert (applies_to(own), applies_to(other)) == (True, False)


def test_without_a_mask_the_whole_frame_is_a_region(backbone, inputs):
    config = make_config(self_strength=1.0)
    bare = dataclasses.replace(inputs, mask=None, areas=())
    whole = dataclasses.replace(bare, mask=torch.ones_like(inputs.mask))
    with torch.no_grad(), pytest.warns(Notice, match="without a mask"):
        z = last(videograin.edit(backbone.field, bare, config))
    with torch.no_grad():
        assert torch.equal(z, last(videograin.edit(backbone.field, whole, config)))


def test_words_of_another_number_of_tokens_are_not_spliced(inputs):
    areas = [dataclasses.replace(area, text="blue") for area in inputs.areas]
    assert videograin.splice_words(inputs, areas) is inputs.target


def test_the_strengths_have_no_effect_where_no_step_is_modulated():
    unused = videograin.METHOD.unused_settings
    assert set(unused(make_config(modulated_steps=0))) == {"self_strength", "cross_strength"}
    assert not unused(make_config(modulated_steps=1))
