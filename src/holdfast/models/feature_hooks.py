"""Feature hooks: read or replace the output of blocks and of their parts at chosen layers, inside a `with` block.

The network is always restored. A value is `b c f h w` on the layer's token grid, whatever layout the network uses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..base.lazy import nn
from .attention.hooks import Layer, LayerFilter, LayerHooks, any_layer, token_rows_columns

if TYPE_CHECKING:
    from torch import Tensor

Rule: TypeAlias = (
    "Callable[[Layer, Tensor], Tensor | None]"  # return the output b c f h w, or None to leave it
)


class HasFeatures(Protocol):
    """What `use_rule` and `record` need of a velocity field."""

    @property
    def feature_hooks(self) -> LayerHooks | None: ...


def use_rule(
    field: HasFeatures, rule: Rule, where: LayerFilter = any_layer
) -> contextlib.AbstractContextManager[None]:
    """Let a rule replace the output of blocks that `where` selects. Where it returns None, the output stays."""
    assert field.feature_hooks is not None, "the field has no feature hooks"
    return field.feature_hooks.use_rule(rule, where)


@contextlib.contextmanager
def record(
    field: HasFeatures,
    where: LayerFilter = any_layer,
    extract: Callable[[Layer, Tensor], Any] | None = None,
) -> Iterator[dict[Layer, Any]]:
    """Collect `extract(layer, x)` of each output by layer. Without it collect the output itself, not a copy."""
    values: dict[Layer, Any] = {}

    def read(layer: Layer, x: Tensor) -> None:
        values[layer] = extract(layer, x) if extract else x

    with use_rule(field, read, where):
        yield values


class NetworkStopped(Exception):
    """Raised inside a network whose remaining layers nothing needs."""


@contextlib.contextmanager
def record_until_last(
    field: HasFeatures, paths: Sequence[str], frames: int, extract: Callable[[Layer, Tensor], Any]
) -> Iterator[dict[Layer, Any]]:
    """Collect `extract(layer, x)` at the layers of some paths, and end the block after the last of them has run.

    paths: in the order in which the network runs them. frames: latent frames of the clip. A call that has only some of
    them, such as one of several windows, runs to its end.
    """
    values: dict[Layer, Any] = {}

    def read(layer: Layer, x: Tensor) -> None:
        values[layer] = extract(layer, x)
        if layer.path == paths[-1] and len(layer.frames) == frames:
            raise NetworkStopped

    with (
        use_rule(field, read, lambda layer: layer.path in paths),
        contextlib.suppress(NetworkStopped),
    ):
        yield values


def output_hooks(blocks: Sequence[tuple[Layer, nn.Module]]) -> LayerHooks:
    """Return hooks on the outputs of modules: images `(b f) c h w`, clips `b c f h w`, or tokens.

    Tokens are `b N c` of the whole clip in a joint layer, `(b f) N c` of a frame in a spatial one.
    """

    def mount(hooks: LayerHooks) -> Callable[[], None]:
        handles = [m.register_forward_hook(_forward_hook(hooks, layer)) for layer, m in blocks]

        def unmount() -> None:
            for handle in handles:
                handle.remove()

        return unmount

    return LayerHooks(mount, [layer for layer, _ in blocks])


def _forward_hook(hooks: LayerHooks, layer: Layer) -> Callable:
    """Return a forward hook that gives a block's output to the rules as `b c f h w`, and converts their output back."""

    def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
        located = _locate(hooks, layer, output)
        if not hooks.has_rule(located):
            return None
        replacement = hooks.run_rules(located, _to_clip(located, output))
        return None if replacement is None else _from_clip(located, replacement, output)

    return hook


def _locate(hooks: LayerHooks, layer: Layer, output: Tensor) -> Layer:
    if output.dim() == 3:  # tokens
        call = hooks.running_call
        tokens = output.shape[1] // (1 if layer.axis == "spatial" else len(call.frames))
        return hooks.locate(layer, *token_rows_columns(tokens, call.latent_size))
    rows, columns = output.shape[-2:]
    return hooks.locate(layer, rows, columns)


def _to_clip(layer: Layer, output: Tensor) -> Tensor:
    f, h, w = layer.token_grid
    if output.dim() == 3 and layer.axis == "spatial":  # (b f) N c
        return output.unflatten(0, (-1, f)).unflatten(2, (h, w)).permute(0, 4, 1, 2, 3)
    if output.dim() == 3:
        return output.transpose(1, 2).unflatten(2, (f, h, w))
    if output.dim() == 4:
        return output.unflatten(0, (-1, f)).transpose(1, 2)
    return output


def _from_clip(layer: Layer, x: Tensor, output: Tensor) -> Tensor:
    if output.dim() == 3 and layer.axis == "spatial":
        return x.permute(0, 2, 3, 4, 1).flatten(0, 1).flatten(1, 2).to(output)
    if output.dim() == 3:
        return x.flatten(2).transpose(1, 2).to(output)
    if output.dim() == 4:
        return x.transpose(1, 2).flatten(0, 1).to(output)
    return x.to(output)
