"""Attention with explicit maps, frame by frame and head by head, in a network of single images."""

import contextlib
from typing import Any

import torch

from holdfast.models.attention.hooks import NetworkCall
from holdfast.models.base import Prompt
from tests import tiny

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}


class NaiveAttention:
    """A processor that makes each map, gives it to `edit(path, kind, map)`, and multiplies it by the values.

    A map is f heads N L. sources: of each frame, the frames whose keys and values self-attention reads; None: its own.
    """

    def __init__(self, path, edit, sources):
        self.path, self.edit, self.sources = path, edit, sources

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        is_cross = encoder_hidden_states is not None
        context = encoder_hidden_states if is_cross else hidden_states
        q, k, v = (
            layer(x).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        frames = range(len(q))
        sources = [[f] for f in frames] if is_cross or not self.sources else self.sources
        values = [torch.cat([v[j] for j in sources[f]], 1) for f in frames]
        keys = [torch.cat([k[j] for j in sources[f]], 1) for f in frames]
        maps = []
        for f in frames:
            scores = [q[f, h] @ keys[f][h].T / q.shape[-1] ** 0.5 for h in range(attn.heads)]
            maps.append(torch.stack([score.softmax(-1) for score in scores]))
        edited = self.edit(self.path, "cross" if is_cross else "self", torch.stack(maps))
        out = torch.stack([edited[f] @ values[f] for f in frames])
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


@contextlib.contextmanager
def naive_attention(network, edit, sources=None):
    """Run a network's attention naively inside the block."""
    own = dict(network.attn_processors)
    network.set_attn_processor({path: NaiveAttention(path, edit, sources) for path in own})
    try:
        yield
    finally:
        network.set_attn_processor(own)


def predict(backbone, x, t, text, edit, sources=None, norms_over_clip=False):
    """Return the network's prediction at x, f c h w, with edited maps."""
    call = NetworkCall("", tuple(range(len(x))), tuple(x.shape[2:]))
    norms = backbone.clip_norms.use() if norms_over_clip else contextlib.nullcontext()
    with backbone.use_call(call), norms, naive_attention(backbone.network, edit, sources):
        return backbone.network(x, t, text.expand(len(x), -1, -1)).sample


def keep(path, kind, own):
    return own


def make_backbone():
    """A tiny model whose attention is far from even, with the noise schedule of Stable Diffusion."""
    from holdfast.models.noise_schedule import NoiseSchedule

    backbone = tiny.ADAPTERS["sd"]()
    with torch.no_grad():
        for name, weight in backbone.network.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                weight *= 4
    config = {"_class_name": "DDIMScheduler", **SCHEDULER}
    backbone.schedule = NoiseSchedule.from_config(config)
    backbone.clean_sigma = backbone.schedule.clean_sigma
    return backbone


def make_scheduler(steps) -> Any:
    """Return diffusers' scheduler of the same schedule."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler: Any = DDIMScheduler.from_config(SCHEDULER)
    scheduler.set_timesteps(steps)
    return scheduler


def invert(scheduler, x, predict_noise):
    """Return the latents of a DDIM inversion, clean one first. predict_noise(x, t, number of the step)."""
    found, ratio = [x], 1000 // len(scheduler.timesteps)
    for number, t in enumerate(reversed(scheduler.timesteps.tolist())):
        below = t - ratio
        a = scheduler.alphas_cumprod[below] if below >= 0 else scheduler.final_alpha_cumprod
        a_next = scheduler.alphas_cumprod[t]
        eps = predict_noise(x, t, number)
        x = a_next.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - a_next).sqrt() * eps
        found.append(x)
    return found


def word_mask(maps, positions, size, threshold):
    """Return where words attend, f 1 h w, of maps f heads N L on a grid h w of each layer."""
    grid = maps[0][1]
    stacked = torch.cat([m[..., positions].sum(-1) for m, _ in maps], 1)  # f heads N
    heat = stacked.mean(1).unflatten(1, grid)[:, None]
    heat = torch.nn.functional.max_pool2d(heat, 3, 1, 1)
    heat = torch.nn.functional.interpolate(heat, size=size)
    return heat / heat.amax((2, 3), keepdim=True) > threshold


def conditions(backbone, source, target, old_words, new_words):
    """Return the conditionings of two prompts. old_words, new_words: indices of the words that drive the edit."""
    return (
        backbone.condition(Prompt(source, words=old_words)),
        backbone.condition(Prompt(target, words=new_words)),
    )
