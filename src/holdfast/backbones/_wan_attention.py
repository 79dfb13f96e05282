"""How Wan's attention opens the door: a processor that asks the rules in force, mounted only while there are any."""

import torch
from torch import Tensor

from ..attention import Door


class Asking:
    """Stands in for a layer's own processor. Where no rule gives an output, that one runs, untouched."""

    def __init__(self, door: Door, layer: int, kind: str, stock):
        self.door, self.layer, self.kind, self.stock = door, layer, kind, stock

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None) -> Tensor:
        site = self.door.site(self.layer, self.kind, "joint")
        output = None
        if self.door.wants(site):
            output = self.door.ask(site, *_projected(attn, hidden_states, encoder_hidden_states, rotary_emb))
        if output is None:
            return self.stock(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        joined = output.transpose(1, 2).flatten(2).type_as(hidden_states)
        return attn.to_out[1](attn.to_out[0](joined))


def _projected(attn, hidden: Tensor, context: Tensor | None, rotary) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v as the layer's own processor makes them, b heads N d."""
    from diffusers.models.transformers.transformer_wan import _get_qkv_projections

    q, k, v = _get_qkv_projections(attn, hidden, context)
    q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_q(q), attn.norm_k(k), v))  # b N heads d
    if rotary is not None:
        q, k = _rotated(q, *rotary), _rotated(k, *rotary)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position: pairs (even, odd) turned by an angle; cos and sin come with every angle twice."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[..., 0::2], sin[..., 1::2]
    return torch.stack((even * c - odd * s, even * s + odd * c), -1).flatten(-2).type_as(x)


def door_of(transformer) -> Door:
    """The door to a WanTransformer3DModel's attention."""
    kept: dict[tuple[int, str], object] = {}

    def layers():
        for i, block in enumerate(transformer.blocks):
            yield (i, "self"), block.attn1
            yield (i, "cross"), block.attn2

    def mount() -> None:
        for (i, kind), layer in layers():
            kept[i, kind] = layer.processor
            layer.processor = Asking(door, i, kind, layer.processor)

    def unmount() -> None:
        for where, layer in layers():
            layer.processor = kept.pop(where)

    door = Door(mount, unmount, len(transformer.blocks))
    return door
