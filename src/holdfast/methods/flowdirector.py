"""FlowDirector (arXiv:2506.05046): FlowEdit gated by where both prompts' edit words attend, on an average of several noises.

dV_a = V(z + q_a - x, target) - V(q_a, source) for noises a;  V = mean_a dV_a, sharpened by `averaging`
z <- z + (sigma' - sigma) V softened by the mask of cross-attention: 1 inside, exp(-decay distance) outside
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .. import attention, diffusion
from ..run import Step, resumed

NEEDS = {"text", "text_attention"}


@dataclass(frozen=True)
class Config:
    """The values of the authors' script for Wan2.1 1.3B."""

    steps: int = 50
    strength: float = 0.8  # n_max 40 of 50
    n_avg: int = 4  # noises a step
    averaging: str = "published"  # published: away from the worse flows; released: the code's form, whose correction is exactly zero
    worse: int = 2  # K, how many flows the worse average is of
    omega: float = 2.75  # how far away from it
    depth: float = 0.6  # the layer whose attention is read, as a share of all: 18 of 30
    smooth: int = 11  # side of the average pooling before the threshold, in latent cells of a 60 x 104 frame; scaled to the frame
    decay: float = 0.25  # per latent cell outside the mask
    source_guidance: float = 3.5
    target_guidance: float = 10.5
    shift: float | None = None  # of the grid of levels; the authors' is 12; None: the backbone's own


def edit(field, source: Tensor, src, tgt, cfg: Config, *, mask=None, seed=0, start=None) -> Iterator[Step]:
    if cfg.averaging not in ("published", "released"):
        raise ValueError(f"averaging is published or released, not {cfg.averaging!r}")
    if not 0 <= cfg.depth <= 1:
        raise ValueError(f"depth is a share of the layers, 0 to 1, not {cfg.depth}")
    if cfg.averaging == "published" and cfg.n_avg > 1 and not 0 < cfg.worse < cfg.n_avg:
        raise ValueError(f"worse is between 1 and n_avg - 1 = {cfg.n_avg - 1}, not {cfg.worse}")
    levels = field.levels(cfg.steps, cfg.shift)
    first = cfg.steps - round(cfg.strength * cfg.steps)
    gated = bool(src.words or tgt.words)
    if not gated:
        warnings.warn("no word drives the edit, so nothing says where it goes: the whole frame may change", stacklevel=2)
    z, begin, _ = resumed(start, source, first)
    for i in range(begin, cfg.steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        flows, seen = [], torch.zeros_like(source[:, :1])
        for a in range(cfg.n_avg):
            noisy = diffusion.noised(source, sigma, diffusion.noise(source, seed, i, a))
            v_source, where_source = attended(field, noisy, sigma, src, "src", cfg)
            v_target, where_target = attended(field, noisy + (z - source), sigma, tgt, "tgt", cfg)
            flows.append(v_target - v_source)
            seen = torch.maximum(seen, torch.maximum(where_source, where_target))
        change = averaged(flows, cfg) * (softened(seen, cfg.decay) if gated else 1)
        z = z + (sigma_next - sigma) * (change if mask is None else mask * change)
        yield Step(i + 1, cfg.steps, z, {})


def attended(field, z: Tensor, sigma: float, condition, side: str, cfg: Config) -> tuple[Tensor, Tensor]:
    """The guided velocity, and where the condition's words attend in it: 1 1 f h w, 0 or 1 (all 0 without words)."""
    if not condition.words:  # the other prompt's words alone say where; `edit` sees to it where there are none at all
        return diffusion.guided(field, z, sigma, condition, side, getattr(cfg, _SIDES[side])), torch.zeros_like(z[:, :1])
    maps: list[tuple[int, Tensor]] = []
    words = torch.tensor(condition.words, device=z.device)

    def look(site: attention.Site, q: Tensor, k: Tensor, v: Tensor) -> None:
        maps.append((site.first, attention.share(q, k, words).view(1, 1, *site.grid)))

    layer = min(round(cfg.depth * field.door.layers), field.door.layers - 1)
    with attention.edit(field, look, lambda s: s.kind == "cross" and s.layer == layer and s.branch == f"{side}+"):
        velocity = diffusion.guided(field, z, sigma, condition, side, getattr(cfg, _SIDES[side]))
    return velocity, thresholded(attention.assembled(maps), z.shape[2:], cfg.smooth)


_SIDES = {"src": "source_guidance", "tgt": "target_guidance"}


def thresholded(heat: Tensor, shape: tuple[int, int, int], smooth: int) -> Tensor:
    """Attention to a mask on latents: smoothed by average pooling, inside where above the mean of the map before smoothing."""
    heat = functional.interpolate(heat, size=tuple(shape), mode="nearest")
    side = max(1, round(smooth * min(shape[1:]) / 60) // 2 * 2 + 1)  # odd
    pooled = functional.avg_pool2d(heat[0].transpose(0, 1), side, stride=1, padding=side // 2).transpose(0, 1)[None]
    return (pooled > heat.mean()).to(heat)


def averaged(flows: list[Tensor], cfg: Config) -> Tensor:
    """Differential averaging guidance: mean + omega (mean - worse), worse = mean of the K flows least like the mean.

    released: mean + (omega - 1) times the mean over all K-subsets of (mean - the subset's mean), which is zero by algebra.
    """
    mean = torch.stack(flows).mean(0)
    if cfg.averaging == "released" or len(flows) == 1:
        return mean
    likeness = [functional.cosine_similarity(f.flatten(), mean.flatten(), dim=0).item() for f in flows]
    worse = sorted(range(len(flows)), key=likeness.__getitem__)[: cfg.worse]
    baseline = torch.stack([flows[i] for i in worse]).mean(0)
    return mean + cfg.omega * (mean - baseline)


def softened(mask: Tensor, decay: float) -> Tensor:
    """1 inside, exp(-decay d) at a distance of d cells outside, each latent frame by itself. A frame without an inside is 0: no edit."""
    import cv2

    weights = []
    for frame in mask[0, 0].cpu().numpy():
        outside = (frame == 0).astype(np.uint8)
        distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) if not outside.all() else np.full(frame.shape, np.inf)
        weights.append(torch.from_numpy(np.exp(-decay * distance).astype(np.float32)))
    return torch.stack(weights)[None, None].to(mask)
