"""Motion tuning: low-rank adapters on a video network's layers over time, fitted to one clip (I2VEdit,
arXiv:2405.16537). What is fitted is the velocity, by EDM's loss, whose weight cancels. Adapters that the network has
already, by peft, stay as they are: a fitted one stands around each of its layers."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ..base.errors import UserError
from . import maths
from .field import VelocityField

# Levels are drawn as "simple diffusion" (Hoogeboom et al., arXiv:2301.11093) has it, its cosine schedule shifted as
# for a side of 32 over 64 at the noisy end, and not at the clean one; the data's deviation, and the ends of s.
SHIFTS, DATA, ENDS = (2 * math.log(32 / 64), 0.0), 0.5, (700.0, 0.002)


def v_loss(field: VelocityField, clean: Tensor, eps: Tensor, sigma: float, condition) -> Tensor:
    """`|v - v*|^2` of the network's own v-prediction at level sigma, mean over the latent; differentiable.

    With s = sigma / (1 - sigma), `v* = (eps - s clean) / sqrt(1 + s^2)`, and EDM's weight of the clean estimate's
    error, (1 + s^2) / s^2, is exactly that. In the velocity it is a factor of (1 - sigma)^2 + sigma^2.
    clean, eps: 1 c f h w.
    """
    velocity = field.velocity(maths.add_noise(clean, sigma, eps), sigma, condition, branch="tgt+")
    error = (velocity - (eps - clean)).square().mean()
    return ((1 - sigma) ** 2 + sigma**2) * error


def sigma_at(share: float) -> float:
    """The level at a share of the interpolated cosine schedule, 0 at its noisy end to 1; as sigma of the field."""
    noisy, clean = (_cosine(share, shift) for shift in SHIFTS)
    s = math.exp(-((1 - share) * noisy + share * clean) / 2) * DATA
    return s / (1 + s)


def _cosine(share: float, shift: float) -> float:
    """The log of the signal's to the noise's power by the cosine schedule, moved by a shift between the same ends."""
    first, last = (math.atan(s / DATA * math.exp(shift / 2)) for s in ENDS)
    return -2 * math.log(math.tan(first + share * (last - first))) + shift


def find_layers(network: nn.Module, sites: Sequence, which: str) -> list[str]:
    """The linear layers that are adapted, by their paths in the network.

    attention: of self-attention over time, the paper's words. published: of every part of the blocks over time, as
    released, but for the queries and keys over a context of one token, which have no effect.
    """
    over_time = [site.path for site in sites if site.axis == "temporal"]
    if which == "attention":
        own = {site.path for site in sites if site.axis == "temporal" and site.kind == "self"}
        return _linear(network, own)
    blocks = {path.rpartition(".")[0] for path in over_time}
    crossing = tuple(s.path for s in sites if s.axis == "temporal" and s.kind == "cross")
    dead = {f"{path}.{name}" for path in crossing for name in ("to_q", "to_k")}
    return [path for path in _linear(network, blocks) if path not in dead]


def _linear(network: nn.Module, under: set[str]) -> list[str]:
    """The paths of linear layers. A layer with peft's adapters is one, and what is inside it is none."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: list[str] = []
    for path, module in network.named_modules():
        adapted = isinstance(module, BaseTunerLayer)
        layer = module.get_base_layer() if adapted else module
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(layer, nn.Linear) and not inside and path.startswith(_prefixes(under)):
            found.append(path)
    return found


def _prefixes(under: set[str]) -> tuple[str, ...]:
    return tuple(f"{block}." for block in under)


class LowRank(nn.Module):
    """A layer and what a matrix of low rank adds to its output: `layer(x) + up(down(x))`, where it is switched on."""

    def __init__(self, layer: nn.Module, rank: int):
        super().__init__()
        base = next(m for m in layer.modules() if isinstance(m, nn.Linear))
        self.layer, self.is_on = layer, False
        how = {"bias": False, "device": base.weight.device, "dtype": torch.float32}
        self.down = skip_init(nn.Linear, base.in_features, rank, **how)
        self.up = skip_init(nn.Linear, rank, base.out_features, **how)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        if not self.is_on:
            return out
        return (out + self.up(self.down(x.to(self.down.weight.dtype)))).to(out.dtype)


@dataclass
class Adapters:
    """Low-rank adapters mounted in a network; they have an effect only where they are switched on."""

    network: nn.Module
    layers: dict[str, LowRank]  # by path

    def tensors(self) -> dict[str, Tensor]:
        """`PATH.down` (rank, in) and `PATH.up` (out, rank): the weight is `up @ down`. Copies."""
        return {name: own.detach().clone() for name, own in self._weights()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Raises ValueError for tensors of another network or rank, or that lack some."""
        for name, own in self._weights():
            given = tensors.get(name)
            if given is None or given.shape != own.shape:
                raise UserError(
                    f"the adapters that an earlier run saved beside the output do not fit at {name}; "
                    "delete the .safetensors files there to fit them anew"
                )
            own.copy_(given)

    def _weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        for path, layer in self.layers.items():
            yield f"{path}.down", layer.down.weight
            yield f"{path}.up", layer.up.weight

    def parameters(self) -> list[nn.Parameter]:
        return [weight for _, weight in self._weights()]

    def switch(self, on: bool) -> None:
        for layer in self.layers.values():
            layer.is_on = on


@contextlib.contextmanager
def mount_adapters(network: nn.Module, paths: Sequence[str], rank: int, seed: int) -> Iterator[Adapters]:
    """Have adapters of a rank in a network inside, switched off, and everything as it was afterwards.

    They begin without effect: up is 0, down normal with deviation 1 / rank, by the seed. They are held in float32
    whatever the network is in: a step is far smaller than what bfloat16 resolves.
    """
    before = {path: network.get_submodule(path) for path in paths}
    adapters = Adapters(network, {path: LowRank(layer, rank) for path, layer in before.items()})
    with torch.no_grad():
        for number, layer in enumerate(adapters.layers.values()):
            down = layer.down.weight
            drawn = maths.keyed_noise(down[None, None, None], seed, number)[0, 0, 0]
            down.copy_(drawn / rank)
    try:
        _put(network, adapters.layers)
        yield adapters
    finally:
        _put(network, before)


def _put(network: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Put layers at their paths in a network."""
    for path, layer in layers.items():
        parent, _, name = path.rpartition(".")
        network.get_submodule(parent).set_submodule(name, layer)


class Tuned:
    """A field whose adapters are on in the target's calls alone."""

    def __init__(self, inner: VelocityField, adapters: Adapters):
        self.inner, self.adapters = inner, adapters
        self.attention_hooks, self.feature_hooks, self.network = inner.attention_hooks, inner.feature_hooks, inner.network
        self.sigmas, self.snap_timestep = inner.sigmas, inner.snap_timestep

    def velocity(self, z, sigma, condition, *, branch, frames=None) -> Tensor:
        self.adapters.switch(branch.startswith("tgt"))
        try:
            return self.inner.velocity(z, sigma, condition, branch=branch, frames=frames)
        finally:
            self.adapters.switch(False)


@dataclass(frozen=True)
class TuningOptions:
    """How adapters are fitted: AdamW at a constant rate."""

    steps: int
    rate: float
    seed: int


def tune_adapters(
    field: VelocityField,
    adapters: Adapters,
    clip: tuple[Tensor, Any],
    fit: TuningOptions,
    state: dict[str, Tensor],
    begun: int = 0,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Fit adapters to one clip, in target calls. Yields after each iteration its number, from 1 on, and all that going
    on from there needs: the adapters and, until the last, the optimiser's moments.

    clip: its clean latent, 1 c f h w, and its condition. state, begun: what was yielded last, where there was.
    """
    clean, condition = clip
    parameters = adapters.parameters()
    optimiser = torch.optim.AdamW(parameters, lr=fit.rate, weight_decay=1e-2)
    if begun:
        adapters.load(state)
    if 0 < begun < fit.steps:
        _put_back(optimiser, parameters, state)
    for i in range(begun, fit.steps):
        sigma = sigma_at(maths.keyed_integer(fit.seed, i, 0, 2**24) / 2**24)
        eps = maths.keyed_noise(clean, fit.seed, i, repeat=1)
        with torch.enable_grad():
            loss = v_loss(field, clean, eps, sigma, condition)
            gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
        optimiser.zero_grad()
        moments = _moments(optimiser, parameters) if i + 1 < fit.steps else {}
        yield i + 1, adapters.tensors() | moments


MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def _moments(optimiser, parameters: list[nn.Parameter]) -> dict[str, Tensor]:
    found = {}
    for number, parameter in enumerate(parameters):
        for name in MOMENTS:
            found[f"adam.{number}.{name}"] = optimiser.state[parameter][name].clone()
    return found


def _put_back(optimiser, parameters: list[nn.Parameter], state: dict[str, Tensor]) -> None:
    for number, parameter in enumerate(parameters):
        moments = {name: state[f"adam.{number}.{name}"].clone() for name in MOMENTS}
        optimiser.state[parameter] = moments
