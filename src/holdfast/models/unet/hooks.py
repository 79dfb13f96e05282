"""How the U-Nets' layers open the doors: attention by a processor that asks the rules in force, residual blocks by a
hook.

One for all of UNet2DConditionModel (frames as a batch), UNet3DConditionModel and UNetSpatioTemporalConditionModel.
"""

from collections.abc import Callable

from torch import Tensor, nn

from ..attention.hooks import Door, Site, over, size_of

PLACES = {"down_blocks": "down", "mid_block": "mid", "up_blocks": "up"}
ORDER = {"block": 0, "down": 1, "mid": 2, "up": 3}  # in which a call goes through them
TEMPORAL = ("transformer_in", "temp_attentions", "temporal_transformer_blocks", "motion_modules")


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
        temb=None,
    ) -> Tensor:
        context = encoder_hidden_states if self.site.kind == "cross" else None
        site = self._met(hidden_states, context)
        output = None
        if self.door.wants(site):
            output = self.door.ask(site, *_projected(attn, hidden_states, context))
        if output is None:
            return self.stock(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        joined = output.transpose(1, 2).flatten(2).type_as(hidden_states)
        out = attn.to_out[1](attn.to_out[0](joined))
        if attn.residual_connection:
            out = out + hidden_states
        return out / attn.rescale_output_factor

    def _met(self, hidden: Tensor, context: Tensor | None) -> Site:
        """The site with this call's grid: a temporal layer has the places in its batch, a spatial one in its tokens."""
        call = self.door.call
        places = len(hidden) // call.batch if self.site.axis == "temporal" else hidden.shape[1]
        text = (0, 0) if context is None else (0, context.shape[1])
        return self.door.at(self.site, *size_of(places, call.size), text)


def _projected(attn, hidden: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
    """q, k and v as the layer's own processor makes them, B heads N d."""
    context = hidden if context is None else context
    if attn.norm_cross and context is not hidden:
        context = attn.norm_encoder_hidden_states(context)
    made = (attn.to_q(hidden), attn.to_k(context), attn.to_v(context))
    q, k, v = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in made)
    q = q if attn.norm_q is None else attn.norm_q(q)
    k = k if attn.norm_k is None else attn.norm_k(k)
    return q, k, v


def door_of(unet: nn.Module) -> Door:
    """The door to a U-Net's attention."""
    from diffusers.models.attention_processor import Attention

    layers = _numbered(unet, Attention, _attention_site)
    return over(layers, Asking)


def residual_blocks(unet: nn.Module) -> list[tuple[Site, nn.Module]]:
    """The blocks that add to what they are given: spatial ones (where there is one over both, that one) and temporal
    ones.
    """
    from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock, TemporalConvLayer

    found = _numbered(
        unet, (ResnetBlock2D, SpatioTemporalResBlock, TemporalConvLayer), _residual_site
    )
    whole = tuple(site.path + "." for site, m in found if isinstance(m, SpatioTemporalResBlock))
    return [(site, m) for site, m in found if not site.path.startswith(whole)] if whole else found


def _numbered(
    unet: nn.Module, kinds: type | tuple, site_of: Callable[[str, nn.Module], Site]
) -> list[tuple[Site, nn.Module]]:
    """Modules of some classes with their sites, numbered from the input on within their kind and axis."""
    modules = [(path, m) for path, m in unet.named_modules() if isinstance(m, kinds)]
    modules.sort(key=lambda entry: ORDER[_place(entry[0])])  # stable: within a block as registered
    counts: dict[tuple[str, str], int] = {}
    found = []
    for path, module in modules:
        site = site_of(path, module)
        number = counts.get((site.kind, site.axis), 0)
        counts[site.kind, site.axis] = number + 1
        found.append((Site(path, site.place, number, site.kind, site.axis), module))
    return found


def _place(path: str) -> str:
    return PLACES.get(path.split(".")[0], "block")


def _attention_site(path: str, module: nn.Module) -> Site:
    kind = "cross" if module.is_cross_attention else "self"
    temporal = any(part in TEMPORAL for part in path.split("."))
    return Site(path, _place(path), 0, kind, "temporal" if temporal else "spatial")


def _residual_site(path: str, module: nn.Module) -> Site:
    temporal = "temp_convs" in path.split(".")
    return Site(path, _place(path), 0, "residual", "temporal" if temporal else "spatial")
