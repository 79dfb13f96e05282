"""Low-rank adapters that are fitted to one clip, around the linear layers of a video network.

Adapters that the network has already, by peft, stay as they are: a fitted one is put around each of its layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ..base.errors import UserError
from .field import Evaluation, VelocityField
from .noise import keyed_noise

if TYPE_CHECKING:
    from ..models.attention.hooks import Layer


def find_layers(
    network: nn.Module, layers: Sequence[Layer], which: Literal["attention", "published"]
) -> list[str]:
    """Return the paths of the linear layers that take adapters. layers: the network's attention layers.

    attention: those of temporal self-attention, as the paper says. published: those of all parts of the temporal
    blocks, as released, without the queries and keys of attention to a context of one token, which have no effect.
    """
    temporal = [layer for layer in layers if layer.axis == "temporal"]
    if which == "attention":
        return _find_linear(network, {layer.path for layer in temporal if layer.kind == "self"})
    blocks = {layer.path.rpartition(".")[0] for layer in temporal}
    cross = [layer.path for layer in temporal if layer.kind == "cross"]
    without_effect = {f"{path}.{name}" for path in cross for name in ("to_q", "to_k")}
    return [path for path in _find_linear(network, blocks) if path not in without_effect]


def _find_linear(network: nn.Module, parents: set[str]) -> list[str]:
    """Return the paths of the linear layers below some modules. A layer with peft's adapters counts as one."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    prefixes = tuple(f"{parent}." for parent in parents)
    paths: list[str] = []
    for path, module in network.named_modules():
        layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        is_inner = any(path.startswith(f"{outer}.") for outer in paths)
        if isinstance(layer, nn.Linear) and not is_inner and path.startswith(prefixes):
            paths.append(path)
    return paths


def _make_linear(inputs: int, outputs: int, device: torch.device) -> nn.Linear:
    """Return a linear layer in float32 without bias, whose weight is not initialised."""
    options = {"bias": False, "device": device, "dtype": torch.float32}
    layer = skip_init(nn.Linear, inputs, outputs, **options)
    assert isinstance(layer, nn.Linear)
    return layer


class LowRank(nn.Module):
    """A layer with a low-rank addition to its output while it is enabled: `layer(x) + up(down(x))`."""

    def __init__(self, layer: nn.Module, rank: int):
        super().__init__()
        base = next(m for m in layer.modules() if isinstance(m, nn.Linear))
        self.layer, self.is_enabled = layer, False
        self.down = _make_linear(base.in_features, rank, base.weight.device)
        self.up = _make_linear(rank, base.out_features, base.weight.device)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        if not self.is_enabled:
            return out
        return (out + self.up(self.down(x.to(self.down.weight.dtype)))).to(out.dtype)


@dataclass
class Adapters:
    """Low-rank adapters that are mounted in a network. They have an effect only while they are enabled."""

    network: nn.Module
    layers: dict[str, LowRank]  # by path

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of `PATH.down` (rank, in) and `PATH.up` (out, rank). The weight is `up @ down`."""
        return {name: own.detach().clone() for name, own in self._weights()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy saved tensors into the adapters.

        Raises UserError for tensors of another network or rank, and where some are missing.
        """
        for name, own in self._weights():
            saved = tensors.get(name)
            if saved is None or saved.shape != own.shape:
                raise UserError(
                    f"the adapters that an earlier run saved next to the output do not fit at {name}",
                    "delete the .safetensors files there to fit them again",
                )
            own.copy_(saved)

    def parameters(self) -> list[Tensor]:
        return [weight for _, weight in self._weights()]

    def enable(self, enabled: bool) -> None:
        """Enable or disable all adapters."""
        for layer in self.layers.values():
            layer.is_enabled = enabled

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        for path, layer in self.layers.items():
            yield f"{path}.down", layer.down.weight
            yield f"{path}.up", layer.up.weight


@contextlib.contextmanager
def mount_adapters(
    network: nn.Module, paths: Sequence[str], rank: int, seed: int
) -> Iterator[Adapters]:
    """Mount disabled adapters in a network, and restore the network afterwards.

    At first they have no effect: up is 0, and down is normal with deviation 1 / rank, by the seed. They are float32
    whatever the network's type is: an update is far smaller than what bfloat16 resolves.
    """
    before = {path: network.get_submodule(path) for path in paths}
    adapters = Adapters(network, {path: LowRank(layer, rank) for path, layer in before.items()})
    with torch.no_grad():
        for number, layer in enumerate(adapters.layers.values()):
            down = layer.down.weight
            drawn = keyed_noise(down[None, None, None], seed, number)[0, 0, 0]
            down.copy_(drawn / rank)
    try:
        _replace_layers(network, adapters.layers)
        yield adapters
    finally:
        _replace_layers(network, before)


def _replace_layers(network: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    for path, layer in layers.items():
        parent, _, name = path.rpartition(".")
        network.get_submodule(parent).set_submodule(name, layer)


def enable_for_target(field: VelocityField, adapters: Adapters) -> VelocityField:
    """Return a field whose adapters are enabled in the target's evaluations only.

    The weights differ between the branches, so they are evaluated one after another.
    """

    def velocities(
        sigma: float, evaluations: Sequence[Evaluation], frames: Sequence[int] | None = None
    ) -> list[Tensor]:
        return [evaluate(evaluation, sigma, frames) for evaluation in evaluations]

    def evaluate(evaluation: Evaluation, sigma: float, frames: Sequence[int] | None) -> Tensor:
        adapters.enable(evaluation.branch.startswith("tgt"))
        try:
            (velocity,) = field.velocities(sigma, [evaluation], frames)
        finally:
            adapters.enable(False)
        return velocity

    return replace(field, velocities=velocities)
