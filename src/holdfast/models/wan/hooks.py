"""Attention and feature hooks of the Wan transformer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.hooks import Layer, LayerHooks, processor_hooks, token_rows_columns
from ..feature_hooks import output_hooks

# Return the WanTransformer3DModel in use; None before the first one is loaded.
CurrentNetwork = Callable[[], nn.Module | None]


class HookedAttnProcessor:
    """Replace a layer's own processor while any rule is active. Where no rule gives an output, run the own one."""

    def __init__(self, hooks: LayerHooks, layer: Layer, own: Callable[..., Tensor]):
        self.hooks, self.layer, self.own = hooks, layer, own

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        layer = self._locate(hidden_states, encoder_hidden_states)
        output = None
        if self.hooks.has_rule(layer):
            projections = project(attn, hidden_states, encoder_hidden_states, rotary_emb)
            output = self.hooks.run_rules(layer, *projections)
        if output is None:
            return self.own(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        joined = output.transpose(1, 2).flatten(2).type_as(hidden_states)
        return attn.to_out[1](attn.to_out[0](joined))

    def _locate(self, hidden: Tensor, context: Tensor | None) -> Layer:
        """Return the layer with this call's token grid."""
        call = self.hooks.running_call
        tokens = hidden.shape[1] // len(call.frames)
        text_span = (0, 0) if context is None else (0, context.shape[1])
        size = token_rows_columns(tokens, call.latent_size)
        return self.hooks.locate(self.layer, *size, text_span)


def project(
    attn: Any, hidden: Tensor, context: Tensor | None, rotary: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v as the layer's own processor computes them, b heads N d."""
    from diffusers.models.transformers.transformer_wan import _get_qkv_projections

    # It takes None for self-attention.
    q, k, v = _get_qkv_projections(attn, hidden, context)  # pyright: ignore[reportArgumentType]
    normalized = (attn.norm_q(q), attn.norm_k(k), v)
    q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in normalized)  # b N heads d
    if rotary is not None:
        q, k = _rotate(q, *rotary), _rotate(k, *rotary)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary position: rotate pairs (even, odd) by an angle. cos and sin hold every angle twice."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[..., 0::2], sin[..., 1::2]
    rotated = torch.empty_like(
        x
    )  # written at once: the angles' float32 products would take twice its memory
    rotated[..., 0::2] = even * c - odd * s
    rotated[..., 1::2] = even * s + odd * c
    return rotated


def attention_hooks(blocks: int, network: CurrentNetwork) -> LayerHooks:
    """Return hooks on the attention of a network with this number of blocks."""
    kinds = {"attn1": "self", "attn2": "cross"}
    layers = [
        Layer(f"blocks.{i}.{name}", "block", i, kind, "joint")
        for i in range(blocks)
        for name, kind in kinds.items()
    ]
    return _hooks_on_current(
        layers, network, lambda modules: processor_hooks(modules, HookedAttnProcessor)
    )


def feature_hooks(blocks: int, network: CurrentNetwork) -> LayerHooks:
    """Return hooks on the outputs of the residual blocks of a network with this number of blocks."""
    layers = [Layer(f"blocks.{i}", "block", i, "residual", "joint") for i in range(blocks)]
    return _hooks_on_current(layers, network, output_hooks)


def _hooks_on_current(
    layers: Sequence[Layer],
    network: CurrentNetwork,
    make_hooks: Callable[[list[tuple[Layer, nn.Module]]], LayerHooks],
) -> LayerHooks:
    """Return hooks that mount on the network that is in use at that time.

    Networks of one structure have the same layers, and these are known before any network is loaded.
    """

    def mount(hooks: LayerHooks) -> Callable[[], None]:
        current = network()
        if current is None:
            return lambda: None
        modules = [(layer, current.get_submodule(layer.path)) for layer in layers]
        return make_hooks(modules).mount(hooks)

    return LayerHooks(mount, layers)


def remount(hooks: LayerHooks) -> None:
    """Move the active rules to the network that is in use now."""
    if hooks.rules:
        hooks.unmount()
        hooks.unmount = hooks.mount(hooks)
