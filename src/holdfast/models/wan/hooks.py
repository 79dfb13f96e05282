"""How Wan's attention opens the door: a processor that asks the rules in force, mounted only while there are any."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .. import feature_hooks
from ..attention.hooks import Door, Site, over, size_of

# The WanTransformer3DModel whose turn it is; None where it is none's yet.
InUse = Callable[[], nn.Module | None]


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


def door_of(blocks: int, network: InUse) -> Door:
    """The door to the attention of a network of so many blocks."""
    kinds = {"attn1": "self", "attn2": "cross"}
    sites = [
        Site(f"blocks.{i}.{name}", "block", i, kind, "joint")
        for i in range(blocks)
        for name, kind in kinds.items()
    ]
    return _following(sites, network, lambda layers: over(layers, Asking))


def features_of(blocks: int, network: InUse) -> Door:
    """The door to the outputs that add up in a network of so many blocks."""
    sites = [Site(f"blocks.{i}", "block", i, "residual", "joint") for i in range(blocks)]
    return _following(sites, network, feature_hooks.door_of)


def _following(sites: Sequence[Site], network: InUse, door_to: Callable[..., Door]) -> Door:
    """A door to whichever network is in use when what asks is mounted. Networks of one structure have the same sites,
    which are known before any of them is loaded.
    """

    def mount(door: Door) -> Callable[[], None]:
        there = network()
        if there is None:
            return lambda: None
        return door_to([(site, there.get_submodule(site.path)) for site in sites]).mount(door)

    return Door(mount, sites)


def remounted(door: Door) -> None:
    """Have the rules in force ask in the network that is in use now."""
    if door.rules:
        door.unmount()
        door.unmount = door.mount(door)
