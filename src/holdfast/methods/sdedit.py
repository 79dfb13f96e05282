"""SDEdit (Meng et al., arXiv:2108.01073): noise the source to a level, then sample from there with the target prompt."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from .. import diffusion
from ..run import Step, resumed

NEEDS = {"text"}


@dataclass(frozen=True)
class Config:
    steps: int = 50
    strength: float = 0.7  # t0: the share of the levels that are sampled again; the paper uses 0.3 to 0.6 on images
    target_guidance: float = 5.0
    shift: float | None = None  # of the grid of levels; None: the backbone's own


def edit(field, source: Tensor, src, tgt, cfg: Config, *, mask=None, seed=0, start=None) -> Iterator[Step]:
    levels = field.levels(cfg.steps, cfg.shift)
    first = cfg.steps - round(cfg.strength * cfg.steps)
    eps = diffusion.noise(source, seed, 0)
    z, begin, _ = resumed(start, diffusion.noised(source, levels[first], eps) if first < cfg.steps else source, first)
    for i in range(begin, cfg.steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        z = z + (sigma_next - sigma) * diffusion.guided(field, z, sigma, tgt, "tgt", cfg.target_guidance)
        if mask is not None:
            z = mask * z + (1 - mask) * diffusion.noised(source, sigma_next, eps)
        yield Step(i + 1, cfg.steps, z, {})
