"""Adapters that are fitted to one clip: tuned layers in the place of layers of a network.

Adapters that the network has already, by peft, stay as they are: a fitted one is put around each of its layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from ..base.errors import UserError
from .field import Evaluation, VelocityField
from .tuned_layers import LowRank, TunedLayer

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
        return find_linear_layers(
            network, {layer.path for layer in temporal if layer.kind == "self"}
        )
    blocks = {layer.path.rpartition(".")[0] for layer in temporal}
    cross = [layer.path for layer in temporal if layer.kind == "cross"]
    without_effect = {f"{path}.{name}" for path in cross for name in ("to_q", "to_k")}
    return [path for path in find_linear_layers(network, blocks) if path not in without_effect]


def find_linear_layers(network: nn.Module, parents: set[str]) -> list[str]:
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


@dataclass
class Adapters:
    """Tuned layers that are mounted in a network. They have an effect only while they are enabled."""

    network: nn.Module
    layers: Mapping[str, TunedLayer]  # by path

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of the weights by the path of their layer and their name, as `PATH.down` and `PATH.up`."""
        return {name: own.detach().clone() for name, own in self._weights()}

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
        for path, layer in self.layers.items():
            layer.load({name: tensors[f"{path}.{name}"] for name in layer.tuned_weights()})

    def parameters(self) -> list[Tensor]:
        return [weight for _, weight in self._weights()]

    @property
    def is_enabled(self) -> bool:
        """Whether the adapters have an effect."""
        return any(layer.is_enabled for layer in self.layers.values())

    def enable(self, enabled: bool) -> None:
        """Enable or disable all adapters."""
        for layer in self.layers.values():
            layer.is_enabled = enabled

    def join(self, other: Adapters) -> Adapters:
        """Return these adapters and others of the same network as one."""
        return Adapters(self.network, {**self.layers, **other.layers})

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        for path, layer in self.layers.items():
            for name, weight in layer.tuned_weights().items():
                yield f"{path}.{name}", weight


@contextlib.contextmanager
def mount_layers(network: nn.Module, layers: Mapping[str, TunedLayer]) -> Iterator[Adapters]:
    """Mount tuned layers in a network in the place of those at their paths, and restore the network afterwards.

    They are disabled at first. A layer may lie inside another one's.
    """
    parents = {path: network.get_submodule(path.rpartition(".")[0]) for path in layers}
    try:
        for path, layer in layers.items():
            parents[path].set_submodule(path.rpartition(".")[2], layer)
        yield Adapters(network, layers)
    finally:
        for path, layer in layers.items():
            parents[path].set_submodule(path.rpartition(".")[2], layer.layer)


@contextlib.contextmanager
def mount_adapters(
    network: nn.Module,
    paths: Sequence[str],
    rank: int,
    seed: int,
    dropout: float = 0.0,
    first_number: int = 0,
) -> Iterator[Adapters]:
    """Mount disabled low-rank adapters in a network, and restore the network afterwards.

    At first they have no effect: up is 0, and down is normal with deviation 1 / rank, by the seed and by the number of
    the layer, from first_number on.
    """
    layers = {path: LowRank(network.get_submodule(path), rank, dropout) for path in paths}
    for number, layer in enumerate(layers.values(), first_number):
        layer.initialise(seed, number)
    with mount_layers(network, layers) as adapters:
        yield adapters


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
