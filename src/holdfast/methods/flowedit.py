"""FlowEdit (Kulikov et al., arXiv:2412.08629), Algorithm 1: follow the difference of two velocity fields.

z <- z + (sigma' - sigma) mean_k [ V(z + x_sigma - x, target) - V(x_sigma, source) ],   x_sigma = (1 - sigma) x + sigma eps_k
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from .. import diffusion
from ..run import Step, resumed

NEEDS = {"text"}


@dataclass(frozen=True)
class Config:
    """The paper's values for its rectified-flow model with two-sided guidance."""

    steps: int = 50  # T
    strength: float = 0.66  # n_max / T: the share of the levels that are walked, from the noisy end but one; 33 of 50
    n_min: int = 0  # the last n_min steps sample with the target prompt alone
    n_avg: int = 1  # noises averaged per step
    source_guidance: float = 3.5
    target_guidance: float = 13.5
    shift: float | None = None  # of the grid of levels; None: the backbone's own


def edit(field, source: Tensor, src, tgt, cfg: Config, *, mask=None, seed=0, start=None) -> Iterator[Step]:
    levels = field.levels(cfg.steps, cfg.shift)
    first = cfg.steps - round(cfg.strength * cfg.steps)
    alone = max(first, cfg.steps - cfg.n_min)  # from here on the target prompt alone
    eps_alone = diffusion.noise(source, seed, alone)
    z, begin, _ = resumed(start, source, first)
    for i in range(begin, cfg.steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        if i < alone:
            difference = 0
            for k in range(cfg.n_avg):
                eps = diffusion.noise(source, seed, i, k)
                noisy = diffusion.noised(source, sigma, eps)
                v_source = diffusion.guided(field, noisy, sigma, src, "src", cfg.source_guidance)
                v_target = diffusion.guided(field, noisy + (z - source), sigma, tgt, "tgt", cfg.target_guidance)
                difference = difference + (v_target - v_source) / cfg.n_avg
            z = z + (sigma_next - sigma) * (difference if mask is None else mask * difference)
        else:
            if i == alone:
                z = diffusion.noised(source, sigma, eps_alone) + (z - source)
            z = z + (sigma_next - sigma) * diffusion.guided(field, z, sigma, tgt, "tgt", cfg.target_guidance)
            if mask is not None:
                z = mask * z + (1 - mask) * diffusion.noised(source, sigma_next, eps_alone)
        yield Step(i + 1, cfg.steps, z, {})
