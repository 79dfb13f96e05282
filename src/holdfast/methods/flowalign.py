"""FlowAlign (arXiv:2505.23145): FlowEdit with the source prompt in the negative's place, and a pull of both clean
estimates together.

v_p = V(p, source) + w [V(p, target) - V(p, source)],  v_q = V(q, source),  p = z + q - x,  q = (1 - sigma) x + sigma
eps
z <- z + (sigma' - sigma)(v_p - v_q) + zeta [(q - sigma v_q) - (p - sigma v_p)]
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..base.schema import (
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
from ..sampling import maths
from ..sampling.field import EditInputs, Step, VelocityField, initial_state, opened, remaining_steps

NEEDS: set[str] = set()


@dataclass(frozen=True)
class Config:
    """The authors' values for images, three evaluations a step; the community's Wan port: 50 steps, strength 0.7, w
    19.5, zeta 0.001.
    """

    steps: Steps = setting(33, "no step is skipped")
    strength: Share = 1.0
    target_guidance: Guidance = setting(13.5, "w; the paper says 7.5, the code's command line 13.5")
    zeta: Number = 0.01
    shift: Shift = setting(None, "of the grid of levels; None: the backbone's own")
    grid: LevelGrid = setting("own", "of levels, by name")
    timesteps: Timesteps = setting("exact", "what the model is told; the authors' are exact")

    __post_init__ = check


def edit(field: VelocityField, given: EditInputs, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    field, levels, first = opened(field, given, cfg)
    source = given.source
    against = given.tgt.with_negative_of(given.src)  # guidance leads away from the source prompt
    z, _ = initial_state(start, source)
    for i in remaining_steps(start, "edit", first, cfg.steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        q = maths.add_noise(source, sigma, maths.keyed_noise(source, given.seed, i))
        p = q + (z - source)
        v_q = field.velocity(q, sigma, given.src, branch="src+")
        v_p = maths.guided_velocity(field, p, sigma, against, "tgt", cfg.target_guidance)
        pull = (sigma * (v_p - v_q)) - (z - source)  # (q - sigma v_q) - (p - sigma v_p)
        change = (sigma_next - sigma) * (v_p - v_q) + cfg.zeta * pull
        z = z + given.inside(change)
        yield Step("edit", i + 1, cfg.steps, z)
