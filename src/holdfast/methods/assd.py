"""Adaptive sliding score distillation (arXiv:2406.04888v2): DDS whose reference is smoothed over time where an edit
goes too far, with an image model's word on key frames and the reference's attention fused into the target's.

D = e(z_t, target), R = e(x_t, source);  m = 1 where |D - R| is near its largest over time                     (7)
z <- z - eta { m [D - Smooth(R)] + (1 - m) [D - R] + [D' - R'] of the image model on key frames }         (6, 8-10)
attention of D, last spatial layers: (1 - lambda) self + lambda [softmax(Q K_R^T) V_R]                       (11-13)
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attended

from ..base.notices import warn_user
from ..base.schema import Guidance, Number, Range, Share, Steps, setting
from ..models import attention
from ..models.attention.hooks import Layer
from ..sampling.distillation import DistillationConfig, NoiseSample, draw_samples
from ..sampling.field import EditInputs, ImageModel, Step, VelocityField, initial_state

NEEDS: set[str] = set()
# settings that need another one
ONLY_WITH = {"smooth_target": "window", "mask": "window", "tau": "mask", "fused": "fusion"}
ONLY_WITH |= dict.fromkeys(("joint_guidance", "stride"), "joint")


@dataclass(frozen=True)
class Config(DistillationConfig):
    """The paper's values; where it gives none, what measured well (docs/distillation.md)."""

    window: Annotated[float, Range(0, 0.5)] = setting(0.165, "g of either neighbour, Eq. 6; 0: off")
    smooth_target: Literal["prediction", "residual"] = setting(
        "prediction",
        "what is smoothed: R, as printed, or R less the noise that was drawn, which is no signal",
    )
    mask: Literal["text", "printed", "off"] = setting(
        "text",
        "m of Eq. 7: over the edited places, as the text has it; under them, as "
        "printed; or 1 everywhere",
    )
    tau: Number = setting(0.05, "not in the paper")
    fusion: Share = setting(0.8, "lambda, Eq. 13; 0: off")
    fused: Steps = setting(
        3, "how many of the last self-attention layers over space; not in the paper"
    )
    joint: Number = setting(1.0, "weight of the image model, Eq. 10; 0: off")
    joint_guidance: Guidance = 7.5
    stride: Steps = setting(4, "latent frames from one key frame to the next; not in the paper")


def wants_guide(cfg: Config) -> bool:
    """Whether these settings make use of a second field."""
    return cfg.joint != 0


def edit(field: VelocityField, given: EditInputs, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    source = given.source
    if cfg.fusion and field.attention_hooks is None:
        warn_user("the attention of this model cannot be reached: assd goes without its fusion")
        cfg = replace(cfg, fusion=0.0)
    z, _ = initial_state(start, source)
    for i, draw in draw_samples(field, given, cfg, start):
        with record_source(field, cfg) as seen:
            known = draw.noise(source, given.src, "src")
        with fuse_source(field, cfg, seen):
            wanted = draw.noise(z, given.tgt, "tgt")
        change = wanted - reference(wanted, known, draw.eps, cfg)
        if given.guide and wants_guide(cfg):
            change = change + cfg.joint * guidance(given.guide, z, source, draw, cfg)
        z = z - cfg.size(z) * given.inside(change)
        yield Step("edit", i + 1, cfg.steps, z)


def reference(wanted: Tensor, known: Tensor, eps: Tensor, cfg: Config) -> Tensor:
    """R of the source, smoothed over time where m says so (Eq. 6 to 8)."""
    if not cfg.window:
        return known
    base = eps if cfg.smooth_target == "residual" else torch.zeros_like(eps)
    smooth = smooth_over_time(known - base, cfg.window) + base
    return torch.where(find_edited(wanted - known, cfg), smooth, known)


def smooth_over_time(e: Tensor, side: float) -> Tensor:
    """Every frame with its two neighbours, b c f h w: side, 1 - 2 side, side. At the ends, of what there is; a frame
    that is alone stays as it is, whatever the side.
    """
    if e.shape[2] == 1:
        return e
    total, weight = (1 - 2 * side) * e, torch.full_like(e[:, :1, :, :1, :1], 1 - 2 * side)
    for here, there in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        total[:, :, here] += side * e[:, :, there]
        weight[:, :, here] += side
    return total / weight


def find_edited(change: Tensor, cfg: Config) -> Tensor:
    """m, boolean b c f h w: where a change is within tau of its largest over time."""
    if cfg.mask == "off":
        return torch.ones_like(change, dtype=torch.bool)
    size = change.abs()
    bound = size.amax(2, keepdim=True) - cfg.tau
    return size > bound if cfg.mask == "text" else size < bound


def guidance(guide: ImageModel, z: Tensor, source: Tensor, draw: NoiseSample, cfg: Config) -> Tensor:
    """The second field's change on key frames, 0 on the others (Eq. 9)."""
    frames = range(0, z.shape[2], cfg.stride)
    key = draw.on(guide.field, cfg.joint_guidance, frames)
    change = torch.zeros_like(z)
    change[:, :, list(frames)] = key.noise(z, guide.tgt, "tgt") - key.noise(
        source, guide.src, "src"
    )
    return change


def find_last_layers(field: VelocityField, count: int) -> set[str]:
    """The paths of the last self-attention layers over space, or over space and time."""
    layers = [s.path for s in field.attention_hooks.layers if s.kind == "self" and s.axis != "temporal"]
    return set(layers[-count:])


def record_source(field: VelocityField, cfg: Config) -> contextlib.AbstractContextManager[dict]:
    """Keep keys and values of the reference's calls inside, by site."""
    if not cfg.fusion:
        return contextlib.nullcontext({})
    chosen = find_last_layers(field, cfg.fused)
    return attention.record(field, lambda site: site.path in chosen, lambda site, q, k, v: (k, v))


def fuse_source(
    field: VelocityField, cfg: Config, seen: dict[Layer, tuple[Tensor, Tensor]]
) -> contextlib.AbstractContextManager[None]:
    """Fuse the reference's attention into the calls inside (Eq. 11 to 13), each into its own half's."""
    if not cfg.fusion:
        return contextlib.nullcontext()
    chosen = find_last_layers(field, cfg.fused)

    def rule(site: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        own = attended(q, k, v)
        k_known, v_known = seen[replace(site, branch=f"src{site.branch[3:]}")]
        # so that equal latents give stock attention whatever the weight
        return own + cfg.fusion * (attended(q, k_known, v_known) - own)

    return attention.use_rule(field, rule, lambda site: site.path in chosen)
