"""What I2VEdit does inside attention: the source's over space and time in the target's calls, and the first clip's keys
and values in all of a later clip's."""

import contextlib
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attended

from ...models import attention
from ...models.attention import blending
from ...models.attention.hooks import Layer
from ...sampling.field import EditInputs, VelocityField
from .config import Config

# q, k and v of the first clip's layers over time, by path and branch
FirstSegmentAttention = dict[tuple[str, str], tuple[Tensor, Tensor, Tensor]]
SourceAttention = dict[Layer, tuple[Tensor, Tensor, Tensor | None]]


def is_temporal_self(site: Layer) -> bool:
    return site.kind == "self" and site.axis == "temporal"


def index_temporal(seen: SourceAttention) -> FirstSegmentAttention:
    return {(s.path, s.branch): found for s, found in seen.items() if s.axis == "temporal"}


def record_source(
    field: VelocityField, cfg: Config, step: int, everything: bool = False
) -> contextlib.AbstractContextManager[SourceAttention | None]:
    """Collect of the source's call what the edit of a step makes use of; None where that is nothing."""
    _, last = blending.PRESETS.get(cfg.motion, (0.0, 0.0))
    wanted = {"spatial": cfg.matching, "temporal": step < int(last * cfg.steps)}
    if not any(wanted.values()):
        return contextlib.nullcontext()
    wanted["temporal"] |= everything

    def keep(site: Layer, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return (
            q,
            k,
            v if site.axis == "temporal" else None,
        )  # over space it would be held for nothing

    return attention.record(field, lambda site: site.kind == "self" and wanted[site.axis], keep)


def extend_keys(field: VelocityField, there: FirstSegmentAttention) -> contextlib.AbstractContextManager[None]:
    """Have the layers over time see the first clip's keys and values too, in the source's calls."""
    if not there:
        return contextlib.nullcontext()

    def rule(site: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attended(q, *prepend_first_segment(k, v, there[site.path, "src+"]))

    return attention.use_rule(field, rule, is_temporal_self)


def prepend_first_segment(k: Tensor, v: Tensor, first: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Keys and values with the first clip's before them."""
    _, k_first, v_first = first
    return torch.cat((k_first, k), 2), torch.cat((v_first, v), 2)


def match_source(
    field: VelocityField, seen: SourceAttention | None, there: FirstSegmentAttention, given: EditInputs, cfg: Config, step: int
) -> contextlib.AbstractContextManager[None]:
    """Have the source's attention, and the first clip's, at hand in the target's calls inside."""
    if not (seen or there):
        return contextlib.nullcontext()
    return attention.use_rule(field, matching_rule(seen or {}, there, given, cfg, step))


def matching_rule(
    seen: SourceAttention, there: FirstSegmentAttention, given: EditInputs, cfg: Config, step: int
) -> Callable[[Layer, Tensor, Tensor, Tensor], Tensor | None]:
    """The rule of the target's calls at an edit step.

    seen: of the source's call. there: of the first clip's calls; nothing for the first clip itself.
    """
    pair = blending.PRESETS.get(cfg.motion, (0.0, 0.0))
    coarse = blending.coarse_scale(seen) if seen else 0
    left_out = blending.last_coarse_path(seen, coarse) if cfg.variant == "released" else None

    def rule(site: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        if site.kind != "self":
            return None
        first = there.get((site.path, site.branch))
        if first:
            k, v = prepend_first_segment(k, v, first)
        known = seen.get(replace(site, branch="src+")) if site.branch == "tgt+" else None
        if known and site.axis == "spatial":
            within = None if given.mask is None else site.tokens_in_mask(given.mask)
            bound = query_thresholds(site, cfg).to(q.device)
            return blending.blend_attention(q, k, v, *known[:2], bound, within)
        if known and blending.uses_source_attention(site, step, cfg.steps, pair, coarse, left_out):
            q0, k0, v0 = known
            if first:
                k0, _ = prepend_first_segment(k0, v0, there[site.path, "src+"])
            return attended(q0, k0, v)
        return attended(q, k, v) if first else None

    return rule


def query_thresholds(site: Layer, cfg: Config) -> Tensor:
    """The threshold of each query of a spatial layer, B 1: its batch runs over frames."""
    return blending.frame_thresholds((cfg.low, cfg.high), len(site.frames))[:, None]
