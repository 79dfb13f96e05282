"""FlowAlign (arXiv:2505.23145): FlowEdit with the source prompt in the negative's place, and a pull of both clean estimates together.

v_p = V(p, source) + w [V(p, target) - V(p, source)],  v_q = V(q, source),  p = z + q - x,  q = (1 - sigma) x + sigma eps
z <- z + (sigma' - sigma)(v_p - v_q) + zeta [(q - sigma v_q) - (p - sigma v_p)]
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from .. import diffusion
from ..run import Step, resumed

NEEDS = {"text"}


@dataclass(frozen=True)
class Config:
    """The authors' values for images, three evaluations a step; the community's Wan port: 50 steps, strength 0.7, w 19.5, zeta 0.001."""

    steps: int = 33  # no step is skipped
    strength: float = 1.0
    target_guidance: float = 13.5  # w; the paper says 7.5, the code's command line 13.5
    zeta: float = 0.01
    shift: float | None = None  # of the grid of levels; None: the backbone's own


def edit(field, source: Tensor, src, tgt, cfg: Config, *, mask=None, seed=0, start=None) -> Iterator[Step]:
    levels = field.levels(cfg.steps, cfg.shift)
    first = cfg.steps - round(cfg.strength * cfg.steps)
    against = replace(tgt, negative=src.positive)  # guidance leads away from the source prompt
    z, begin, _ = resumed(start, source, first)
    for i in range(begin, cfg.steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        q = diffusion.noised(source, sigma, diffusion.noise(source, seed, i))
        p = q + (z - source)
        v_q = field.velocity(q, sigma, src, branch="src+")
        v_p = diffusion.guided(field, p, sigma, against, "tgt", cfg.target_guidance)
        pull = (sigma * (v_p - v_q)) - (z - source)  # (q - sigma v_q) - (p - sigma v_p)
        change = (sigma_next - sigma) * (v_p - v_q) + cfg.zeta * pull
        z = z + (change if mask is None else mask * change)
        yield Step(i + 1, cfg.steps, z, {})
