"""FlowEdit (Kulikov et al., arXiv:2412.08629), Algorithm 1: follow the difference of two velocity fields.

z <- z + (sigma' - sigma) mean_k [ V(z + x_sigma - x, target) - V(x_sigma, source) ]
x_sigma = (1 - sigma) x + sigma eps_k
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..base.schema import Count, Guidance, LevelGrid, Share, Shift, Steps, Timesteps, check, setting
from ..sampling import maths
from ..sampling.field import EditInputs, Step, VelocityField, initial_state, opened, remaining_steps

NEEDS: set[str] = set()


@dataclass(frozen=True)
class Config:
    """The paper's values for its rectified-flow model with two-sided guidance."""

    steps: Steps = setting(50, "T")
    strength: Share = setting(
        0.66,
        "n_max / T: the share of the levels that are walked, from the noisy end but one; 33 of 50",
    )
    n_min: Count = setting(0, "the last n_min steps sample with the target prompt alone")
    n_avg: Steps = setting(1, "noises averaged per step")
    source_guidance: Guidance = 3.5
    target_guidance: Guidance = 13.5
    shift: Shift = setting(None, "of the grid of levels; None: the backbone's own")
    grid: LevelGrid = setting("own", "of levels, by name")
    timesteps: Timesteps = setting("exact", "what the model is told; the authors' are exact")

    __post_init__ = check


def edit(field: VelocityField, given: EditInputs, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    field, levels, first = opened(field, given, cfg)
    source, src, tgt = given.source, given.src, given.tgt
    alone = max(first, cfg.steps - cfg.n_min)  # from here on the target prompt alone
    eps_alone = maths.keyed_noise(source, given.seed, alone)
    z, _ = initial_state(start, source)
    for i in remaining_steps(start, "edit", first, cfg.steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        if i < alone:
            difference = 0
            for k in range(cfg.n_avg):
                eps = maths.keyed_noise(source, given.seed, i, k)
                noisy = maths.add_noise(source, sigma, eps)
                coupled = noisy + (z - source)
                v_source = maths.guided_velocity(field, noisy, sigma, src, "src", cfg.source_guidance)
                v_target = maths.guided_velocity(field, coupled, sigma, tgt, "tgt", cfg.target_guidance)
                difference = difference + (v_target - v_source) / cfg.n_avg
            z = z + (sigma_next - sigma) * given.inside(difference)
        else:
            if i == alone:
                z = maths.add_noise(source, sigma, eps_alone) + (z - source)
            v_target = maths.guided_velocity(field, z, sigma, tgt, "tgt", cfg.target_guidance)
            z = z + (sigma_next - sigma) * v_target
            z = given.held(z, maths.add_noise(source, sigma_next, eps_alone))
        yield Step("edit", i + 1, cfg.steps, z)
