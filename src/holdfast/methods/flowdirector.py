"""FlowDirector (arXiv:2506.05046): FlowEdit gated by where both prompts' edit words attend, on an average of several
noises.

dV_a = V(z + q_a - x, target) - V(q_a, source) for noises a;  V = mean_a dV_a, sharpened by `averaging`
z <- z + (sigma' - sigma) V softened by the mask of cross-attention: 1 inside, exp(-decay distance) outside
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..base.errors import UserError
from ..base.notices import warn_user
from ..base.schema import (
    Count,
    Guidance,
    LevelGrid,
    Number,
    Share,
    Shift,
    Steps,
    Timesteps,
    check,
    setting,
)
from ..models import attention
from ..models.attention import maps
from ..sampling import maths
from ..sampling.field import EditInputs, Step, VelocityField, initial_state, opened, remaining_steps

NEEDS = {"text_attention"}
ONLY_WITH = dict.fromkeys(("worse", "omega"), "averaging=published")  # settings that need another


@dataclass(frozen=True)
class Config:
    """The values of the authors' script for Wan2.1 1.3B."""

    steps: Steps = 50
    strength: Share = setting(0.8, "n_max 40 of 50")
    n_avg: Steps = setting(4, "noises a step")
    averaging: Literal["published", "released"] = setting(
        "published", "away from the worse flows; or the code's form: exactly no correction"
    )
    worse: Count = setting(2, "K, how many flows the worse average is of")
    omega: Number = setting(2.75, "how far away from it")
    depth: Share = setting(0.6, "the layer whose attention is read, as a share of all: 18 of 30")
    smooth: Steps = setting(
        11,
        "side of the average pooling before the threshold, in latent cells of a 60 x "
        "104 frame; scaled to the frame",
    )
    decay: Number = setting(0.25, "per latent cell outside the mask")
    source_guidance: Guidance = 3.5
    target_guidance: Guidance = 10.5
    shift: Shift = setting(
        None, "of the grid of levels; the authors' is 12; None: the backbone's own"
    )
    grid: LevelGrid = setting("own", "of levels, by name")
    timesteps: Timesteps = setting(
        "whole",
        "what the model is told; the authors' are whole, and so are the levels mixed "
        "and stepped at",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.averaging == "published" and self.n_avg > 1 and not 0 < self.worse < self.n_avg:
            most = self.n_avg - 1
            raise UserError(f"worse is between 1 and n_avg - 1 = {most}, not {self.worse}")


def edit(field: VelocityField, given: EditInputs, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    field, levels, first = opened(field, given, cfg)
    if cfg.timesteps == "whole":
        levels = [field.snap_timestep(sigma) for sigma in levels]
    source, src, tgt = given.source, given.src, given.tgt
    gated = bool(src.edit_tokens or tgt.edit_tokens)
    if not gated:
        warn_user("no word drives the edit, so nothing says where it goes: the whole frame may change")
    z, _ = initial_state(start, source)
    for i in remaining_steps(start, "edit", first, cfg.steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        flows, seen = [], torch.zeros_like(source[:, :1])
        for a in range(cfg.n_avg):
            noisy = maths.add_noise(source, sigma, maths.keyed_noise(source, given.seed, i, a))
            coupled = noisy + (z - source)
            v_source, where_source = velocity_and_attention(field, noisy, sigma, src, "src", cfg)
            v_target, where_target = velocity_and_attention(field, coupled, sigma, tgt, "tgt", cfg)
            flows.append(v_target - v_source)
            seen = torch.maximum(seen, torch.maximum(where_source, where_target))
        change = average_differentially(flows, cfg)
        if gated:
            change = maths.apply_mask(fade_outwards(seen, cfg.decay), change)
        z = z + (sigma_next - sigma) * given.inside(change)
        yield Step("edit", i + 1, cfg.steps, z)


def velocity_and_attention(
    field: VelocityField, z: Tensor, sigma: float, condition, side: str, cfg: Config
) -> tuple[Tensor, Tensor]:
    """The guided velocity, and where the condition's words attend in it: 1 1 f h w, 0 or 1 (all 0 without words)."""
    guidance = {"src": cfg.source_guidance, "tgt": cfg.target_guidance}[side]
    if (
        not condition.edit_tokens
    ):  # the other prompt's words alone say where; `edit` sees to it where there are none at all
        velocity = maths.guided_velocity(field, z, sigma, condition, side, guidance)
        return velocity, torch.zeros_like(z[:, :1])
    chosen = find_layer(field, cfg.depth)

    def where(site: attention.Layer) -> bool:
        return site.path == chosen and site.branch == f"{side}+"

    with attention.record(field, where, maps.token_heatmap(condition.edit_tokens)) as found:
        velocity = maths.guided_velocity(field, z, sigma, condition, side, guidance)
    return velocity, threshold_heat(maps.merge_windows(found), z.shape[2:], cfg.smooth)


def find_layer(field: VelocityField, depth: float) -> str:
    """The path of the cross-attention at a share of the network's depth."""
    layers = [
        site.path for site in field.attention_hooks.layers if site.kind == "cross" and site.axis != "temporal"
    ]
    return layers[min(round(depth * len(layers)), len(layers) - 1)]


def threshold_heat(heat: Tensor, shape: tuple[int, int, int], smooth: int) -> Tensor:
    """Attention to a mask on latents: smoothed by average pooling, inside where above the mean of the map before
    smoothing.
    """
    heat = functional.interpolate(heat, size=tuple(shape), mode="nearest")
    side = max(1, round(smooth * min(shape[1:]) / 60) // 2 * 2 + 1)  # odd
    frames = heat[0].transpose(0, 1)  # f 1 h w
    pooled = functional.avg_pool2d(frames, side, stride=1, padding=side // 2)
    return (pooled.transpose(0, 1)[None] > heat.mean()).to(heat)


def average_differentially(flows: list[Tensor], cfg: Config) -> Tensor:
    """Differential averaging guidance: mean + omega (mean - worse), worse = mean of the K flows least like the mean.

    released: mean + (omega - 1) times the mean over all K-subsets of (mean - the subset's mean), which is zero by
    algebra.
    """
    mean = torch.stack(flows).mean(0)
    if cfg.averaging == "released" or len(flows) == 1:
        return mean
    likeness = [_likeness(flow, mean) for flow in flows]
    order = sorted(range(len(flows)), key=likeness.__getitem__)
    baseline = torch.stack([flows[i] for i in order[: cfg.worse]]).mean(0)
    return mean + cfg.omega * (mean - baseline)


def _likeness(flow: Tensor, mean: Tensor) -> float:
    """Return the cosine similarity over the places where both are numbers: an order by no number would be any order."""
    parts = (torch.nan_to_num(part.flatten(), 0, 0, 0) for part in (flow, mean))
    return functional.cosine_similarity(*parts, dim=0).item()


def fade_outwards(mask: Tensor, decay: float) -> Tensor:
    """1 inside, exp(-decay d) at a distance of d cells outside, each latent frame by itself. A frame without an inside
    is 0: no edit.
    """
    import cv2

    weights = []
    for frame in mask[0, 0].cpu().numpy():
        outside = (frame == 0).astype(np.uint8)
        weight = np.zeros(frame.shape)
        if not outside.all():
            distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            weight = np.exp(-decay * distance)
        weights.append(torch.from_numpy(weight.astype(np.float32)))
    return torch.stack(weights)[None, None].to(mask)
