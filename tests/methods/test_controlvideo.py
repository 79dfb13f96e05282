"""ControlVideo against a naive version: diffusers' scheduler, explicit attention maps, one frame after another."""

import contextlib
import dataclasses
from itertools import pairwise

import pytest
import torch

from holdfast.media.interpolation import interpolate_middle
from holdfast.methods import controlvideo
from holdfast.models.base import Control, Prompt
from holdfast.models.noise_schedule import NoiseSchedule
from holdfast.sampling.field import EditInputs, Pixels
from holdfast.sampling.noise import keyed_noise

from .. import tiny

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
SEED, STEPS, LONG_STEPS, GUIDANCE = 4, 3, 2, 3.0
ACCURACY = 1e-5


@pytest.fixture(scope="module")
def backbone():
    model = tiny.ADAPTERS["sd"]()
    model.schedule = NoiseSchedule.from_config(SCHEDULER)
    model.clean_sigma = model.schedule.clean_sigma
    return model


@pytest.fixture(scope="module")
def network(backbone):
    return tiny.controlnet(backbone.network)


def make_inputs(backbone, frames):
    torch.manual_seed(2)
    clip = torch.rand(frames, 3, 32, 32)
    pictures = torch.randint(0, 256, (frames, 3, 32, 32), dtype=torch.uint8)
    prompt = Prompt("a plain blue ball", "a red ball")
    target = dataclasses.replace(backbone.condition(prompt), control=Control(pictures, 0.8))
    stride = backbone.clip_format.stride
    pixels = Pixels(lambda: clip, backbone.encode, backbone.decode, backbone.condition, stride)
    return EditInputs(backbone.encode(clip), target, target, seed=SEED, pixels=pixels)


class NaiveAttention:
    """Self-attention with explicit maps: frame i attends to the frames of sources[i]."""

    def __init__(self, sources):
        self.sources = sources

    def __call__(self, attn, hidden, encoder_hidden_states=None, **_):
        q, k, v = attn.to_q(hidden), attn.to_k(hidden), attn.to_v(hidden)
        width = q.shape[-1] // attn.heads
        rows = []
        for i, chosen in enumerate(self.sources):
            keys, values = torch.cat([k[j] for j in chosen]), torch.cat([v[j] for j in chosen])
            heads = []
            for h in range(attn.heads):
                part = slice(h * width, (h + 1) * width)
                logits = q[i][:, part] @ keys[:, part].T / width**0.5
                heads.append(torch.softmax(logits, -1) @ values[:, part])
            rows.append(torch.cat(heads, -1))
        return attn.to_out[0](torch.stack(rows))


def naive_norm(norm):
    """A group norm over all frames, in double precision."""

    def forward(x):
        groups = x.double().unflatten(1, (norm.num_groups, -1))  # f g c h w
        mean = groups.mean((0, 2, 3, 4), keepdim=True)
        variance = ((groups - mean) ** 2).mean((0, 2, 3, 4), keepdim=True)
        normal = ((groups - mean) / (variance + norm.eps).sqrt()).flatten(1, 2).float()
        return normal * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)

    return forward


@contextlib.contextmanager
def inflated(networks, sources):
    """Both networks with naive attention between frames, and naive norms of residual blocks and of the output."""
    with contextlib.ExitStack() as stack:
        for network in networks:
            for path, module in network.named_modules():
                if path.endswith("attn1"):
                    stack.callback(setattr, module, "processor", module.processor)
                    module.processor = NaiveAttention(sources)
                is_block_norm = ".resnets." in path and path.endswith(("norm1", "norm2"))
                if is_block_norm or path == "conv_norm_out":
                    stack.callback(delattr, module, "forward")
                    module.forward = naive_norm(module)
        yield


def naive_eps(backbone, network, x, t, target, frames, sources, control=None):
    """Guided noise of some frames, f c h w, which attend to the frames of `sources`; of `control` in the ControlNet."""
    predictions = []
    for text in (target.negative, target.positive):
        text = text.expand(len(frames), -1, -1)
        picture = target.control.pictures[list(frames)].float() / 255
        with inflated([backbone.network], sources), inflated([network], control or sources):
            down, middle = network(
                x[list(frames)], t, text, picture, conditioning_scale=0.8, return_dict=False
            )
            residuals = {"down_block_additional_residuals": down}
            residuals["mid_block_additional_residual"] = middle
            predictions.append(backbone.network(x[list(frames)], t, text, **residuals).sample)
    return predictions[0] + GUIDANCE * (predictions[1] - predictions[0])


def naive_smooth(backbone, clean, first):
    """Decode, replace every second frame by the middle of its neighbours, encode. clean: f c h w, unscaled."""
    z = clean.transpose(0, 1)[None]
    frames = torch.cat(list(backbone.decode(z)))
    result = [frame.clone() for frame in frames]
    for i in range(len(frames)):
        if i % 2 == first % 2 and 0 < i < len(frames) - 1:
            before, after = frames[i - 1], frames[i + 1]
            pair = (before.permute(1, 2, 0).numpy(), after.permute(1, 2, 0).numpy())
            result[i] = torch.from_numpy(interpolate_middle(*pair)).permute(2, 0, 1)
    return backbone.encode(torch.stack(result))[0].transpose(0, 1)


@torch.no_grad()
def naive_edit(backbone, inputs, steps, eps_of, smoother=()):
    """The latent by diffusers' DDIM numbers. eps_of(x, t) -> guided noise of all frames, f c h w."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(SCHEDULER)
    scheduler.set_timesteps(steps)
    count = inputs.latent.shape[2]
    one = keyed_noise(inputs.latent[:, :, :1], SEED, 0)[0, :, 0]
    x = torch.stack([one] * count)
    alphas = scheduler.alphas_cumprod
    for i, t in enumerate(scheduler.timesteps.tolist()):
        eps = eps_of(x, t)
        abar = alphas[t]
        before = t - 1000 // steps
        abar_next = alphas[before] if before >= 0 else scheduler.final_alpha_cumprod
        clean = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
        if i in smoother:
            clean = naive_smooth(backbone, clean, 1 + smoother.index(i) % 2)
        x = abar_next.sqrt() * clean + (1 - abar_next).sqrt() * eps
    return x.transpose(0, 1)[None]


@torch.no_grad()
def run(backbone, network, inputs, **settings):
    config = controlvideo.Config(**{"steps": STEPS, "target_guidance": GUIDANCE, **settings})
    with backbone.use_controlnet(network):
        for step in controlvideo.edit(backbone.field, inputs, config):
            last = step.z
    return last


def test_a_short_clip_attends_to_all_frames_in_both_networks_and_is_smoothed_at_two_steps(
    backbone, network
):
    inputs = make_inputs(backbone, 5)
    everything = list(range(5))

    def eps_of(x, t):
        return naive_eps(backbone, network, x, t, inputs.target, everything, [everything] * 5)

    expected = naive_edit(backbone, inputs, STEPS, eps_of, smoother=(1, 2))
    found = run(backbone, network, inputs, smoother_at=0.34)
    assert torch.allclose(found, expected, atol=ACCURACY)
    for other in ({"attention": "own"}, {"norms": "frame"}, {"smoother_steps": 0}):
        changed = run(backbone, network, inputs, smoother_at=0.34, **other)
        assert (changed - expected).abs().max() > 1e-3, other


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_long_clip_has_key_frames_and_frames_that_attend_to_two_of_them(
    backbone, network, variant
):
    count = 9
    inputs = make_inputs(backbone, count)
    keys = {"paper": [0, 3, 6, 8], "released": [0, 2, 4, 6, 8]}[variant]

    def eps_of_pass(x, t, frames, sources):
        own = None if variant == "paper" else [[i] for i in range(len(frames))]
        return naive_eps(backbone, network, x, t, inputs.target, frames, sources, own)

    def eps_of(x, t):
        made = torch.empty_like(x)
        everything = list(range(len(keys)))
        found = eps_of_pass(x, t, keys, [everything] * len(keys))
        made[keys] = found
        for a, b in pairwise(keys):
            inner = [i for i in range(count) if a < i < b]
            if not inner:
                continue
            batch = [a, *inner, b] if variant == "paper" else [a, b, *inner]
            ends = [[0, len(batch) - 1]] * len(batch)
            found = eps_of_pass(x, t, batch, ends)
            made[inner] = found[[batch.index(i) for i in inner]]
        return made

    expected = naive_edit(backbone, inputs, LONG_STEPS, eps_of)
    settings = {"long_clip": "on", "variant": variant, "smoother_steps": 0, "steps": LONG_STEPS}
    found = run(backbone, network, inputs, **settings)
    assert torch.allclose(found, expected, atol=ACCURACY)
    short = run(backbone, network, inputs, long_clip="off", smoother_steps=0, steps=LONG_STEPS)
    assert (short - expected).abs().max() > 1e-3


def test_clips_of_more_than_15_frames_are_long_and_smoothing_is_at_30_and_31_of_50_steps():
    config = controlvideo.Config()
    assert len(controlvideo.plan_passes(15, config)) == 1
    assert controlvideo.plan_passes(16, config)[0].frames == (0, 4, 8, 12, 15)
    released = dataclasses.replace(config, variant="released")
    assert controlvideo.plan_passes(16, released)[0].frames == (0, 3, 6, 9, 12, 15)
    assert controlvideo.plan_passes(2, dataclasses.replace(config, long_clip="on"))[0].kept == (
        0,
        1,
    )
    numbers = {i: controlvideo.smoother_number(i, config) for i in range(50)}
    assert {i: n for i, n in numbers.items() if n is not None} == {30: 0, 31: 1}


def test_the_frame_in_the_middle_shows_the_object_half_way():
    import numpy as np

    def frame(x):
        picture = np.zeros((64, 64, 3), np.float32)
        picture[20:40, x : x + 20] = np.linspace(0.3, 1, 20)[None, :, None]
        return picture

    found = interpolate_middle(frame(16), frame(24))
    assert np.abs(found - frame(20)).mean() < 0.3 * np.abs(frame(16) - frame(20)).mean()
    assert np.allclose(interpolate_middle(frame(8), frame(8)), frame(8), atol=1e-6)
