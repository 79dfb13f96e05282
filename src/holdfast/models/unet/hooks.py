"""Attention and feature hooks of U-Nets.

They serve UNet2DConditionModel (frames as a batch), UNet3DConditionModel and UNetSpatioTemporalConditionModel.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..attention.hooks import CONTROLNET, Layer, LayerHooks, processor_hooks, token_rows_columns

SECTIONS = {"down_blocks": "down", "mid_block": "mid", "up_blocks": "up"}
CALL_ORDER = {"block": 0, "down": 1, "mid": 2, "up": 3}
TEMPORAL = ("transformer_in", "temp_attentions", "temporal_transformer_blocks", "motion_modules")


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
        temb: Tensor | None = None,
    ) -> Tensor:
        context = encoder_hidden_states if self.layer.kind == "cross" else None
        layer = self._locate(hidden_states, context)
        output = None
        if self.hooks.has_rule(layer):
            output = self.hooks.run_rules(layer, *_project(attn, hidden_states, context))
        if output is None:
            return self.own(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        joined = output.transpose(1, 2).flatten(2).type_as(hidden_states)
        result = attn.to_out[1](attn.to_out[0](joined))
        if attn.residual_connection:
            result = result + hidden_states
        return result / attn.rescale_output_factor

    def _locate(self, hidden: Tensor, context: Tensor | None) -> Layer:
        """Return the layer with this call's token grid.

        A temporal layer has the positions in its batch, a spatial one in its tokens.
        """
        call = self.hooks.running_call
        is_temporal = self.layer.axis == "temporal"
        positions = len(hidden) // call.batch if is_temporal else hidden.shape[1]
        text_span = (0, 0) if context is None else (0, context.shape[1])
        size = token_rows_columns(positions, call.latent_size)
        return self.hooks.locate(self.layer, *size, text_span)


def _project(attn: Any, hidden: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v as the layer's own processor computes them, B heads N d."""
    context = hidden if context is None else context
    if attn.norm_cross and context is not hidden:
        context = attn.norm_encoder_hidden_states(context)
    projections = (attn.to_q(hidden), attn.to_k(context), attn.to_v(context))
    q, k, v = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in projections)
    q = q if attn.norm_q is None else attn.norm_q(q)
    k = k if attn.norm_k is None else attn.norm_k(k)
    return q, k, v


def attention_hooks(unet: nn.Module) -> LayerHooks:
    """Return hooks on a U-Net's attention."""
    from diffusers.models.attention_processor import Attention

    return processor_hooks(_number_layers(unet, Attention, _attention_layer), HookedAttnProcessor)


def residual_blocks(unet: nn.Module) -> list[tuple[Layer, nn.Module]]:
    """Return the residual blocks with their layers: spatial and temporal ones.

    Where one block contains a spatial and a temporal one, return only the outer block.
    """
    from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock, TemporalConvLayer

    kinds = (ResnetBlock2D, SpatioTemporalResBlock, TemporalConvLayer)
    blocks = _number_layers(unet, kinds, _residual_layer)
    outer = tuple(f"{layer.path}." for layer, m in blocks if isinstance(m, SpatioTemporalResBlock))
    if not outer:
        return blocks
    return [(layer, module) for layer, module in blocks if not layer.path.startswith(outer)]


def feature_blocks(unet: nn.Module) -> list[tuple[Layer, nn.Module]]:
    """Return every module whose output feature hooks can reach, by the kind of its layer.

    residual: see `residual_blocks`. residual_branch: the last convolution of a residual block over space, before its
    skip is added. upsampler: what enlarges a block's output. In transformer blocks over space, attention_input: the
    norm before self-attention; attention_output: after the output projection of an attention layer; block: the whole.
    """
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D

    found = residual_blocks(unet)
    named = {path: module for path, module in unet.named_modules() if not _is_temporal(path)}
    parts: dict[str, str] = {}  # the kind of each path
    for path, module in named.items():
        if isinstance(module, ResnetBlock2D):
            parts[f"{path}.conv2"] = "residual_branch"
        elif isinstance(module, Upsample2D):
            parts[path] = "upsampler"
        elif isinstance(module, BasicTransformerBlock):
            parts |= {f"{path}.norm1": "attention_input", path: "block"}
            parts |= {f"{path}.{name}": "attention_output" for name in ("attn1", "attn2")}
    modules = [(path, named[path]) for path in parts if named.get(path) is not None]
    return found + _number_modules(modules, lambda path, _: _spatial_layer(path, parts[path]))


def _is_temporal(path: str) -> bool:
    return any(part in TEMPORAL for part in path.split("."))


def _spatial_layer(path: str, kind: str) -> Layer:
    return Layer(path, _section(path), 0, kind, "spatial")


def _number_layers(
    unet: nn.Module, kinds: type | tuple[type, ...], make_layer: Callable[[str, Any], Layer]
) -> list[tuple[Layer, nn.Module]]:
    """Return the modules of some classes with their layers, numbered from the input within their kind and axis."""
    modules = [(path, m) for path, m in unet.named_modules() if isinstance(m, kinds)]
    return _number_modules(modules, make_layer)


def _number_modules(
    modules: list[tuple[str, nn.Module]], make_layer: Callable[[str, Any], Layer]
) -> list[tuple[Layer, nn.Module]]:
    """Return modules with their layers, numbered from the input within their kind and axis."""
    # The sort is stable: within a section the order is the one in which modules are registered.
    modules = sorted(modules, key=lambda entry: CALL_ORDER[_section(entry[0])])
    counts: dict[tuple[str, str], int] = {}
    layers = []
    for path, module in modules:
        layer = make_layer(path, module)
        number = counts.get((layer.kind, layer.axis), 0)
        counts[layer.kind, layer.axis] = number + 1
        layers.append((Layer(path, layer.section, number, layer.kind, layer.axis), module))
    return layers


def _section(path: str) -> str:
    return SECTIONS.get(path.removeprefix(f"{CONTROLNET}.").split(".")[0], "block")


def _attention_layer(path: str, module: Any) -> Layer:
    kind = "cross" if module.is_cross_attention else "self"
    return Layer(path, _section(path), 0, kind, "temporal" if _is_temporal(path) else "spatial")


def _residual_layer(path: str, module: Any) -> Layer:
    is_temporal = "temp_convs" in path.split(".")
    return Layer(path, _section(path), 0, "residual", "temporal" if is_temporal else "spatial")
