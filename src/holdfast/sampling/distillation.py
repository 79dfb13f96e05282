"""Score distillation: an edit by descent along differences of predicted noise, in place of a walk down the levels.

At each iteration one level is drawn and one noise, the same in both branches, and the latent takes one step of plain
gradient descent. `Descent` holds the settings that the methods share; noise is predicted through the velocity
(diffusion.predicted_noise), so that a rectified flow descends as a noise predictor does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

from ..base.errors import UserError
from ..base.schema import (
    Guidance,
    Iterations,
    LevelGrid,
    Number,
    Range,
    Share,
    Shift,
    Timesteps,
    check,
    setting,
)
from . import maths
from .field import EditInputs, Step, VelocityField, Whole, remaining_steps

SCHEDULE_STEPS = 1000  # that `low` and `high` count in, whatever the model's own time


@dataclass(frozen=True)
class DistillationConfig:
    """The values of DDS's authors (arXiv:2304.07090) where nothing else is said."""

    steps: Iterations = setting(200, "N, how many the learning rate is meant for")
    strength: Share = setting(1.0, "share of the iterations that are done")
    guidance: Guidance = setting(7.5, "omega, of both branches")
    low: Annotated[int, Range(1, 999)] = setting(
        50, "the lowest level drawn, in thousandths of the grid"
    )
    high: Annotated[int, Range(2, 1000)] = setting(949, "above the highest")
    rate: Number = setting(0.1, "eta, of plain gradient descent")
    scale: Literal["plain", "pixels"] = setting(
        "plain",
        "what the rate multiplies: the gradient as it is, or, as DDS's code has it, "
        "times 2000 / (h w) of the latent",
    )
    shift: Shift = setting(None, "of the grid of levels; None: the backbone's own")
    grid: LevelGrid = setting("own", "of levels, by name")
    timesteps: Timesteps = setting("whole", "what the model is told; the authors draw whole ones")

    def __post_init__(self) -> None:
        check(self)
        if self.low >= self.high:
            raise UserError(f"low is below high = {self.high}, not {self.low}")

    def size(self, z: Tensor) -> float:
        """By what a gradient is multiplied before it is taken from a latent."""
        return self.rate * (2000 / z[0, 0, 0].numel() if self.scale == "pixels" else 1)


@dataclass(frozen=True)
class NoiseSample:
    """What an iteration looks at: one level and one noise for all branches."""

    field: VelocityField
    sigma: float
    eps: Tensor
    guidance: Guidance
    frames: tuple[int, ...] | None = None  # of the clip, that the field is asked about; None: all

    def noise(self, clean: Tensor, condition, side: str) -> Tensor:
        """eps^w, the noise that the model sees in a clean latent b c f h w noised by this draw; of its frames."""
        z = maths.add_noise(self.part(clean), self.sigma, self.eps)
        asked = (self.field, z, self.sigma, condition, side, self.guidance)
        velocity = maths.guided_velocity(*asked, frames=self.frames)
        return maths.predict_noise(z, self.sigma, velocity).contiguous()

    def part(self, z: Tensor) -> Tensor:
        return z if self.frames is None else z[:, :, list(self.frames)]

    def on(self, field: VelocityField, guidance: Guidance, frames: Sequence[int]) -> "NoiseSample":
        """The same level and noise for another field, which is asked about some frames."""
        return NoiseSample(field, self.sigma, self.eps[:, :, list(frames)], guidance, tuple(frames))


def draw_samples(
    field: VelocityField, given: EditInputs, cfg: DistillationConfig, start: Step | None
) -> Iterator[tuple[int, NoiseSample]]:
    """The iterations that are left, each with what it looks at."""
    source = given.source
    levels = field.sigmas(SCHEDULE_STEPS, cfg.shift, cfg.grid, source.shape[2:])
    told = Whole(field) if cfg.timesteps == "whole" else field
    for i in remaining_steps(start, "edit", cfg.steps - round(cfg.strength * cfg.steps), cfg.steps):
        sigma = levels[SCHEDULE_STEPS - maths.keyed_integer(given.seed, i, cfg.low, cfg.high)]
        eps = maths.keyed_noise(source, given.seed, i)
        yield i, NoiseSample(told, sigma, eps, cfg.guidance)
