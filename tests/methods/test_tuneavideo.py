"""Tune-A-Video against a naive copy of the network: explicit maps, weights trained in place, DDIM in abar."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from holdfast.base.errors import UserError
from holdfast.methods import tuneavideo
from holdfast.models.base import Prompt
from holdfast.sampling import tuning
from holdfast.sampling.field import EditInputs
from holdfast.sampling.noise import keyed_noise

from .. import tiny
from .analytic import last

FRAMES, SEED = 3, 4


@pytest.fixture(scope="module")
def backbone():
    made = tiny.latent_diffusion(tiny.unet2d())
    made.schedule = type(made.schedule).from_config({"set_alpha_to_one": False})
    made.clean_sigma = made.schedule.clean_sigma
    return made


@pytest.fixture(scope="module")
def inputs(backbone):
    latent = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(0))
    source, target = (backbone.condition(Prompt(t)) for t in ("a red ball", "a blue ball on sand"))
    return EditInputs(latent, source, target, seed=SEED)


@pytest.fixture(scope="module")
def parameters(backbone):
    """abar of every timestep, written out."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


def multiply_heads(q, k, v, heads):
    """softmax(q k^T / sqrt d) v of each head. q: N c; k, v: L c."""
    width, parts = q.shape[1] // heads, []
    for head in range(heads):
        at = slice(head * width, (head + 1) * width)
        parts.append((q[:, at] @ k[:, at].T / width**0.5).softmax(1) @ v[:, at])
    return torch.cat(parts, 1)


class NaiveBlock(nn.Module):
    """A transformer block of the inflated network, frame by frame and position by position."""

    def __init__(self, block, temporal):
        super().__init__()
        self.block = block
        names = ("to_q", "to_k", "to_v", "to_out", "to_out_bias")
        self.temporal = nn.ParameterDict({n: nn.Parameter(temporal[n].clone()) for n in names})

    def forward(self, hidden, *args, encoder_hidden_states=None, **kwargs):
        text = args[1] if encoder_hidden_states is None else encoder_hidden_states
        normed = self.block.norm1(hidden)
        read = [torch.cat((normed[0], normed[max(i - 1, 0)])) for i in range(len(hidden))]
        hidden = hidden + self.attend(self.block.attn1, normed, read)
        hidden = hidden + self.attend(self.block.attn2, self.block.norm2(hidden), text)
        hidden = hidden + self.block.ff(self.block.norm3(hidden))
        return hidden + self.attend_over_time(hidden)

    def attend(self, attention, hidden, contexts):
        found = []
        for own, context in zip(hidden, contexts, strict=True):
            q = own @ attention.to_q.weight.T
            k, v = context @ attention.to_k.weight.T, context @ attention.to_v.weight.T
            found.append(multiply_heads(q, k, v, attention.heads))
        out = attention.to_out[0]
        return torch.stack(found) @ out.weight.T + out.bias

    def attend_over_time(self, hidden):
        normed = nn.functional.layer_norm(hidden, hidden.shape[2:])
        found = []
        for n in range(hidden.shape[1]):
            q, k, v = (normed[:, n] @ self.temporal[name].T for name in ("to_q", "to_k", "to_v"))
            found.append(multiply_heads(q, k, v, self.block.attn1.heads))
        out = torch.stack(found, 1) @ self.temporal["to_out"].T
        return out + self.temporal["to_out_bias"]


def norm_over_clip(norm):
    """A group's mean and variance over all frames."""

    def forward(input):  # f c h w
        groups = input.unflatten(1, (norm.num_groups, -1))
        mean = groups.mean((0, 2, 3, 4), keepdim=True)
        variance = (groups - mean).square().mean((0, 2, 3, 4), keepdim=True)
        out = ((groups - mean) / (variance + norm.eps).sqrt()).flatten(1, 2)
        return out * norm.weight[:, None, None] + norm.bias[:, None, None]

    return forward


def inflate_naively(backbone, initial):
    """Return a copy of the network that is inflated by hand, and the weights that are trained."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    unet = copy.deepcopy(backbone.network).requires_grad_(False)
    trained = []
    for path, module in list(unet.named_modules()):
        if isinstance(module, ResnetBlock2D):
            module.norm1.forward = norm_over_clip(module.norm1)
            module.norm2.forward = norm_over_clip(module.norm2)
        if isinstance(module, BasicTransformerBlock):
            assert module.attn2
            prefix = f"{path}."
            own = {n.removeprefix(prefix): t for n, t in initial.items() if n.startswith(prefix)}
            naive = NaiveBlock(module, own)
            parent, _, name = path.rpartition(".")
            unet.get_submodule(parent).set_submodule(name, naive)
            queries = [module.attn1.to_q.weight, module.attn2.to_q.weight]
            trained += [query.requires_grad_() for query in queries] + list(naive.parameters())
    unet.conv_norm_out.forward = norm_over_clip(unet.conv_norm_out)
    return unet, [p for p in dict.fromkeys(trained) if p.requires_grad]


def run_naively(backbone, inputs, config, abar, initial):
    unet, trained = inflate_naively(backbone, initial)

    def predict(x, t, text):
        frames = x[0].transpose(0, 1)
        out = unet(frames, t, text.expand(len(frames), -1, -1)).sample
        return out.transpose(0, 1)[None]

    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=1e-2)
    with torch.enable_grad():
        for i in range(config.tuning_steps):
            sigma = tuning.draw_training_sigma(backbone.field, SEED, i)
            t = min(range(1000), key=lambda t: abs((1 / abar[t] - 1) ** 0.5 - sigma / (1 - sigma)))
            eps = keyed_noise(inputs.latent, SEED, i, repeat=1)
            x = abar[t] ** 0.5 * inputs.latent + (1 - abar[t]) ** 0.5 * eps
            loss = (predict(x.float(), t, inputs.source.positive) - eps).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
    size = 1000 // config.steps
    timesteps = [i * size + 1 for i in range(config.steps)]

    def step(x, eps, here, there):
        clean = (x - (1 - here) ** 0.5 * eps) / here**0.5
        return (there**0.5 * clean + (1 - there) ** 0.5 * eps).float()

    x, before = inputs.latent, abar[0]
    for t in timesteps:
        x = step(x, predict(x, t, inputs.source.negative), before, abar[t])
        before = abar[t]
    for i, t in reversed(list(enumerate(timesteps))):
        positive = predict(x, t, inputs.target.positive)
        negative = predict(x, t, inputs.target.negative)
        eps = negative + config.target_guidance * (positive - negative)
        x = step(x, eps, abar[t], abar[timesteps[i - 1]] if i else abar[0])
    return x


@pytest.mark.parametrize(("variant", "tuning_steps"), [("released", 3), ("paper", 2)])
@torch.no_grad()
def test_an_edit_is_that_of_the_naive_network(backbone, inputs, parameters, variant, tuning_steps):
    config = tuneavideo.Config(
        steps=3,
        inversion_steps=3,
        tuning_steps=tuning_steps,
        learning_rate=1e-3,
        variant=variant,
        target_guidance=3.0,
    )
    layers = tuneavideo.make_layers(backbone.field, config, SEED)
    initial = {
        f"{path}.{name}": weight.detach().clone()
        for path, layer in layers.items()
        for name, weight in layer.tuned_weights().items()
    }
    biases = [value for name, value in initial.items() if name.endswith("to_out_bias")]
    assert biases
    assert all(bias.any() == (variant == "released") for bias in biases)
    ours = last(tuneavideo.edit(backbone.field, inputs, config))
    theirs = run_naively(backbone, inputs, config, parameters, initial)
    assert torch.allclose(ours, theirs, atol=1e-5 * theirs.abs().max().item())
    untuned = dataclasses.replace(config, tuning_steps=1, learning_rate=1e-9)
    assert not torch.allclose(
        ours, last(tuneavideo.edit(backbone.field, inputs, untuned)), atol=1e-2
    )


def test_an_inversion_of_too_few_steps_is_refused_before_the_tuning(backbone, inputs):
    config = tuneavideo.Config(steps=4, inversion_steps=2, tuning_steps=1)
    with pytest.raises(UserError, match="inversion_steps is 2"):
        next(tuneavideo.edit(backbone.field, inputs, config))
