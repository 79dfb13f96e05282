"""SDEdit (Meng et al., arXiv:2108.01073): noise the source to a level, then sample from there
with the target prompt.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..base.schema import Guidance, LevelGrid, Share, Shift, Steps, Timesteps, check, setting
from ..sampling import maths
from ..sampling.field import EditInputs, Step, VelocityField, initial_state, opened, remaining_steps

NEEDS: set[str] = set()


@dataclass(frozen=True)
class Config:
    steps: Steps = 50
    strength: Share = setting(
        0.7,
        "t0: the share of the levels that are sampled again; the paper uses 0.3 to 0.6 on images",
    )
    target_guidance: Guidance = 5.0
    shift: Shift = setting(None, "of the grid of levels; None: the backbone's own")
    grid: LevelGrid = setting("own", "of levels, by name")
    timesteps: Timesteps = setting(
        "whole", "what the model is told; silent, so as Wan's own sampler tells it"
    )

    __post_init__ = check


def edit(field: VelocityField, given: EditInputs, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    field, levels, first = opened(field, given, cfg)
    source = given.source
    eps = maths.keyed_noise(source, given.seed, 0)
    begin = maths.add_noise(source, levels[first], eps) if first < cfg.steps else source
    z, _ = initial_state(start, begin)
    for i in remaining_steps(start, "edit", first, cfg.steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        v_target = maths.guided_velocity(field, z, sigma, given.tgt, "tgt", cfg.target_guidance)
        z = z + (sigma_next - sigma) * v_target
        z = given.held(z, maths.add_noise(source, sigma_next, eps))
        yield Step("edit", i + 1, cfg.steps, z)
