"""Inversion: from a clean latent to the noisy one that a model would have made it from.

It runs a schedule from its clean end upwards. The velocity is that of the conditioning alone, without guidance. Latents
are b c f h w.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .field import VelocityField
from .solvers import Velocity

if TYPE_CHECKING:
    from torch import Tensor


def uni_inv_step(
    velocity: Velocity, z: Tensor, last: Tensor, sigma: float, sigma_next: float
) -> tuple[Tensor, Tensor]:
    """Return z at sigma_next by one step of Uni-Inv (arXiv:2504.13109), and the velocity that it followed.

    It looks ahead along `last`, the velocity that the step before returned, and steps by the one found there. Euler
    steps back along the same velocities return exactly to z.
    """
    step = sigma_next - sigma
    ahead = velocity(z + step * last, sigma_next)
    return z + step * ahead, ahead


def inversion_sigmas(sigmas: Sequence[float]) -> list[float]:
    """Return the noise levels of EDM inversion, from the clean end upwards. sigmas: from noisy to 0.

    A clean latent is taken to be at one more level below the lowest: with s = sigma / (1 - sigma) the sequence is
    continued geometrically, s[-1]^2 / s[-2] (I2VEdit, arXiv:2405.16537, as released).
    """
    *noisy, _ = sigmas
    spreads = [sigma / (1 - sigma) for sigma in noisy[-2:]]
    lowest = spreads[-1] ** 2 / spreads[0]
    return [lowest / (1 + lowest), *reversed(noisy)]


def invert_by_euler(
    field: VelocityField, source: Tensor, conditioning: Any, sigmas: Sequence[float]
) -> Iterator[Tensor]:
    """Yield the latent at each noise level from the second on, by EDM inversion with explicit Euler steps.

    The network is given the lower of a step's two levels. source: a clean latent, taken as `x = clean + s noise` of the
    first level. sigmas: from `inversion_sigmas`.
    """
    z = (1 - sigmas[0]) * source  # z = x / (1 + s)
    for sigma, sigma_next in itertools.pairwise(sigmas):
        z = z + (sigma_next - sigma) * field.velocity(z, sigma, conditioning, branch="src+")
        yield z


def store_latent(state: Mapping[str, Tensor], index: int, z: Tensor) -> dict[str, Tensor]:
    """Return the state with the inverted latent of a level. Level 0 is the source itself."""
    return {**state, f"inverted{index}": z}


def load_latent(state: Mapping[str, Tensor], source: Tensor, index: int) -> Tensor:
    """Return the inverted latent of a level."""
    return state[f"inverted{index}"] if index else source


def drop_latent(state: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """Return the state without the inverted latent of a level."""
    return {name: value for name, value in state.items() if name != f"inverted{index}"}
