"""UniEdit-Flow (arXiv:2504.13109): Uni-Inv to a middle level, then Uni-Edit: both prompts on one state, no guidance.

g = V(z, target) - V(z, source);  m = min-max over the clip of g's mean over channels
z <- z + (sigma' - sigma) [ omega (1 + m) g + m V(z, target) + (1 - m) V(z, source) ]
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from .. import inversion
from ..run import Step, resumed

NEEDS = {"text"}


@dataclass(frozen=True)
class Config:
    """The values of the authors' script for Wan; its defaults are 15 steps and alpha 0.6."""

    steps: int = 25
    strength: float = 0.8  # alpha: the share of the levels that is inverted
    omega: float = 5.0
    contrast: str = "signed"  # m from the signed mean over channels (their code for video), or abs: of magnitudes (for images)
    source_prompt: bool = False  # invert with the source prompt, not with the negative one (empty unless given), as the authors do
    shift: float | None = None  # of the grid of levels; the authors' is 3; None: the backbone's own


def edit(field, source: Tensor, src, tgt, cfg: Config, *, mask=None, seed=0, start=None) -> Iterator[Step]:
    if cfg.contrast not in ("signed", "abs"):
        raise ValueError(f"contrast is signed or abs, not {cfg.contrast!r}")
    levels = field.levels(cfg.steps, cfg.shift)
    up = list(reversed(levels))[: int(cfg.strength * cfg.steps + 1e-9) + 1]  # from clean to the middle
    count = 2 * (len(up) - 1)
    branch = "src+" if cfg.source_prompt else "src-"
    z, begin, state = resumed(start, source, 0)
    for i in range(begin, count):
        if i < count // 2:
            last = state["last"] if i else field.velocity(z, 0.0, src, branch=branch)
            z, last = inversion.corrected(lambda x, s: field.velocity(x, s, src, branch=branch), z, last, up[i], up[i + 1])
            state = (state if mask is None else inversion.keep(state, i + 1, z)) | {"last": last}
        else:
            back = count - i  # index in `up` of the level that this step leaves
            sigma, sigma_next = up[back], up[back - 1]
            v_target = field.velocity(z, sigma, tgt, branch="tgt+")
            v_source = field.velocity(z, sigma, src, branch="src+")
            g, m = v_target - v_source, contrast(v_target - v_source, cfg.contrast)
            z = z + (sigma_next - sigma) * (cfg.omega * (1 + m) * g + m * v_target + (1 - m) * v_source)
            if mask is not None:
                z = mask * z + (1 - mask) * inversion.kept(state, source, back - 1)
            state = inversion.drop({k: v for k, v in state.items() if k != "last"}, back)
        yield Step(i + 1, count, z, state)


def contrast(g: Tensor, kind: str) -> Tensor:
    """b 1 f h w in [0, 1]."""
    mean = (g if kind == "signed" else g.abs()).mean(1, keepdim=True)
    low, high = mean.amin((1, 2, 3, 4), keepdim=True), mean.amax((1, 2, 3, 4), keepdim=True)
    return (mean - low) / (high - low).clamp(min=1e-12)
