"""Variance-preserving noise schedules as a velocity field uses them, from the configuration of a diffusers scheduler.

Noise levels and timesteps are float64 on the CPU. A level rounded to float32 would return as a timestep just below a
whole one, and rounding that down loses a whole timestep.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UserError
from ..sampling.field import Prediction
from ..sampling.schedules import shift_sigmas
from .scheduler_settings import check_betas, fill_defaults
from .spec import NOISE_SCHEDULES, check_schedule

ROUNDING = 1e-6  # of a timestep: far above float64's error, far below the distance of two levels
SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "v_prediction")
PURE_NOISE = "this model predicts nothing from pure noise: its noise levels are below 1"


@dataclass(frozen=True)
class NoiseSchedule:
    """A variance-preserving noise schedule. With `x = a clean + s noise`, `a^2 + s^2 = 1`."""

    ratios: np.ndarray  # s / a at each whole timestep, rising, float64; the last may be infinite
    prediction: Prediction = "epsilon"  # or v_prediction
    offset: int = 1
    spacing: str = "leading"  # of the scheduler's own timesteps
    ends_clean: bool = True  # whether its DDIM ends at a clean latent, or at that of timestep 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """Read a diffusers configuration, with its class's defaults. Raise UserError for an unknown kind."""
        # Diffusers' Stable Diffusion pipeline replaces 0, the default of the classes, by 1.
        offset = config.get("steps_offset") or 1
        config = fill_defaults(config)
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in PREDICTIONS:
            raise UserError(
                f"the scheduler's prediction_type {prediction!r} is not supported; "
                f"{' and '.join(PREDICTIONS)} are"
            )
        spacing = config.get("timestep_spacing", "leading")
        if spacing not in SPACINGS:
            raise UserError(
                f"the scheduler's timestep_spacing {spacing!r} is not supported; "
                f"{', '.join(SPACINGS)} are"
            )
        check_betas(config)
        signal = _signal_shares(config)
        with np.errstate(divide="ignore"):
            ratios = np.sqrt((1 - signal) / signal)
        return cls(ratios, prediction, offset, spacing, bool(config.get("set_alpha_to_one", True)))

    @property
    def last_timestep(self) -> int:
        """The noisiest timestep that is used. In pure noise, a prediction of the noise says nothing of the clip."""
        ends_pure = self.prediction == "epsilon" and math.isinf(self.ratios[-1])
        return len(self.ratios) - (2 if ends_pure else 1)

    @property
    def clean_sigma(self) -> float:
        """The noise level that the scheduler's own DDIM gives a clean latent (its `final_alpha_cumprod`)."""
        return 0.0 if self.ends_clean else self.sigma_at(0)

    def sigma_at(self, timestep: float) -> float:
        """Return sigma = s / (a + s) of a timestep. Between whole ones, log(s / a) is interpolated linearly."""
        ratio = math.exp(np.interp(timestep, np.arange(len(self.ratios)), np.log(self.ratios)))
        return 1.0 if math.isinf(ratio) else ratio / (1 + ratio)

    def training_sigmas(self) -> list[float]:
        """Return the noise levels of all timesteps that are used, from clean to noisy."""
        ratios = self.ratios[: self.last_timestep + 1]
        return (1 - 1 / (1 + ratios)).tolist()  # r / (1 + r), and 1 where r is infinite

    def timestep_at(self, sigma: float) -> float:
        """Return the timestep of a noise level: the inverse of `sigma_at`, exact at whole timesteps.

        The result stays within the timesteps that the model was trained at.
        """
        if sigma <= 0:
            return 0.0
        if sigma >= 1:
            return float(self.last_timestep)
        ratio = math.log(sigma / (1 - sigma))
        found = float(np.interp(ratio, np.log(self.ratios), np.arange(len(self.ratios))))
        nearest = round(found)
        return float(nearest) if abs(found - nearest) < ROUNDING else found

    def snap_timestep(self, sigma: float) -> float:
        """Return the noise level of the whole timestep at or below that of sigma."""
        return self.sigma_at(math.floor(self.timestep_at(sigma))) if sigma > 0 else 0.0

    def sigmas(self, steps: int, shift: float | None, schedule: str) -> list[float]:
        """Return `steps + 1` noise levels, from noisy to 0.

        schedule: "native" for the scheduler's own timesteps, or "ddim" for timesteps at equal distances from the first
        (which diffusers calls leading). Levels that a shift lifts above the model's noisiest one are spread evenly
        between that and the first level below: a solver of several steps divides by their distance.
        """
        check_schedule(schedule, NOISE_SCHEDULES)
        count = len(self.ratios)
        if steps > count:
            raise UserError(f"steps is at most {count} for this model, not {steps}")
        spacing = self.spacing if schedule == "native" else "leading"
        timesteps = np.minimum(self._timesteps(steps, spacing), self.last_timestep)
        levels = torch.tensor([*map(self.sigma_at, timesteps), 0.0], dtype=torch.float64)
        if shift is not None:
            levels = self._limit(shift_sigmas(levels, shift))
        return levels.tolist()

    def _limit(self, levels: Tensor) -> Tensor:
        """Spread the levels above the model's noisiest one between that and the first level below."""
        top = self.sigma_at(self.last_timestep)
        above = int((levels > top).sum())
        spread = torch.linspace(top, levels[above].item(), above + 1, dtype=torch.float64)
        levels[:above] = spread[:-1]
        return levels

    def _timesteps(self, steps: int, spacing: str) -> np.ndarray:
        """Return whole timesteps from noisy to clean, as diffusers' DDIM has them."""
        count = len(self.ratios)
        if spacing == "trailing":
            return np.round(count - np.arange(steps) * (count / steps)) - 1
        if spacing == "linspace":
            return np.linspace(0, count - 1, steps).round()[::-1]
        return np.arange(steps)[::-1] * (count // steps) + self.offset

    def velocity(
        self,
        predict: Callable[[Tensor, float], Tensor],
        z: Tensor,
        sigma: float,
        network_sigma: float | None = None,
    ) -> Tensor:
        """Return the velocity `noise - clean` at z.

        predict(x, timestep): the network's prediction at x = (a + s) z. network_sigma: the noise level whose timestep
        it is given; None: sigma. Raise UserError for pure noise.
        """
        scale = math.hypot(1 - sigma, sigma)
        a, s = (1 - sigma) / scale, sigma / scale
        if a == 0 and self.prediction == "epsilon":
            raise UserError(PURE_NOISE)
        x = z * (a + s)
        timestep = self.timestep_at(sigma if network_sigma is None else network_sigma)
        prediction = predict(x, timestep)
        if self.prediction == "v_prediction":
            noise, clean = s * x + a * prediction, a * x - s * prediction
        else:
            noise, clean = prediction, (x - s * prediction) / a
        return noise - clean


def _signal_shares(config: Mapping[str, Any]) -> np.ndarray:
    """Return a^2 at each timestep, float64. It ends at 0 if the schedule is rescaled to end in pure noise."""
    shares = np.cumprod(1 - _betas(config))
    if not config.get("rescale_betas_zero_snr"):
        return shares
    root = np.sqrt(shares)  # Lin et al., arXiv:2305.08891, Algorithm 1
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def _betas(config: Mapping[str, Any]) -> np.ndarray:
    if "trained_betas" in config:
        betas = np.asarray(config["trained_betas"], dtype=np.float64)
        if betas.ndim != 1 or not len(betas) or not ((betas > 0) & (betas < 1)).all():
            raise UserError("the scheduler's trained_betas are not numbers between 0 and 1")
        return betas
    count = config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 0.00085), config.get("beta_end", 0.012)
    kind = config.get("beta_schedule", "scaled_linear")
    if kind == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, count) ** 2
    if kind == "linear":
        return np.linspace(start, end, count)
    raise UserError(
        f"the scheduler's beta_schedule {kind!r} is not supported; scaled_linear and linear are"
    )
