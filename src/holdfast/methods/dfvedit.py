"""DFVEdit (arXiv:2506.20967), conditional delta flow: both states are noised on their own, by one noise.

z <- z + (sigma' - sigma) [V((1 - sigma) z + sigma eps, target) - V((1 - sigma) x + sigma eps, source)]

FlowEdit's target state differs from this one by sigma (z - x). The released code's reinforcement of source embeddings and its mask, which
never takes effect there, are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from .. import diffusion
from ..run import Step, resumed

NEEDS = {"text"}


@dataclass(frozen=True)
class Config:
    """The authors' values."""

    steps: int = 50
    strength: float = 0.98  # the first of the 50 steps is skipped
    source_guidance: float = 5.0
    target_guidance: float = 15.0
    shift: float | None = None  # of the grid of levels; the authors' is 5; None: the backbone's own


def edit(field, source: Tensor, src, tgt, cfg: Config, *, mask=None, seed=0, start=None) -> Iterator[Step]:
    levels = field.levels(cfg.steps, cfg.shift)
    first = cfg.steps - round(cfg.strength * cfg.steps)
    z, begin, _ = resumed(start, source, first)
    for i in range(begin, cfg.steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        eps = diffusion.noise(source, seed, i)
        noisy_source, noisy_target = (diffusion.noised(clean, sigma, eps) for clean in (source, z))
        v_target = diffusion.guided(field, noisy_target, sigma, tgt, "tgt", cfg.target_guidance)
        v_source = diffusion.guided(field, noisy_source, sigma, src, "src", cfg.source_guidance)
        difference = v_target - v_source
        z = z + (sigma_next - sigma) * (difference if mask is None else mask * difference)
        yield Step(i + 1, cfg.steps, z, {})
