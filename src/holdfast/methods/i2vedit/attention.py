"""What I2VEdit does inside attention.

The target's evaluations use the source's attention over space and time. Those of a later segment attend to the first
segment's keys and values too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ...models import attention
from ...models.attention import Layer, blending
from ...sampling import observing
from ...sampling.field import EditInputs, VelocityField
from .settings import Config

# q, k and v of the first segment's temporal layers, by path and branch
FirstSegmentAttention: TypeAlias = dict[tuple[str, str], tuple[Tensor, Tensor, Tensor]]
SourceAttention: TypeAlias = dict[Layer, tuple[Tensor, Tensor, Tensor | None]]


def is_temporal_self(layer: Layer) -> bool:
    return layer.kind == "self" and layer.axis == "temporal"


def index_temporal(found: SourceAttention) -> FirstSegmentAttention:
    """Return the temporal layers' q, k and v by path and branch."""
    indexed = {}
    for layer, (q, k, v) in found.items():
        if layer.axis == "temporal":
            assert v is not None
            indexed[layer.path, layer.branch] = (q, k, v)
    return indexed


def record_source(
    field: VelocityField, config: Config, step: int, all_temporal: bool = False
) -> contextlib.AbstractContextManager[SourceAttention | None]:
    """Collect what the edit of a step uses of the source's evaluation; None where it uses nothing.

    all_temporal: collect the temporal layers too if the spatial ones are collected.
    """
    _, last = config.stages
    wanted = {"spatial": config.matching, "temporal": step < int(last * config.steps)}
    if not any(wanted.values()):
        return contextlib.nullcontext()
    wanted["temporal"] |= all_temporal

    def extract(
        layer: Layer, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        # over space the values are not used
        return q, k, v if layer.axis == "temporal" else None

    return attention.record(
        field, lambda layer: layer.kind == "self" and wanted[layer.axis], extract
    )


def extend_keys(
    field: VelocityField, first_segment: FirstSegmentAttention
) -> contextlib.AbstractContextManager[None]:
    """Let the temporal layers attend to the first segment too, in the source's evaluations."""
    if not first_segment:
        return contextlib.nullcontext()

    def rule(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        extended = prepend_first_segment(k, v, first_segment[layer.path, "src+"])
        return scaled_dot_product_attention(q, *extended)

    return attention.use_rule(field, rule, is_temporal_self)


def prepend_first_segment(
    k: Tensor, v: Tensor, first: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return keys and values with the first segment's before them."""
    _, k_first, v_first = first
    return torch.cat((k_first, k), 2), torch.cat((v_first, v), 2)


def match_source(
    field: VelocityField,
    source: SourceAttention | None,
    first_segment: FirstSegmentAttention,
    inputs: EditInputs,
    config: Config,
    step: int,
) -> contextlib.AbstractContextManager[None]:
    """Use the source's attention, and the first segment's, in the target's evaluations."""
    if not (source or first_segment):
        return contextlib.nullcontext()
    rule = matching_rule(source or {}, first_segment, inputs, config, step)
    return attention.use_rule(field, rule)


def matching_rule(
    source: SourceAttention,
    first_segment: FirstSegmentAttention,
    inputs: EditInputs,
    config: Config,
    step: int,
) -> Callable[[Layer, Tensor, Tensor, Tensor], Tensor | None]:
    """Return the attention rule of the target's evaluations at an edit step.

    source: of the source's evaluation. first_segment: of the first segment's; empty for the first segment itself.
    """
    coarse = blending.coarse_scale(source) if source else 0
    is_released = config.variant == "released"
    excluded = blending.last_coarse_path(source, coarse) if is_released else None

    def rule(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        if layer.kind != "self":
            return None
        first = first_segment.get((layer.path, layer.branch))
        if first:
            k, v = prepend_first_segment(k, v, first)
        found = source.get(replace(layer, branch="src+")) if layer.branch == "tgt+" else None
        if found and layer.axis == "spatial":
            if observing.is_observed() and layer.path == find_observed_path(source):
                distance = blending.attention_distance(q, k, *found[:2])
                observing.observe("difference map", step, layer.to_grid(distance))
            within = None if inputs.mask is None else layer.tokens_in_mask(inputs.mask)
            thresholds = query_thresholds(layer, config).to(q.device)
            return blending.blend_attention(q, k, v, *found[:2], thresholds, within)
        if found and blending.uses_source_attention(
            layer, step, config.steps, config.stages, coarse, excluded
        ):
            q_source, k_source, v_source = found
            if first:
                assert v_source is not None
                of_first = first_segment[layer.path, "src+"]
                k_source, _ = prepend_first_segment(k_source, v_source, of_first)
            return scaled_dot_product_attention(q_source, k_source, v)
        return scaled_dot_product_attention(q, k, v) if first else None

    return rule


def find_observed_path(source: SourceAttention) -> str:
    """Return the path of the layer whose difference map the paper shows: the third spatial one on the way down."""
    layers = [layer for layer in source if layer.axis == "spatial" and layer.section == "down"]
    return list(dict.fromkeys(layer.path for layer in layers))[:3][-1]


def query_thresholds(layer: Layer, config: Config) -> Tensor:
    """Return the threshold of each query of a spatial layer, B 1: the frames are in its batch."""
    pair = (config.threshold_first, config.threshold_last)
    return blending.frame_thresholds(pair, len(layer.frames))[:, None]
