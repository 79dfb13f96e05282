"""Wan-Edit (FiVE-Bench, Li et al., arXiv:2503.13684): FlowEdit on Wan as its authors run it.

Three differences from FlowEdit's Algorithm 1: the source is noised at the level of the previous timestep while the
model is told the current one; the difference of velocities is integrated by UniPC, not by Euler; guidance is 5 and 12.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..base.schema import Guidance, LevelGrid, Share, Shift, Steps, Timesteps, check, setting
from ..sampling import maths
from ..sampling.field import EditInputs, Step, VelocityField, initial_state, opened, remaining_steps

NEEDS: set[str] = set()


@dataclass(frozen=True)
class Config:
    """The authors' values on Wan2.1."""

    steps: Steps = 50
    strength: Share = setting(
        0.82, "the first 9 of the 50 steps are skipped; a later release of theirs skips 15 to 17"
    )
    source_guidance: Guidance = 5.0
    target_guidance: Guidance = 12.0
    shift: Shift = setting(
        None, "of the grid of levels; the authors' is 5; None: the backbone's own"
    )
    grid: LevelGrid = setting("own", "of levels, by name")
    timesteps: Timesteps = setting(
        "whole", "what the model is told; the authors' are whole. Mixing is at whole ones always"
    )

    __post_init__ = check


def edit(field: VelocityField, given: EditInputs, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    field, levels, first = opened(field, given, cfg)
    source = given.source
    z, state = initial_state(start, source)
    solver = maths.UniPC.from_dict(state)
    for i in remaining_steps(start, "edit", first, cfg.steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        mixed = field.snap_timestep(levels[i - 1]) if i else 1.0
        noisy = maths.add_noise(source, mixed, maths.keyed_noise(source, given.seed, i))
        coupled = noisy + (z - source)
        v_target = maths.guided_velocity(field, coupled, sigma, given.tgt, "tgt", cfg.target_guidance)
        v_source = maths.guided_velocity(field, noisy, sigma, given.src, "src", cfg.source_guidance)
        difference = given.inside(v_target - v_source)
        z, solver = solver.step(z, difference, sigma, sigma_next, last=i == cfg.steps - 1)
        yield Step("edit", i + 1, cfg.steps, z, solver.to_dict())
