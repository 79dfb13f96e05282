"""How Wan's attention opens the door: a processor that asks the rules in force, mounted only while there are any."""

import torch
from torch import Tensor, nn

from ..attention.door import Door, Site, over, size_of


class Asking:
    """Stands in for a layer's own processor. Where no rule gives an output, that one runs, untouched."""

    def __init__(self, door: Door, site: Site, stock):
        self.door, self.site, self.stock = door, site, stock

    def __call__(
        self,
        attn,
        hidden_states,
        encoder_hidden_states=None,
        attention_mask=None,
        rotary_emb=None,
    ) -> Tensor:
        tokens = hidden_states.shape[1] // len(self.door.call.frames)
        text = (0, 0) if encoder_hidden_states is None else (0, encoder_hidden_states.shape[1])
        site = self.door.at(self.site, *size_of(tokens, self.door.call.size), text)
        output = None
        if self.door.wants(site):
            q, k, v = _projected(attn, hidden_states, encoder_hidden_states, rotary_emb)
            output = self.door.ask(site, q, k, v)
        if output is None:
            return self.stock(
                attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb
            )
        joined = output.transpose(1, 2).flatten(2).type_as(hidden_states)
        return attn.to_out[1](attn.to_out[0](joined))


def _projected(attn, hidden: Tensor, context: Tensor | None, rotary) -> tuple[Tensor, ...]:
    """q, k and v as the layer's own processor makes them, b heads N d."""
    from diffusers.models.transformers.transformer_wan import _get_qkv_projections

    q, k, v = _get_qkv_projections(attn, hidden, context)
    normed = (attn.norm_q(q), attn.norm_k(k), v)
    q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in normed)  # b N heads d
    if rotary is not None:
        q, k = _rotated(q, *rotary), _rotated(k, *rotary)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position: pairs (even, odd) turned by an angle; cos and sin come with every angle twice."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[..., 0::2], sin[..., 1::2]
    turned = torch.stack((even * c - odd * s, even * s + odd * c), -1)
    return turned.flatten(-2).type_as(x)


def door_of(transformer) -> Door:
    """The door to a WanTransformer3DModel's attention."""
    layers: list[tuple[Site, nn.Module]] = []
    for i, block in enumerate(transformer.blocks):
        layers.append((Site(f"blocks.{i}.attn1", "block", i, "self", "joint"), block.attn1))
        layers.append((Site(f"blocks.{i}.attn2", "block", i, "cross", "joint"), block.attn2))
    return over(layers, Asking)


def residual_blocks(transformer) -> list[tuple[Site, nn.Module]]:
    """The blocks whose outputs add up in a WanTransformer3DModel."""
    return [
        (Site(f"blocks.{i}", "block", i, "residual", "joint"), block)
        for i, block in enumerate(transformer.blocks)
    ]
