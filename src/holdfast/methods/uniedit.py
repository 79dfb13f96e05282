"""UniEdit-Flow (arXiv:2504.13109): Uni-Inv to a middle level, then Uni-Edit: both prompts on one state, no guidance.

g = V(z, target) - V(z, source);  m = min-max over the clip of g's mean over channels
z <- z + (sigma' - sigma) [ omega (1 + m) g + m V(z, target) + (1 - m) V(z, source) ]
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..base.schema import LevelGrid, Number, Share, Shift, Steps, Timesteps, check, setting
from ..sampling import inversion, maths
from ..sampling.field import EditInputs, Step, VelocityField, initial_state, opened, remaining_steps

NEEDS: set[str] = set()
SEEDED = False  # nothing is drawn


@dataclass(frozen=True)
class Config:
    """The values of the authors' script for Wan; its defaults are 15 steps and alpha 0.6."""

    steps: Steps = 25
    strength: Share = setting(0.8, "alpha: the share of the levels that is inverted")
    omega: Number = 5.0
    contrast: Literal["signed", "abs"] = setting(
        "signed", "m from the signed mean (their code for video), or of magnitudes (for images)"
    )
    source_prompt: bool = setting(
        False,
        "invert with the source prompt, not with the negative one (empty unless given), "
        "as the authors do",
    )
    shift: Shift = setting(
        None, "of the grid of levels; the authors' is 3; None: the backbone's own"
    )
    grid: LevelGrid = setting("euler", "of levels, by name; the authors' is euler")
    timesteps: Timesteps = setting("exact", "what the model is told; the authors' are exact")

    __post_init__ = check


def edit(field: VelocityField, given: EditInputs, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    field, levels, _ = opened(field, given, cfg)
    count = int(cfg.strength * cfg.steps + 1e-9)
    up = levels[::-1][: count + 1]  # from clean to the middle
    branch = "src+" if cfg.source_prompt else "src-"

    def inverting(x, sigma):
        return field.velocity(x, sigma, given.src, branch=branch)

    z, state = initial_state(start, given.source)
    for i in remaining_steps(start, "invert", 0, count):
        last = state["last"] if i else inverting(z, 0.0)
        z, last = inversion.uni_inv_step(inverting, z, last, up[i], up[i + 1])
        state = state if given.mask is None else inversion.store_latent(state, i + 1, z)
        state = state | {"last": last}
        yield Step("invert", i + 1, count, z, state)
    state = {name: value for name, value in state.items() if name != "last"}
    for i in remaining_steps(start, "edit", 0, count):
        level = count - i  # index in `up` of the level that this step leaves
        sigma, sigma_next = up[level], up[level - 1]
        v_target = field.velocity(z, sigma, given.tgt, branch="tgt+")
        v_source = field.velocity(z, sigma, given.src, branch="src+")
        g = v_target - v_source
        m = maths.contrast_map(g, cfg.contrast)
        z = z + (sigma_next - sigma) * (cfg.omega * (1 + m) * g + m * v_target + (1 - m) * v_source)
        if given.mask is not None:
            z = given.held(z, inversion.load_latent(state, given.source, level - 1))
        state = inversion.drop_latent(state, level)
        yield Step("edit", i + 1, count, z, state)
