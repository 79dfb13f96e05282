"""From a clean latent to the noisy one that a model would have made it from. Shared by the methods that invert.

A level grid is walked from its clean end up. The velocity is that of the condition alone, without guidance. z: b c f h w.
"""

from collections.abc import Callable

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]  # (z, sigma) -> noise - clean


def midpoint(velocity: Velocity, z: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """One explicit midpoint step, either way: RF-Solver's second-order step (arXiv:2411.04746) is the same by algebra."""
    half = z + (sigma_next - sigma) / 2 * velocity(z, sigma)
    return z + (sigma_next - sigma) * velocity(half, (sigma + sigma_next) / 2)


def corrected(velocity: Velocity, z: Tensor, last: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
    """One step of Uni-Inv (arXiv:2504.13109): look ahead along the last velocity, then step by the one found there.

    Returns the state and that velocity, which is `last` of the next step. Euler back along the same velocities returns exactly.
    """
    ahead = velocity(z + (sigma_next - sigma) * last, sigma_next)
    return z + (sigma_next - sigma) * ahead, ahead


def keep(state: dict[str, Tensor], index: int, z: Tensor) -> dict[str, Tensor]:
    """Remember the inverted latent of a level, by its index from the clean end (level 0 is the source itself)."""
    return state | {f"inverted{index}": z}


def kept(state: dict[str, Tensor], source: Tensor, index: int) -> Tensor:
    return state[f"inverted{index}"] if index else source


def drop(state: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """Forget a level that is behind."""
    return {k: v for k, v in state.items() if k != f"inverted{index}"}
