"""Prompt-to-Prompt and null-text inversion against their equations, in the authors' order, with explicit maps."""

import dataclasses
import functools

import pytest
import torch

from holdfast import methods
from holdfast.sampling import ddim, null_text
from holdfast.sampling.field import EditInputs

from . import naive_maps
from .analytic import Gaussian, as_field
from .test_fatezero import LONGER, SAME_LENGTH, SIZE, SOURCE

F = 2


@pytest.fixture(scope="module")
def backbone():
    return naive_maps.make_backbone()


@pytest.fixture(scope="module")
def latent():
    return torch.randn(1, 4, F, *SIZE, generator=torch.Generator().manual_seed(3))


def run(backbone, latent, source, target, **settings):
    """Return x of the source and of the target after each sampling step, f c h w, and the last step's state."""
    method = methods.load("p2p")
    config = method.Config(**settings)
    inputs = EditInputs(latent, source, target)
    levels = ddim.plan_levels(backbone.field, inputs, config)
    with torch.no_grad():
        steps = [s for s in method.edit(backbone.field, inputs, config) if s.stage == "edit"]
    found = []
    for step in steps:
        scale = ddim.scale_of(levels.sigmas[step.index])
        own = 1 if step.index == config.steps else scale
        found.append(
            [(z / a)[0].transpose(0, 1) for z, a in ((step.state["source"], scale), (step.z, own))]
        )
    return found, steps[-1].state


class Reference:
    """The method on x, the images f c h w, with maps of f heads N L."""

    def __init__(self, backbone, source, target, config):
        self.backbone, self.source, self.target, self.config = backbone, source, target, config
        self.stored, self.summed = {}, ({}, {})
        self.scheduler = naive_maps.make_scheduler(config.steps)

    def predict(self, x, t, text, edit=naive_maps.keep):
        return naive_maps.predict(self.backbone, x, t, text, edit)

    def fit(self, levels):
        """Return the embedding of each step, of all frames or of each, as all are fitted before the edit."""
        groups = [list(range(F))] if self.config.shared_null_text else [[f] for f in range(F)]
        fits = [self.fit_images(torch.stack([x[g] for x in levels])) for g in groups]
        return [torch.cat(step) for step in zip(*fits, strict=True)]

    def fit_images(self, levels):
        w, embedding, found = self.config.source_guidance, self.source.negative.clone(), []
        x = levels[-1]
        for i, t in enumerate(self.scheduler.timesteps.tolist()):
            embedding = embedding.clone().requires_grad_()
            optimizer = torch.optim.Adam([embedding], lr=1e-2 * (1 - i / 100))
            positive = self.predict(x, t, self.source.positive)
            for _ in range(self.config.null_text_iterations):
                with torch.enable_grad():
                    negative = self.predict(x, t, embedding)
                    eps = negative + w * (positive - negative)
                    wanted = levels[len(levels) - i - 2]
                    error = (self.scheduler.step(eps, t, x).prev_sample - wanted).square().mean()
                    optimizer.zero_grad()
                    error.backward()
                optimizer.step()
                if error.item() < 1e-5 + 2e-5 * i:
                    break
            embedding = embedding.detach()
            found.append(embedding)
            negative = self.predict(x, t, embedding)
            x = self.scheduler.step(negative + w * (positive - negative), t, x).prev_sample
        return found

    def add(self, side, path, own):
        if "attn2" in path and "up" in path:
            self.summed[side][path] = self.summed[side].get(path, 0) + own

    def store(self, path, kind, own):
        self.stored[path] = own
        self.add(0, path, own)
        return own

    def edit(self, j, path, kind, own):
        config, count = self.config, self.config.steps
        released = config.variant == "released"
        edited = own
        if kind == "self" and j < int(config.self_replace_steps * count):
            edited = self.stored[path]
        if kind == "cross" and j < int(config.cross_replace_steps * (count + released)):
            edited = own.clone()
            for column, origin in self.origins().items():
                edited[..., column] = self.stored[path][..., origin]
        self.add(1, path, edited if released else own)
        return edited

    def origins(self):
        length = self.target.positive.shape[1]
        if len(self.source.tokens.words) == len(self.target.tokens.words):
            return {j: j for j in range(length)}
        shift = 0 if self.config.variant == "released" else 1
        end = len(self.target.tokens.ids)
        padding = {j: j - shift for j in range(end, length)}
        return {0: 0, 1: 1, 2: 2} | {j: j - 1 for j in range(4, end)} | padding

    def run(self, latent):
        config, count = self.config, self.config.steps
        x = latent[0].transpose(0, 1)
        invert = lambda x, t, _: self.predict(x, t, self.source.positive)  # noqa: E731
        levels = naive_maps.invert(self.scheduler, x, invert)
        embeddings = self.fit(levels)
        x_source = x = levels[-1]
        found = []
        for j, t in enumerate(self.scheduler.timesteps.tolist()):
            fitted = embeddings[j].expand(F, -1, -1)
            other = fitted if config.target_negative == "fitted" else self.target.negative
            one = self.guided(x_source, t, fitted, self.source, self.store, config.source_guidance)
            two = self.guided(
                x, t, other, self.target, functools.partial(self.edit, j), config.target_guidance
            )
            x_source, x = (
                self.scheduler.step(eps, t, y).prev_sample for eps, y in ((one, x_source), (two, x))
            )
            if config.local_blend and j + 1 > int(0.2 * count):
                x = torch.where(self.mask(), x, x_source)
            found.append([x_source, x])
        return found

    def guided(self, x, t, negative, conditioning, edit, w):
        negative = self.predict(x, t, negative)
        return negative + w * (self.predict(x, t, conditioning.positive, edit) - negative)

    def mask(self):
        masks = [
            naive_maps.word_mask(
                [(m, SIZE if "up_blocks.1" in p else (2, 3)) for p, m in self.summed[side].items()],
                list(conditioning.edit_tokens),
                SIZE,
                self.config.blend_threshold,
            )
            for side, conditioning in enumerate((self.source, self.target))
        ]
        return masks[0] | masks[1]


CASES = [
    ({}, SAME_LENGTH),
    ({"shared_null_text": True, "target_negative": "initial"}, LONGER),
    ({"variant": "paper"}, LONGER),
]


@pytest.mark.parametrize(("settings", "prompts"), CASES)
def test_every_step_is_that_of_the_authors_order(backbone, latent, settings, prompts):
    target, new, old = prompts
    source, target = naive_maps.conditions(backbone, SOURCE, target, old, new)
    counts = {"steps": 3, "inversion_steps": 3, "null_text_iterations": 2}
    scales = {"source_guidance": 2.0, "target_guidance": 3.0, "blend_threshold": 0.85}
    settings = counts | scales | settings
    found, _ = run(backbone, latent, source, target, **settings)
    reference = Reference(backbone, source, target, methods.load("p2p").Config(**settings))
    with torch.no_grad():
        expected = reference.run(latent)
    for mine, theirs in zip(found, expected, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-5 * b.abs().max())


class Line(Gaussian):
    """A velocity that is a frame's embedding, so that each iteration can be followed by hand."""

    def __init__(self):
        super().__init__()
        self.frames: list[int] = []

    def velocity(self, z, sigma, conditioning, *, branch, frames=None, network_sigma=None):
        value = conditioning.for_branch(branch)
        if branch == "src-":
            self.frames += frames or ()
            value = value if len(value) == 1 else value[list(frames or ())]
        return z * 0 + value.view(1, 1, -1, 1, 1)


def test_a_frame_that_is_close_enough_rests_and_the_others_go_on():
    """The first frame is there already: one update, as the authors' loop makes before it looks at the error."""
    from holdfast.models.base import Conditioning

    line, start = Line(), torch.zeros(2, 1, 1)
    conditioning = Conditioning(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    z = torch.zeros(1, 1, 2, 1, 1)
    wanted = torch.tensor([0.001, 1.0]).view(1, 1, 2, 1, 1)
    step = null_text.NullTextStep(z, wanted, 0.5, 0.25, 3, guidance_scale=2.0)
    assert step.learning_rate == pytest.approx(0.0097)
    assert step.largest_error == pytest.approx(7e-5)
    found = null_text.fit_embedding(as_field(line), conditioning, step, start, 4)
    assert line.frames == [0, 1, 1, 1, 1]
    assert found.flatten().tolist() == pytest.approx([0.0097, 4 * 0.0097], rel=1e-3)
    line.frames.clear()
    shared = null_text.fit_embedding(as_field(line), conditioning, step, start[:1], 2)
    assert line.frames == [0, 1, 0, 1]
    assert shared.shape == (1, 1, 1)
    assert null_text.fit_embedding(as_field(line), conditioning, step, start, 0) is start


def test_an_error_is_that_of_x_not_of_z():
    line = Line()
    from holdfast.models.base import Conditioning

    conditioning = Conditioning(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    z = torch.zeros(1, 1, 1, 1, 1)
    error = 1e-5 * ddim.scale_of(0.5) ** 2  # of z, as large as the threshold of x
    for factor, count in ((0.99, 1), (1.01, 2)):
        step = null_text.NullTextStep(z, z + (factor * error) ** 0.5, 0.6, 0.5, 0, 2.0)
        line.frames.clear()
        null_text.fit_embedding(as_field(line), conditioning, step, torch.zeros(1, 1, 1), 2)
        assert len(line.frames) == count


def test_null_text_brings_the_source_back_along_the_inversion(backbone, latent):
    """With guidance 7.5 the source leaves the inversion without the fitted embedding, and less so with it."""
    source, _ = naive_maps.conditions(backbone, SOURCE, SOURCE, (), ())
    errors = []
    latent = latent[:, :, :1]
    for iterations in (0, 4):
        settings = {"steps": 4, "inversion_steps": 4, "null_text_iterations": iterations}
        found, _ = run(backbone, latent, source, source, **settings)
        edited = found[-1][1]
        errors.append((edited - latent[0].transpose(0, 1)).square().mean())
        assert torch.allclose(
            edited, found[-1][0], atol=1e-4
        )  # equal prompts: the two stay together
    assert errors[1] < errors[0]


def test_a_value_of_each_frame_conditions_that_frame(backbone, latent):
    """Frames one by one, in parts, in any order and all at once."""
    conditioning = backbone.condition(naive_maps.Prompt(SOURCE))
    states = torch.randn(
        F, *conditioning.negative.shape[1:], generator=torch.Generator().manual_seed(1)
    )
    fitted = dataclasses.replace(conditioning, negative=states)
    with torch.no_grad():
        whole = backbone.field.velocity(latent, 0.4, fitted, branch="src-")
        for f in reversed(range(F)):
            one = backbone.field.velocity(
                latent[:, :, [f]], 0.4, fitted, branch="src-", frames=(f,)
            )
            assert torch.allclose(one, whole[:, :, [f]], atol=1e-5)
    assert not torch.allclose(whole[:, :, 0], whole[:, :, 1])


def test_the_negative_prompt_that_an_embedding_is_fitted_from_counts_as_used():
    from holdfast.models.base import Conditioning
    from holdfast.pipeline.metering import EvaluationMeter

    meter, initial = EvaluationMeter(), torch.zeros(1, 1, 1)
    field = meter.wrap(as_field(Line()))
    conditioning = Conditioning(torch.ones(1, 1, 1), initial)
    fitted = null_text.with_embedding(conditioning, torch.ones(1, 1, 1))
    z = torch.zeros(1, 1, 1, 1, 1)
    field.velocity(z, 0.5, fitted, branch="src+")
    assert not meter.was_used(initial)
    field.velocity(z, 0.5, fitted, branch="src-", frames=(0,))
    assert meter.was_used(initial)


def test_no_null_text_is_fitted_where_the_negative_prompt_has_no_weight(backbone, latent):
    words, new, old = SAME_LENGTH
    prompts = naive_maps.conditions(backbone, SOURCE, words, old, new)
    settings = {"steps": 2, "inversion_steps": 2, "source_guidance": 1.0}
    without, _ = run(backbone, latent, *prompts, null_text_iterations=0, **settings)
    found, state = run(backbone, latent, *prompts, null_text_iterations=2, **settings)
    assert "embedding" not in state
    assert torch.equal(found[-1][1], without[-1][1])
