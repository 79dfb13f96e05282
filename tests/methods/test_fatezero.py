"""FateZero against its equations: every map is made, stored in the inversion, and edited entry by entry."""

import functools

import pytest
import torch

from holdfast import methods
from holdfast.sampling import ddim
from holdfast.sampling.field import EditInputs

from . import naive_maps

F, SIZE = 3, (4, 6)
SOURCE = "a plain red ball moves right over a lake"
SAME_LENGTH = ("a plain blue ball moves right over a lake", (2,), (2,))
LONGER = ("a plain blue red ball moves right over a lake", (3,), (2,))


@pytest.fixture(scope="module")
def backbone():
    return naive_maps.make_backbone()


@pytest.fixture(scope="module")
def latent():
    return torch.randn(1, 4, F, *SIZE, generator=torch.Generator().manual_seed(3))


def run(backbone, latent, source, target, **settings):
    """Return x after each step, f c h w, and the number of inversion steps."""
    method = methods.load("fatezero")
    config = method.Config(**settings)
    inputs = EditInputs(latent, source, target)
    levels = ddim.plan_levels(backbone.field, inputs, config)
    with torch.no_grad():
        steps = list(method.edit(backbone.field, inputs, config))
    found = []
    for step in steps:
        sigmas = levels.rising if step.stage == "invert" else levels.sigmas
        is_last = step.stage == "edit" and step.index == config.steps
        scale = 1 if is_last else ddim.scale_of(sigmas[step.index])
        found.append((step.z / scale)[0].transpose(0, 1))
    return found


class Reference:
    """The method as its equations say, on x, with maps of f heads N L."""

    def __init__(self, backbone, source, target, config):
        self.backbone, self.source, self.target, self.config = backbone, source, target, config
        self.stored, self.summed, self.covered = [], {}, []
        kind = config.frame_attention
        prior = {
            "previous+first": [[max(f - 1, 0), 0] for f in range(F)],
            "middle": [[1]] * F,
            "own": None,
        }
        self.sources = prior[kind]

    def predict(self, x, t, text, edit):
        return naive_maps.predict(
            self.backbone, x, t, text, edit, self.sources, norms_over_clip=True
        )

    def store(self, number, path, kind, own):
        self.stored[number][path] = own
        return own

    def grid(self, path):
        return (2, 3) if "mid_block" in path or "up_blocks.0" in path else SIZE

    def blend_maps(self, maps):
        """Two layers, on the way up; a network of this size has one on the way down."""
        return [(m, self.grid(p)) for p, m in maps.items() if "up" in p and "attn2" in p]

    def edit(self, j, path, kind, own):
        config, count = self.config, self.config.steps
        stored = self.stored[count - 1 - j]
        extra = 1 if config.variant == "released" else 0
        if kind == "cross":
            before = self.summed.get(path, torch.zeros_like(own))
            self.summed[path] = before + own
            if j >= int(config.cross_replace_steps * (count + extra)):
                return own
            edited = own.clone()
            for column, origin in self.origins().items():
                edited[..., column] = stored[path][..., origin]
            for position in self.target.edit_tokens:
                edited[..., position] *= config.word_weight
            return edited
        if j >= int(config.self_replace_steps * count):
            return own
        if not config.attention_blend:
            return stored[path]
        mask = naive_maps.word_mask(
            self.blend_maps(stored),
            list(self.source.edit_tokens),
            self.grid(path),
            config.blend_threshold,
        )
        self.covered.append(mask.float().mean().item())
        each = mask.flatten(1)[:, None, :, None].float()
        return each * own + (1 - each) * stored[path]

    def origins(self):
        """The source token of each target token: one word more from position 3 on, and padding by its number."""
        length = self.target.positive.shape[1]
        if len(self.source.tokens.words) == len(self.target.tokens.words):
            return {j: j for j in range(length)}
        end = len(self.target.tokens.ids)
        shift = 0 if self.config.variant == "released" else 1
        moved = {j: j - 1 for j in range(4, end)} | {j: j - shift for j in range(end, length)}
        return {0: 0, 1: 1, 2: 2} | moved

    def run(self, latent):
        config, count = self.config, self.config.steps
        scheduler = naive_maps.make_scheduler(count)

        def invert(x, t, number):
            self.stored.append({})
            return self.predict(x, t, self.source.positive, functools.partial(self.store, number))

        levels = naive_maps.invert(scheduler, latent[0].transpose(0, 1), invert)
        x, found = levels[-1], levels[1:]
        for j, t in enumerate(scheduler.timesteps.tolist()):
            negative = self.predict(x, t, self.target.negative, naive_maps.keep)
            positive = self.predict(x, t, self.target.positive, functools.partial(self.edit, j))
            eps = negative + config.target_guidance * (positive - negative)
            x = scheduler.step(eps, t, x).prev_sample
            if config.latent_blend and int(0.2 * count) < j + 1 < int(0.8 * count):
                x = self.blend(x, levels, j)
            found.append(x)
        return found

    def blend(self, x, levels, j):
        entry, tau = self.config.steps - 1 - j, self.config.blend_threshold
        masks = [
            naive_maps.word_mask(self.blend_maps(maps), list(tokens), SIZE, tau)
            for maps, tokens in (
                (self.stored[entry], self.source.edit_tokens),
                (self.summed, self.target.edit_tokens),
            )
        ]
        level = entry + 1 if self.config.variant == "released" else entry
        return torch.where(masks[0] | masks[1], x, levels[level])


CASES = [
    ({}, SAME_LENGTH),
    ({"variant": "paper", "frame_attention": "middle"}, LONGER),
    ({"word_weight": 2.0, "frame_attention": "own"}, LONGER),
    ({"latent_blend": True, "attention_blend": False}, SAME_LENGTH),
    ({"latent_blend": True, "attention_blend": False, "variant": "paper"}, SAME_LENGTH),
]


@pytest.mark.parametrize(("settings", "prompts"), CASES)
def test_every_step_is_that_of_stored_and_edited_maps(backbone, latent, settings, prompts):
    target, new, old = prompts
    source, target = naive_maps.conditions(backbone, SOURCE, target, old, new)
    steps = {"steps": 5, "inversion_steps": 5, "target_guidance": 3.0, "blend_threshold": 0.8}
    shares = {"cross_replace_steps": 0.7, "self_replace_steps": 0.45}
    settings = steps | shares | settings
    found = run(backbone, latent, source, target, **settings)
    reference = Reference(backbone, source, target, methods.load("fatezero").Config(**settings))
    with torch.no_grad():
        expected = reference.run(latent)
    assert not reference.covered or 0 < min(reference.covered) < 1
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max())
