"""DFVEdit (arXiv:2506.20967), conditional delta flow: both states are noised on their own, by one noise.

z <- z + (sigma' - sigma) [V((1 - sigma) z + sigma eps, target) - V((1 - sigma) x + sigma eps, source)]

FlowEdit's target state differs from this one by sigma (z - x). The released code's reinforcement of source embeddings
and its mask, which never takes effect there, are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..base.schema import Guidance, LevelGrid, Share, Shift, Steps, Timesteps, check, setting
from ..sampling import maths
from ..sampling.field import EditInputs, Step, VelocityField, initial_state, opened, remaining_steps

NEEDS: set[str] = set()


@dataclass(frozen=True)
class Config:
    """The authors' values."""

    steps: Steps = 50
    strength: Share = setting(0.98, "the first of the 50 steps is skipped")
    source_guidance: Guidance = 5.0
    target_guidance: Guidance = 15.0
    shift: Shift = setting(
        None, "of the grid of levels; the authors' is 5; None: the backbone's own"
    )
    grid: LevelGrid = setting("own", "of levels, by name; the authors' is euler")
    timesteps: Timesteps = setting("exact", "what the model is told; the authors' are exact")

    __post_init__ = check


def edit(field: VelocityField, given: EditInputs, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    field, levels, first = opened(field, given, cfg)
    source = given.source
    z, _ = initial_state(start, source)
    for i in remaining_steps(start, "edit", first, cfg.steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        eps = maths.keyed_noise(source, given.seed, i)
        noisy_source = maths.add_noise(source, sigma, eps)
        noisy_target = maths.add_noise(z, sigma, eps)
        v_target = maths.guided_velocity(field, noisy_target, sigma, given.tgt, "tgt", cfg.target_guidance)
        v_source = maths.guided_velocity(field, noisy_source, sigma, given.src, "src", cfg.source_guidance)
        z = z + (sigma_next - sigma) * given.inside(v_target - v_source)
        yield Step("edit", i + 1, cfg.steps, z)
