"""AnyV2V against a plain loop over the network itself, with explicit attention, written from the equations."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch

from holdfast.base.errors import UserError
from holdfast.methods import anyv2v
from holdfast.models.base import Prompt
from holdfast.sampling import ddim
from holdfast.sampling.field import EditInputs, Pixels
from holdfast.sampling.noise import keyed_noise

from .. import tiny
from .analytic import Gaussian, as_field

SHARES = {"residual_share": 0.5, "spatial_share": 0.5, "temporal_share": 0.75}
SETTINGS: dict[str, Any] = {"steps": 4, "inversion_steps": 9, "target_guidance": 2.0, **SHARES}
FIRST, LAST, RHO = 700.0, 0.002, 7
RESIDUAL = "up_blocks.1.resnets.1.spatial_res_block.conv2"
SPATIAL = "up_blocks.1.attentions.1.transformer_blocks.0.attn1"
TEMPORAL = "up_blocks.1.attentions.1.temporal_transformer_blocks.0.attn1"


@pytest.fixture(scope="module")
def backbone():
    return tiny.stable_video()


@pytest.fixture(scope="module")
def inputs(backbone):
    generator = torch.Generator().manual_seed(1)
    first = torch.rand(3, 32, 32, generator=generator)
    latent = torch.randn(1, 4, 3, 4, 4, generator=generator)
    edited = 1 - first
    conditions = (backbone.condition(Prompt(image=image)) for image in (first, edited))
    pixels = Pixels(lambda: [], backbone.encode, backbone.decode, backbone.condition, (1, 8, 8))
    return EditInputs(latent, *conditions, seed=3, pixels=pixels, first_frame=edited)


class Copies:
    """What the source has at the three layers, and explicit attention that takes it."""

    def __init__(self, network):
        self.network, self.values, self.wanted, self.is_source = network, {}, set(), True

    def attention(self, path):
        def process(attn, hidden, encoder_hidden_states=None, attention_mask=None):
            split = lambda x: x.unflatten(-1, (attn.heads, -1))  # noqa: E731  # B N heads d
            q, k, v = (split(part(hidden)) for part in (attn.to_q, attn.to_k, attn.to_v))
            if self.is_source:
                self.values[path] = q, k
            elif path in self.wanted:
                q, k = self.values[path]
            logits = torch.einsum("bnhd,blhd->bhnl", q, k) / math.sqrt(q.shape[-1])
            rows = logits.exp() / logits.exp().sum(-1, keepdim=True)
            return attn.to_out[0](torch.einsum("bhnl,blhd->bnhd", rows, v).flatten(2))

        return process

    def residual(self, module, given, output):
        if self.is_source:
            self.values[RESIDUAL] = output
        elif RESIDUAL in self.wanted:
            return self.values[RESIDUAL]
        return None

    def __enter__(self):
        modules = [self.network.get_submodule(path) for path in (SPATIAL, TEMPORAL)]
        self.own = [(module, module.processor) for module in modules]
        for path, module in zip((SPATIAL, TEMPORAL), modules, strict=True):
            module.processor = self.attention(path)
        conv = self.network.get_submodule(RESIDUAL)
        self.handle = conv.register_forward_hook(self.residual)
        return self

    def __exit__(self, *_):
        self.handle.remove()
        for module, processor in self.own:
            module.processor = processor


def karras(count):
    a, b = FIRST ** (1 / RHO), LAST ** (1 / RHO)
    return [(a + i / (count - 1) * (b - a)) ** RHO for i in range(count)]


def predict(network, x, s, s_network, image):
    """Return noise and clean at x = clean + s noise."""
    frames = x.shape[2]
    embedding, latents, ids = image
    pictures = torch.stack([latents] * frames, 2)
    joined = torch.cat((x / math.sqrt(1 + s**2), pictures), 1).transpose(1, 2)
    t = torch.tensor([0.25 * math.log(s_network)])
    v = network(joined, t, embedding, added_time_ids=ids).sample.transpose(1, 2)
    noise = s / (1 + s**2) * x + v / math.sqrt(1 + s**2)
    return noise, x / (1 + s**2) - s / math.sqrt(1 + s**2) * v


def reference(backbone, inputs, negative, ratio):
    """Return x after each step of sampling. Four levels of sampling, seven of inversion."""
    network, source, target = backbone.network, inputs.source.positive, inputs.target.positive
    rising, sampled = [0.0, *karras(7)[::-1]], [*karras(4), 0.0]
    x, inverted = inputs.latent, {}
    for s, s_next in itertools.pairwise(rising[:6]):  # up to the second level of sampling
        noise, clean = predict(network, x, s, s_next, source)
        x = inverted[s_next] = clean + s_next * noise
    zeros = torch.zeros_like
    empty = (
        zeros(target.embedding),
        target.latents if negative == "latents" else zeros(target.latents),
        target.time_ids,
    )
    first = sampled[1]
    fresh = keyed_noise(x, inputs.seed, 0) * math.sqrt(1 + first**2)  # of the size of x there
    x, steps = (1 - ratio) * x + ratio * fresh, []
    ends = {RESIDUAL: 2, SPATIAL: 2, TEMPORAL: 3}  # of four steps
    with Copies(network) as copies:
        for i in range(1, 4):
            s, s_next = sampled[i], sampled[i + 1]
            copies.is_source = True
            level = min(inverted, key=lambda known, s=s: abs(known - s))
            predict(network, inverted[level], s, s, source)
            copies.is_source, copies.wanted = False, {p for p, end in ends.items() if i < end}
            (e_plus, x_plus), (e_minus, x_minus) = (
                predict(network, x, s, s, image) for image in (target, empty)
            )
            x = x_minus + 2 * (x_plus - x_minus) + s_next * (e_minus + 2 * (e_plus - e_minus))
            steps.append(x)
    return steps


@pytest.mark.parametrize(
    ("negative", "ratio", "shares"),
    [("latents", 0.0, {}), ("zeros", 0.25, {}), ("latents", 0.0, {"spatial_share": 0.25})],
)
def test_it_is_the_plain_loop(backbone, inputs, negative, ratio, shares):
    options = {"negative_image": negative, "random_ratio": ratio, "strength": 0.75}
    config = anyv2v.Config(**SETTINGS | options | shares)
    with torch.no_grad():
        found = [s for s in anyv2v.edit(backbone.field, inputs, config) if s.stage == "edit"]
        expected = reference(backbone, inputs, negative, ratio)
    assert [step.index for step in found] == [2, 3, 4]
    errors = []
    for step, x, s in zip(found, expected, [*karras(4)[2:], 0.0], strict=True):
        z = x / (1 + s)
        errors.append(float((step.z - z).abs().max() / z.abs().max()))
    # Without a step that injects attention over space the reference has it as it is.
    assert (max(errors) < 1e-5) == (not shares), errors


def test_the_inversion_divides_the_levels_of_sampling():
    for steps, wanted, expected in [(50, 500, 491), (25, 500, 481), (50, 1000, 981), (3, 3, 3)]:
        config = anyv2v.Config(steps=steps, inversion_steps=wanted)
        assert anyv2v.divide_steps(config).inversion_steps == expected


def test_the_copies_are_counted_on_all_steps(backbone):
    """Of 50 steps the first is left out: 9, 9 and 24 steps have copies."""
    table = anyv2v.make_table(backbone.field, anyv2v.Config(), 1)
    assert (table.feature_steps, table.attention_steps) == (
        {RESIDUAL: 10},
        {SPATIAL: 10, TEMPORAL: 25},
    )
    assert anyv2v.make_table(backbone.field, anyv2v.Config(), 25) is None


def test_the_source_runs_only_where_something_is_copied(backbone, inputs):
    config = anyv2v.Config(**SETTINGS | dict.fromkeys(SHARES, 0.0) | {"residual_share": 0.5})
    branches = []

    def velocities(sigma, evaluations, frames=None):
        branches.append([e.branch for e in evaluations])
        return backbone.velocities(sigma, evaluations, frames)

    field = dataclasses.replace(backbone.field, velocities=velocities)
    with torch.no_grad():
        count = sum(s.stage == "edit" for s in anyv2v.edit(field, inputs, config))
    guided = ["tgt+", "tgt-"]
    assert count == 4
    assert branches[7:] == 2 * [["src+"], guided] + 2 * [guided]


def test_a_network_without_these_layers_is_refused(inputs):
    config = anyv2v.Config(steps=2, inversion_steps=2)
    with pytest.raises(UserError, match="none of the layers"):
        next(anyv2v.edit(as_field(Gaussian()), inputs, config))


def test_equal_frames_return_near_the_source_where_guidance_is_off(backbone, inputs):
    """The error is that of the inversion: it falls with the number of its steps."""
    same = dataclasses.replace(inputs, target=inputs.source, first_frame=None)
    errors = []
    for steps in (5, 20):
        config = anyv2v.Config(
            steps=steps, inversion_steps=steps, target_guidance=1.0, strength=1.0
        )
        with torch.no_grad():
            *_, end = anyv2v.edit(backbone.field, same, config)
        errors.append(float((end.z - inputs.latent).square().mean().sqrt()))
    assert errors[1] < errors[0] < 1, errors
    assert ddim.scale_of(0.0) == 1
