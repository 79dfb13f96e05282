"""Solvers that take one step between two noise levels: Euler's, explicit midpoint, FireFlow's, and UniPC."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ..base.schema import SolverName

if TYPE_CHECKING:
    from torch import Tensor

Velocity: TypeAlias = "Callable[[Tensor, float], Tensor]"  # (z, sigma) -> noise - clean


def midpoint_step(velocity: Velocity, z: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """Return z at sigma_next by one explicit midpoint step, in either direction.

    RF-Solver's second-order step (arXiv:2411.04746) is the same by algebra.
    """
    step = sigma_next - sigma
    half = z + step / 2 * velocity(z, sigma)
    return z + step * velocity(half, (sigma + sigma_next) / 2)


def cached_midpoint_step(
    velocity: Velocity, z: Tensor, last: Tensor, sigma: float, sigma_next: float
) -> tuple[Tensor, Tensor]:
    """Return z at sigma_next by FireFlow's midpoint step (arXiv:2412.07517), and the velocity at the midpoint.

    It needs one evaluation: the midpoint is found along `last`, the velocity that the step before returned.
    """
    step = sigma_next - sigma
    middle = velocity(z + step / 2 * last, (sigma + sigma_next) / 2)
    return z + step * middle, middle


def restore_solver(name: SolverName, state: Mapping[str, Tensor]) -> Euler | UniPC:
    """Return a solver as `Step.state` holds it; a new one from an empty state."""
    return UniPC.from_dict(state) if name == "unipc" else Euler()


@dataclass(frozen=True)
class Euler:
    """Euler's method with UniPC's interface. It has no memory."""

    def step(
        self, z: Tensor, velocity: Tensor, sigma: float, sigma_next: float, last: bool
    ) -> tuple[Tensor, Euler]:
        """Return z at sigma_next, and the solver."""
        return z + (sigma_next - sigma) * velocity, self

    def to_dict(self) -> dict[str, Tensor]:
        """Return no tensors."""
        return {}


@dataclass(frozen=True)
class UniPC:
    """The memory of the multistep solver between two steps. `clean` and `sigmas` hold the newest first.

    UniPC of order two (Zhao et al., arXiv:2302.04867, B2 variant, with corrector) in data prediction, on rectified-flow
    noise levels. It is written in increments, so that a velocity of zero returns the state bit for bit.
    """

    state: Tensor | None = None  # the latent from which the last prediction step started
    clean: tuple[Tensor, ...] = ()  # up to two predicted clean latents
    sigmas: tuple[float, ...] = ()  # the noise levels of these predictions

    def step(
        self, z: Tensor, velocity: Tensor, sigma: float, sigma_next: float, last: bool
    ) -> tuple[Tensor, UniPC]:
        """Return z at sigma_next and the new memory: one corrector step, then one predictor step.

        last: the final step is of first order.
        """
        clean = z - sigma * velocity
        if self.state is not None:
            z = _Increment(self.state, self.clean, self.sigmas).correct(clean, sigma)
        predictions, sigmas = (clean, *self.clean)[:2], (sigma, *self.sigmas)[:2]
        order = 1 if last else len(predictions)
        return _Increment(z, predictions, sigmas).predict(sigma_next, order), UniPC(
            z, predictions, sigmas
        )

    def to_dict(self) -> dict[str, Tensor]:
        """Return the memory as named tensors, for saving; empty before the first step."""
        import torch

        if self.state is None:
            return {}
        named = {f"clean{i}": clean for i, clean in enumerate(self.clean)}
        sigmas = torch.tensor(self.sigmas, dtype=torch.float64)
        return {"state": self.state, "sigmas": sigmas, **named}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Tensor]) -> UniPC:
        """Return the memory that `to_dict` saved, from a state that may hold other tensors too."""
        if "state" not in saved:
            return cls()
        sigmas = tuple(saved["sigmas"].tolist())
        clean = tuple(saved[f"clean{i}"] for i in range(len(sigmas)))
        return cls(saved["state"], clean, sigmas)


@dataclass(frozen=True)
class _Increment:
    """The two halves of a UniPC step from one state."""

    state: Tensor
    clean: tuple[Tensor, ...]
    sigmas: tuple[float, ...]

    def predict(self, sigma: float, order: int) -> Tensor:
        """Return z at sigma by the predictor of the order."""
        (x0, *older), start = self.clean, self.sigmas[0]
        z = self.state + (1 - sigma / start) * (x0 - self.state)
        if order == 2:
            slope = (older[0] - x0) / self._ratio(sigma)
            z = z - (1 - sigma) * _b(start, sigma) * 0.5 * slope
        return z

    def correct(self, clean: Tensor, sigma: float) -> Tensor:
        """Return z at sigma, corrected by the clean latent that was predicted there."""
        (x0, *older), start = self.clean, self.sigmas[0]
        z = self.state + (1 - sigma / start) * (x0 - self.state)
        if not older:
            return z - (1 - sigma) * _b(start, sigma) * 0.5 * (clean - x0)
        ratio, h = self._ratio(sigma), _half_log_snr(sigma) - _half_log_snr(start)
        b1, b2 = _order_conditions(-h)
        # the solution of rho_old + rho_new = b1, ratio rho_old + rho_new = b2
        rho_old = (b1 - b2) / (1 - ratio)
        rho_new = b1 - rho_old
        return z - (1 - sigma) * _b(start, sigma) * (
            rho_old * (older[0] - x0) / ratio + rho_new * (clean - x0)
        )

    def _ratio(self, sigma: float) -> float:
        start = _half_log_snr(self.sigmas[0])
        return (_half_log_snr(self.sigmas[1]) - start) / (_half_log_snr(sigma) - start)


def _half_log_snr(sigma: float) -> float:
    """Return lambda = log((1 - sigma) / sigma): inf at a clean latent, and -inf in pure noise.

    From pure noise every step is UniPC's limit: B is -1. A prediction that was made there says nothing about the slope
    at a later level, so the next step is of first order too.
    """
    if sigma == 0:
        return math.inf
    return -math.inf if sigma == 1 else math.log1p(-sigma) - math.log(sigma)


def _b(start: float, end: float) -> float:
    """Return B(h) = exp(-h) - 1 of the step between two noise levels."""
    return math.expm1(_half_log_snr(start) - _half_log_snr(end))


def _order_conditions(hh: float) -> tuple[float, float]:
    """Return the two right-hand sides of the order conditions, `k! phi_(k+1)(hh) hh / B`."""
    b = math.expm1(hh)
    phi2 = b / hh - 1
    phi3 = phi2 / hh - 0.5
    return phi2 / b, 2 * phi3 / b
