"""Variance-preserving noise schedules as a velocity field sees them, from the configuration of a diffusers scheduler.

Levels and timesteps are float64 on the host: a level rounded to float32 comes back as a timestep just below the whole
one, and cutting it loses a whole timestep.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UserError
from ..sampling.maths import shifted
from .scheduler_settings import check_betas, complete
from .spec import LEVELS_OF_NOISE

ROUNDING = 1e-6  # of a timestep: far above what float64 loses, far below what separates two levels
SPACINGS = ("leading", "trailing", "linspace")


@dataclass(frozen=True)
class Schedule:
    """A variance-preserving noise schedule, read from a scheduler's configuration."""

    ratios: np.ndarray  # s / a at each whole timestep, rising, float64; the last may be infinite
    prediction: str = "epsilon"  # or v_prediction
    offset: int = 1
    spacing: str = "leading"  # how the scheduler itself spaces its timesteps

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Schedule":
        """Read diffusers' configuration, with its class's defaults. Raise UserError for a kind that is not known."""
        # Diffusers' Stable Diffusion pipeline replaces 0, the default of the classes, by 1.
        offset = config.get("steps_offset") or 1
        config = complete(config)
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction"):
            raise UserError(
                f"a model that predicts {prediction!r} is not known; epsilon or v_prediction"
            )
        spacing = config.get("timestep_spacing", "leading")
        if spacing not in SPACINGS:
            known = ", ".join(SPACINGS)
            raise UserError(f"timesteps spaced by {spacing!r} are not known; there are: {known}")
        check_betas(config)
        kept = _kept_signal(config)
        with np.errstate(divide="ignore"):
            ratios = np.sqrt((1 - kept) / kept)
        return cls(ratios, prediction, offset, spacing)

    @property
    def last(self) -> int:
        """The noisiest timestep that says anything: in pure noise a predicted noise tells nothing of the clip."""
        pure = self.prediction == "epsilon" and math.isinf(self.ratios[-1])
        return len(self.ratios) - (2 if pure else 1)

    def level(self, timestep: float) -> float:
        """sigma = s / (a + s) of a timestep; between whole ones log(s / a) is taken evenly."""
        ratio = math.exp(np.interp(timestep, np.arange(len(self.ratios)), np.log(self.ratios)))
        return 1.0 if math.isinf(ratio) else ratio / (1 + ratio)

    def timestep(self, sigma: float) -> float:
        """The inverse of `level`, exact at whole timesteps, within those that the model was trained at."""
        if sigma <= 0:
            return 0.0
        if sigma >= 1:
            return float(self.last)
        ratio = math.log(sigma / (1 - sigma))
        found = float(np.interp(ratio, np.log(self.ratios), np.arange(len(self.ratios))))
        nearest = round(found)
        return float(nearest) if abs(found - nearest) < ROUNDING else found

    def whole(self, sigma: float) -> float:
        """The level of the whole timestep at or below that of sigma."""
        return self.level(math.floor(self.timestep(sigma))) if sigma > 0 else 0.0

    def levels(self, steps: int, shift: float | None, grid: str) -> list[float]:
        """The levels of the scheduler's own timesteps ("own"), or of every so many from the first on ("ddim", which
        diffusers calls leading), then 0.

        What a shift lifts above the model's noisiest level is spread between that and the first level below: a solver
        of several steps divides by their length.
        """
        if grid not in LEVELS_OF_NOISE:
            known = ", ".join(LEVELS_OF_NOISE)
            raise UserError(f"this model has no grid of levels called {grid!r}; there are: {known}")
        count = len(self.ratios)
        if steps > count:
            raise UserError(f"steps is at most {count} for this model, not {steps}")
        spacing = self.spacing if grid == "own" else "leading"
        timesteps = np.minimum(self._timesteps(steps, spacing), self.last)
        found = torch.tensor([*map(self.level, timesteps), 0.0], dtype=torch.float64)
        if shift is not None:
            found, top = shifted(found, shift), self.level(self.last)
            above = int((found > top).sum())
            found[:above] = torch.linspace(
                top, found[above].item(), above + 1, dtype=torch.float64
            )[:-1]
        return found.tolist()

    def _timesteps(self, steps: int, spacing: str) -> np.ndarray:
        """Whole timesteps from noisy to clean, as diffusers' DDIM has them."""
        count = len(self.ratios)
        if spacing == "trailing":
            return np.round(count - np.arange(steps) * (count / steps)) - 1
        if spacing == "linspace":
            return np.linspace(0, count - 1, steps).round()[::-1]
        return np.arange(steps)[::-1] * (count // steps) + self.offset

    def velocity(self, predict, z: Tensor, sigma: float) -> Tensor:
        """noise - clean at z. predict(x, timestep): what the network says of x = (a + s) z."""
        scale = math.hypot(1 - sigma, sigma)
        a, s = (1 - sigma) / scale, sigma / scale
        if a == 0 and self.prediction == "epsilon":
            raise UserError("pure noise says nothing to this model: its levels lie below 1")
        x = z * (a + s)
        found = predict(x, self.timestep(sigma))
        if self.prediction == "v_prediction":
            noise, clean = s * x + a * found, a * x - s * found
        else:
            noise, clean = found, (x - s * found) / a
        return noise - clean


def _kept_signal(config: Mapping[str, Any]) -> np.ndarray:
    """a^2 at each timestep, float64, 0 at the last where the schedule is rescaled to end in pure noise."""
    kept = np.cumprod(1 - _betas(config))
    if not config.get("rescale_betas_zero_snr"):
        return kept
    root = np.sqrt(kept)  # Lin et al., arXiv:2305.08891, Algorithm 1
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def _betas(config: Mapping[str, Any]) -> np.ndarray:
    if "trained_betas" in config:
        betas = np.asarray(config["trained_betas"], dtype=np.float64)
        if betas.ndim != 1 or not len(betas) or not ((betas > 0) & (betas < 1)).all():
            raise UserError("trained_betas of the scheduler are not numbers between 0 and 1")
        return betas
    count = config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 0.00085), config.get("beta_end", 0.012)
    kind = config.get("beta_schedule", "scaled_linear")
    if kind == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, count) ** 2
    if kind == "linear":
        return np.linspace(start, end, count)
    raise UserError(f"a schedule of betas called {kind!r} is not known; scaled_linear or linear")
