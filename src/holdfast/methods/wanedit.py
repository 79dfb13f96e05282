"""Wan-Edit (FiVE-Bench, Li et al., arXiv:2503.13684): FlowEdit on Wan as its authors run it.

Three differences from FlowEdit's Algorithm 1: the source is noised at the level of the previous timestep while the model
is told the current one; the difference of velocities is integrated by UniPC, not by Euler; guidance is 5 and 12.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from .. import diffusion
from ..run import Step, resumed

NEEDS = {"text"}


@dataclass(frozen=True)
class Config:
    """The authors' values on Wan2.1."""

    steps: int = 50
    strength: float = 0.82  # the first 9 of the 50 steps are skipped; a later release of theirs skips 15 to 17
    source_guidance: float = 5.0
    target_guidance: float = 12.0
    shift: float | None = None  # of the grid of levels; the authors' is 5; None: the backbone's own


def edit(field, source: Tensor, src, tgt, cfg: Config, *, mask=None, seed=0, start=None) -> Iterator[Step]:
    levels = field.levels(cfg.steps, cfg.shift)
    told = [int(1000 * s) / 1000 for s in levels]  # the authors mix at whole thousandths
    first = cfg.steps - round(cfg.strength * cfg.steps)
    z, begin, state = resumed(start, source, first)
    solver = diffusion.UniPC.from_dict(state)
    for i in range(begin, cfg.steps):
        mixed = told[i - 1] if i else 1.0
        noisy = diffusion.noised(source, mixed, diffusion.noise(source, seed, i))
        v_target = diffusion.guided(field, noisy + (z - source), levels[i], tgt, "tgt", cfg.target_guidance)
        v_source = diffusion.guided(field, noisy, levels[i], src, "src", cfg.source_guidance)
        difference = v_target - v_source
        difference = difference if mask is None else mask * difference
        z, solver = solver.step(z, difference, levels[i], levels[i + 1], last=i == cfg.steps - 1)
        yield Step(i + 1, cfg.steps, z, solver.to_dict())
