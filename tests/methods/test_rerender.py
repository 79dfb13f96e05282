"""Rerender A Video against a naive version: diffusers' scheduler, explicit maps, loops over pixels and cells."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch

from holdfast.methods import rerender
from holdfast.methods.rerender import attention, between, flows, fusion, key_frames
from holdfast.models.base import Control, Prompt
from holdfast.models.noise_schedule import NoiseSchedule
from holdfast.sampling.field import EditInputs, Pixels
from holdfast.sampling.noise import keyed_noise

from .. import tiny
from .test_controlvideo import SCHEDULER

SEED, STEPS, FIRST, GUIDANCE, COUNT = 3, 5, 1, 2.0, 5
KEYS = [0, 2, 4]
SETTINGS = {
    "steps": STEPS,
    "strength": 0.8,
    "interval": 2,
    "target_guidance": GUIDANCE,
    "warp_end": 0.2,
    "fusion_start": 0.5,
    "fusion_end": 0.5,
    "colour_start": 0.75,
    "propagation": "flow",
}
SIDE, CELL = 32, 8


@pytest.fixture(scope="module")
def backbone():
    model = tiny.ADAPTERS["sd"]()
    model.schedule = NoiseSchedule.from_config(SCHEDULER)
    model.clean_sigma = model.schedule.clean_sigma
    return model


@pytest.fixture(scope="module")
def network(backbone):
    return tiny.controlnet(backbone.network)


@pytest.fixture
def inputs(backbone):
    torch.manual_seed(2)
    clip = torch.rand(COUNT, 3, SIDE, SIDE)
    for i in range(COUNT):
        clip[i, :, 0, 0] = i / 10  # so that the flow below knows which frames it is given
    pictures = torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), dtype=torch.uint8)
    conditioning = backbone.condition(Prompt("a plain blue ball", "a red ball"))
    target = dataclasses.replace(conditioning, control=Control(pictures, 0.9))
    ways = backbone.encode, backbone.decode, backbone.condition, backbone.clip_format.stride
    pixels = Pixels(lambda: clip, *ways)
    return EditInputs(backbone.encode(clip), target, target, seed=SEED, pixels=pixels)


def known_flow(first, second):
    """A shift by 2.5 pixels a frame; in the upper rows the way back does not fit."""
    forward = second[0, 0, 0] > first[0, 0, 0]
    flow = np.zeros((SIDE, SIDE, 2), np.float32)
    flow[..., 0] = 2.5 if forward else -2.5
    if forward:
        flow[:9, :, 1] = 3
    return flow


@pytest.fixture(autouse=True)
def _known_flow(monkeypatch):
    def open_flow(inputs, config):
        frames = [flows.to_array(frame) for frame in inputs.pixels.frames()]
        return flows.ClipFlow(tuple(frames), known_flow)

    monkeypatch.setattr(key_frames, "open_flow", open_flow)


@torch.no_grad()
def run(backbone, network, inputs, **settings):
    config = rerender.Config(**{**SETTINGS, **settings})
    with backbone.use_controlnet(network):
        return list(rerender.edit(backbone.field, inputs, config))


# The naive version. A frame's flow to another frame is composed of steps, pixel by pixel.


def sample(image, y, x):
    """A bilinear sample of H W c, with the edge repeated."""
    h, w = image.shape[:2]
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    top, left = int(np.floor(y)), int(np.floor(x))
    below, right = min(top + 1, h - 1), min(left + 1, w - 1)
    v, u = y - top, x - left
    upper = (1 - u) * image[top, left] + u * image[top, right]
    return (1 - v) * upper + v * ((1 - u) * image[below, left] + u * image[below, right])


def warp_pixels(image, flow):
    made = np.zeros_like(image)
    for y, x in np.ndindex(image.shape[:2]):
        made[y, x] = sample(image, y + flow[y, x, 1], x + flow[y, x, 0])
    return made


def flow_between(frames, i, j):
    step = 1 if j > i else -1
    total = known_flow(frames[i], frames[i + step])
    for k in range(i + step, j, step):
        total = total + warp_pixels(known_flow(frames[k], frames[k + step]), total)
    return total


def visible_pixels(frames, i, j):
    flow, back = flow_between(frames, i, j), flow_between(frames, j, i)
    returned = warp_pixels(back, flow)
    seen = np.zeros((SIDE, SIDE), bool)
    for y, x in np.ndindex(SIDE, SIDE):
        f, b = flow[y, x], returned[y, x]
        lengths = np.hypot(*f) + np.hypot(*b)
        inside = 0 <= x + f[0] <= SIDE - 1 and 0 <= y + f[1] <= SIDE - 1
        seen[y, x] = inside and np.hypot(*(f + b)) <= 0.01 * lengths + 0.5
    return seen


def visible_cells(seen):
    cells = torch.zeros(SIDE // CELL, SIDE // CELL)
    for r, c in np.ndindex(*cells.shape):
        cells[r, c] = float(seen[r * CELL : (r + 1) * CELL, c * CELL : (c + 1) * CELL].all())
    return cells


def warp_latent(x, flow):
    """A latent c h w along the mean flow of each cell."""
    image, side = x.permute(1, 2, 0).numpy(), SIDE // CELL
    mean = flow.reshape(side, CELL, side, CELL, 2).mean((1, 3)) / CELL
    return torch.from_numpy(warp_pixels(image, mean)).permute(2, 0, 1)


class KeptAttention:
    """Explicit maps of a decoder layer: attends to the first key frame and the one before, and keeps its own."""

    def __init__(self, earlier, own, place):
        self.earlier, self.own, self.place = earlier, own, place

    def __call__(self, attn, hidden, encoder_hidden_states=None, **_):
        q, k, v = attn.to_q(hidden)[0], attn.to_k(hidden)[0], attn.to_v(hidden)[0]
        self.own[self.place] = k, v
        if self.earlier:
            k, v = (torch.cat([kept[self.place][part] for kept in self.earlier]) for part in (0, 1))
        width, heads = q.shape[-1] // attn.heads, []
        for h in range(attn.heads):
            part = slice(h * width, (h + 1) * width)
            heads.append(torch.softmax(q[:, part] @ k[:, part].T / width**0.5, -1) @ v[:, part])
        return attn.to_out[0](torch.cat(heads, -1))[None]


def naive_eps(backbone, network, target, key, x, t, kept):
    """Guided noise of one key frame, c h w. kept: earlier key frames' and its own keys and values."""
    earlier, own = kept
    picture, found = target.control.pictures[key : key + 1].float() / 255, []
    for half, text in (("-", target.negative), ("+", target.positive)):
        with contextlib.ExitStack() as stack:
            for path, module in backbone.network.named_modules():
                if path.endswith("attn1") and path.startswith("up_blocks"):
                    stack.callback(setattr, module, "processor", module.processor)
                    module.processor = KeptAttention(earlier, own, (t, half, path))
            down, middle = network(
                x[None], t, text, picture, conditioning_scale=0.9, return_dict=False
            )
            residuals = {"down_block_additional_residuals": down}
            residuals["mid_block_additional_residual"] = middle
            found.append(backbone.network(x[None], t, text, **residuals).sample[0])
    return found[0] + GUIDANCE * (found[1] - found[0])


def picture_of(backbone, x):
    return next(iter(backbone.decode(x[None, :, None].contiguous())))[0]


def latent_of(backbone, picture):
    return backbone.encode([picture])[0, :, 0]


def faithful(backbone, picture):
    x = latent_of(backbone, picture)
    decoded = picture_of(backbone, x)
    again, made = latent_of(backbone, decoded), x.clone()
    for r, c in np.ndindex(SIDE // CELL, SIDE // CELL):
        part = slice(r * CELL, (r + 1) * CELL), slice(c * CELL, (c + 1) * CELL)
        if (2 * (decoded - picture)[(slice(None), *part)].abs()).mean() < 0.25:
            made[:, r, c] += x[:, r, c] - again[:, r, c]
    return made


@torch.no_grad()
def naive_keys(backbone, network, inputs):
    """The latents of the key frames, c h w each, and the shares of visible cells."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(SCHEDULER)
    scheduler.set_timesteps(STEPS)
    times, alphas = scheduler.timesteps.tolist(), scheduler.alphas_cumprod
    frames = [flows.to_array(frame) for frame in inputs.pixels.frames()]
    noise = keyed_noise(inputs.latent[:, :, :1], SEED, 0)[0, :, 0]
    kept, cleans, results, shares = [], [], [], []

    def next_abar(i):
        before = times[i] - 1000 // STEPS
        return alphas[before] if before >= 0 else scheduler.final_alpha_cumprod

    for n, key in enumerate(KEYS):
        abar = alphas[times[FIRST]]
        x = abar.sqrt() * inputs.latent[0, :, key] + (1 - abar).sqrt() * noise
        earlier = [kept[0], kept[-1]] if n else []
        own, own_cleans, fused = {}, {}, None
        for i in range(FIRST, STEPS):
            eps = naive_eps(backbone, network, inputs.target, key, x, times[i], (earlier, own))
            abar, following = alphas[times[i]], next_abar(i)
            clean = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
            if n and i == FIRST:  # the first of four steps
                seen = visible_cells(visible_pixels(frames, key, 0))
                moved = warp_latent(cleans[0][i], flow_between(frames, key, 0))
                clean = seen * moved + (1 - seen) * clean
                shares.append(seen.mean())
            if n and i == STEPS - 1:  # three quarters of the steps are done
                mine, first = clean.flatten(1), cleans[0][i].flatten(1)
                normal = (mine - mine.mean(1, True)) / (mine.std(1, keepdim=True) + 1e-6)
                clean = (normal * first.std(1, keepdim=True) + first.mean(1, True)).view_as(clean)
            own_cleans[i] = clean
            if n and i == FIRST + 2:  # half of the steps are done
                rest = x
                for j in range(i, STEPS):
                    e = naive_eps(
                        backbone, network, inputs.target, key, rest, times[j], (earlier, {})
                    )
                    a = alphas[times[j]]
                    c = (rest - (1 - a).sqrt() * e) / a.sqrt()
                    rest = next_abar(j).sqrt() * c + (1 - next_abar(j)).sqrt() * e
                picture = flows.to_array(picture_of(backbone, rest))
                covered = np.zeros((SIDE, SIDE), bool)
                for other, result in ((KEYS[n - 1], results[-1]), (0, results[0])):
                    seen = visible_pixels(frames, key, other)
                    image = flows.to_array(picture_of(backbone, result))
                    moved = warp_pixels(image, flow_between(frames, key, other))
                    picture = np.where(seen[..., None], moved, picture)
                    covered |= seen
                fused = faithful(backbone, flows.to_tensor(picture))
                mask, w = visible_cells(covered), 0.5
                fresh = keyed_noise(x[None, :, None], SEED, i + 1, first_frame=key)[0, :, 0]
                r = max(1 - w, 0.9 * (1 - w**2) ** 0.5)
                clean = (1 - mask) * clean + mask * (w * fused + (1 - w) * clean)
                eps = (1 - mask) * eps + mask * (w * fresh + r * eps)
                shares.append(mask.mean())
            x = following.sqrt() * clean + (1 - following).sqrt() * eps
        kept.append(own)
        cleans.append(own_cleans)
        results.append(x)
    return results, shares


def test_key_frames_are_those_of_the_naive_version(backbone, network, inputs):
    expected, shares = naive_keys(backbone, network, inputs)
    assert all(0 < share < 1 for share in shares)  # some cells are visible, some are not
    steps = run(backbone, network, inputs)
    assert [step.index for step in steps] == list(range(1, 13))
    for key, latent in zip(KEYS, expected, strict=True):
        found = steps[-1].z[0, :, key]
        assert (found - latent).abs().max() < 1e-5 * max(1, latent.abs().max()), key
    for other in ({"attention": "own"}, {"warp_end": 0.0}, {"fusion_strength": 0.0}):
        changed = run(backbone, network, inputs, **other)[-1].z[0, :, 4]
        assert (changed - expected[2]).abs().max() > 1e-3, other
    loose = run(backbone, network, inputs, attention="loose")[-1].z
    assert torch.equal(loose, steps[-1].z)  # no layer has 1280 channels
    previous = run(backbone, network, inputs, warp_reference="previous")[-1].z
    assert torch.equal(previous[:, :, 2], steps[-1].z[:, :, 2])  # the first one is the one before
    assert not torch.allclose(previous[:, :, 4], steps[-1].z[:, :, 4], atol=1e-3)


def test_the_state_holds_two_key_frames_at_most_and_nothing_at_the_end(backbone, network, inputs):
    steps = run(backbone, network, inputs)
    owners = [{name.split("/")[0] for name in step.state} for step in steps]
    assert owners[0] == {"own"}
    assert owners[3] == {"first"}
    assert owners[7] == {"first", "previous"}
    assert owners[8] == {"first", "previous"}  # the last one leaves nothing
    assert owners[-1] == set()
    state = {"own/1/a": 1, "first/1/a": 2, "previous/1/a": 3, "fused": 4}
    assert attention.pass_on(state, 1) == {"first/1/a": 2, "previous/1/a": 1}
    assert attention.find_kept({"first/1/a": 2}, "previous", 1, "a") == 2


def test_frames_between_key_frames_come_from_both_by_either_way(backbone, network, inputs):
    frames = [np.full((SIDE, SIDE, 3), i / 10, np.float32) for i in range(4)]

    def still(first, second):
        return np.zeros((SIDE, SIDE, 2), np.float32)

    clip = flows.ClipFlow(tuple(frames), still)
    keys = {
        0: np.full((SIDE, SIDE, 3), 0.2, np.float32),
        2: np.full((SIDE, SIDE, 3), 0.6, np.float32),
    }
    made = between.propagate(clip, keys, "flow", 0)
    assert set(made) == {1, 3}
    assert np.allclose(made[1], 0.4, atol=1e-6)
    assert np.allclose(made[3], 0.6, atol=1e-6)  # after the last key frame
    filled = run(backbone, network, inputs)[-1].z
    assert (filled[:, :, 1] - inputs.latent[:, :, 1]).abs().max() > 1e-3


def test_patch_synthesis_makes_the_frames_between(monkeypatch):
    called = {}

    def propagate(frames, flow, keyframes, options):
        called.update(count=len(frames), keys=set(keyframes), seed=options.synthesis.seed)
        return iter([np.zeros((4, 4, 3))] * len(frames))

    monkeypatch.setattr(between.propagation, "propagate", propagate)
    frames = tuple(np.zeros((4, 4, 3), np.float32) for _ in range(3))
    made = between.propagate(flows.ClipFlow(frames, known_flow), {0: frames[0]}, "ebsynth", 7)
    assert called == {"count": 3, "keys": {0}, "seed": 7}
    assert set(made) == {1, 2}


def test_full_strength_replaces_what_is_visible_and_its_noise():
    like = torch.zeros(1, 2, 1, 2, 2)
    visible = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 1, 1, 2, 2)
    fused = like + 5, like + 7, visible
    clean, noise = fusion.blend_fused(like + 1, like + 2, fused, 1.0, 0.9)
    assert torch.equal(clean, 1 + 4 * visible.expand_as(like))
    assert torch.equal(noise, 2 + 5 * visible.expand_as(like))
