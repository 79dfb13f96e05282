"""From a clean latent to the noisy one that a model would have made it from. Shared by the methods that invert.

A level grid is walked from its clean end up. The velocity is that of the condition alone, without guidance. z: b c f h
w.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from .field import VelocityField

Velocity = Callable[[Tensor, float], Tensor]  # (z, sigma) -> noise - clean


def midpoint_step(velocity: Velocity, z: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """One explicit midpoint step, either way: RF-Solver's second-order step
    (arXiv:2411.04746) is the same by algebra.
    """
    step = sigma_next - sigma
    half = z + step / 2 * velocity(z, sigma)
    return z + step * velocity(half, (sigma + sigma_next) / 2)


def cached_midpoint_step(
    velocity: Velocity, z: Tensor, last: Tensor, sigma: float, sigma_next: float
) -> tuple[Tensor, Tensor]:
    """The midpoint step of FireFlow (arXiv:2412.07517): one evaluation, halfway along the last step's velocity.

    Returns the state and the velocity found there, which is `last` of the next step.
    """
    step = sigma_next - sigma
    middle = velocity(z + step / 2 * last, (sigma + sigma_next) / 2)
    return z + step * middle, middle


def uni_inv_step(
    velocity: Velocity, z: Tensor, last: Tensor, sigma: float, sigma_next: float
) -> tuple[Tensor, Tensor]:
    """One step of Uni-Inv (arXiv:2504.13109): look ahead along the last velocity, then step by the one found there.

    Returns the state and that velocity, which is `last` of the next step. Euler back along the same velocities returns
    exactly.
    """
    step = sigma_next - sigma
    ahead = velocity(z + step * last, sigma_next)
    return z + step * ahead, ahead


def inversion_sigmas(levels: Sequence[float]) -> list[float]:
    """A grid from noisy to 0 as EDM inversion walks it, from the clean end up.

    A clean latent is taken to be as noisy as one more level below the lowest: with s = sigma / (1 - sigma) it goes on
    geometrically, s[-1]^2 / s[-2] (I2VEdit, arXiv:2405.16537, as released).
    """
    *noisy, _ = levels
    spreads = [sigma / (1 - sigma) for sigma in noisy[-2:]]
    lowest = spreads[-1] ** 2 / spreads[0]
    return [lowest / (1 + lowest), *reversed(noisy)]


def invert_by_euler(field: VelocityField, source: Tensor, condition, levels: Sequence[float]) -> Iterator[Tensor]:
    """EDM inversion by explicit Euler steps: the model is told the lower of the two levels.

    source: a clean latent, taken as `x = clean + s noise` of the first level as it is. levels: from `ascending`. Yields
    the latent at each level from the second on; the last is the noisy end.
    """
    z = (1 - levels[0]) * source  # z = x / (1 + s)
    for sigma, sigma_next in itertools.pairwise(levels):
        z = z + (sigma_next - sigma) * field.velocity(z, sigma, condition, branch="src+")
        yield z


def store_latent(state: dict[str, Tensor], index: int, z: Tensor) -> dict[str, Tensor]:
    """The state with the inverted latent of a level, by its index from the clean end (level 0 is the source itself)."""
    return state | {f"inverted{index}": z}


def load_latent(state: dict[str, Tensor], source: Tensor, index: int) -> Tensor:
    """The inverted latent of a level."""
    return state[f"inverted{index}"] if index else source


def drop_latent(state: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """The state without a level that is behind."""
    return {k: v for k, v in state.items() if k != f"inverted{index}"}
