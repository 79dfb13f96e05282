"""Score distillation: an edit by gradient descent along differences of predicted noise.

Each iteration draws one noise level and one noise, the same for both branches, and takes one step of plain gradient
descent. The noise is predicted through the velocity, so that a rectified flow descends as a noise predictor does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from ..base.errors import UserError
from ..base.schema import (
    Field,
    Guidance,
    Iterations,
    Number,
    Range,
    Share,
    Timesteps,
    settings_class,
)
from .field import EditInputs, Side, Step, VelocityField, choose_timesteps, remaining_steps
from .guidance import GuidedPoint, guided_velocities
from .noise import add_noise, keyed_integer, keyed_noise, predict_noise
from .settings import SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor

SCHEDULE_STEPS = 1000  # timestep_min and timestep_max count these, whatever the model's own time


@settings_class
class DistillationConfig(SamplingConfig):
    """The settings of score distillation. The defaults are those of DDS's authors (arXiv:2304.07090)."""

    steps: Iterations = Field(
        default=200, description="N, the iterations that the learning rate is meant for"
    )
    strength: Share = Field(default=1.0, description="share of the iterations that are run")
    guidance: Guidance = Field(default=7.5, description="omega, of both branches")
    timestep_min: Annotated[int, Range(1, 999)] = Field(
        default=50, description="lowest timestep that is drawn, of 1000"
    )
    timestep_max: Annotated[int, Range(2, 1000)] = Field(
        default=949, description="end of the timesteps that are drawn, not included"
    )
    learning_rate: Number = Field(default=0.1, description="eta, of plain gradient descent")
    gradient_scale: Literal["plain", "pixels"] = Field(
        default="plain",
        description="what the learning rate multiplies: the gradient, or, as in DDS's code, "
        "the gradient times 2000 / (h w) of the latent",
    )
    timesteps: Timesteps = Field(
        default="whole",
        description="timesteps that the network is given; the authors draw whole numbers",
    )
    expert_block: Annotated[int, Range(1, 10000)] = Field(
        default=50,
        description="iterations whose noise levels are ordered by the expert that evaluates them, for a model with "
        "two of them, since each change moves all weights; 1: the order in which they are drawn",
    )

    def __post_init__(self) -> None:
        if self.timestep_min >= self.timestep_max:
            raise UserError(
                f"timestep_min is {self.timestep_min}, and timestep_max is {self.timestep_max}",
                "choose timestep_min below timestep_max",
            )

    def step_size(self, z: Tensor) -> float:
        """Return the factor of a gradient when it is subtracted from the latent z."""
        cells = z[0, 0, 0].numel()
        return self.learning_rate * (2000 / cells if self.gradient_scale == "pixels" else 1)


class CleanPoint(NamedTuple):
    """A clean latent b c f h w whose noise is to be predicted, with the conditioning of one side.

    region: where it is evaluated, as in GuidedPoint.
    """

    latent: Tensor
    conditioning: Any
    side: Side
    region: Tensor | None = None


@dataclass(frozen=True)
class NoiseSample:
    """The noise level and the noise of one iteration, shared by all branches."""

    field: VelocityField
    sigma: float
    eps: Tensor  # b c f h w
    guidance: Guidance
    frames: tuple[int, ...] | None = None  # the latent frames to evaluate; None: all

    def predict_noise(self, *points: CleanPoint) -> list[Tensor]:
        """Return eps^w of each point: the noise that the model sees after this sample's noise was added.

        All branches are evaluated in one call. b c f h w, of this sample's frames.
        """
        noisy = [add_noise(self._select_frames(p.latent), self.sigma, self.eps) for p in points]
        guided = [
            GuidedPoint(z, p.conditioning, p.side, self.guidance, p.region)
            for z, p in zip(noisy, points, strict=True)
        ]
        velocities = guided_velocities(self.field, self.sigma, *guided, frames=self.frames)
        return [
            predict_noise(z, self.sigma, velocity).contiguous()
            for z, velocity in zip(noisy, velocities, strict=True)
        ]

    def for_model(
        self, field: VelocityField, guidance: Guidance, frames: Sequence[int]
    ) -> NoiseSample:
        """Return the same noise level and noise for another field, on some of the frames."""
        eps = self.eps[:, :, list(frames)]
        return NoiseSample(field, self.sigma, eps, guidance, tuple(frames))

    def _select_frames(self, z: Tensor) -> Tensor:
        return z if self.frames is None else z[:, :, list(self.frames)]


def draw_samples(
    field: VelocityField, inputs: EditInputs, config: DistillationConfig, resume: Step | None
) -> Iterator[tuple[int, NoiseSample]]:
    """Yield the index and the sample of each remaining iteration."""
    x, seed = inputs.latent, inputs.seed
    sigmas = field.sigmas(SCHEDULE_STEPS, config.shift, config.schedule, x.shape[2:])
    field = choose_timesteps(field, config)
    drawn = [
        sigmas[SCHEDULE_STEPS - keyed_integer(seed, i, config.timestep_min, config.timestep_max)]
        for i in range(config.steps)
    ]
    drawn = group_by_expert(drawn, field.expert_boundary, config.expert_block)
    first = config.steps - round(config.strength * config.steps)
    for i in remaining_steps(resume, "edit", first, config.steps):
        yield i, NoiseSample(field, drawn[i], keyed_noise(x, seed, i), config.guidance)


def group_by_expert(sigmas: Sequence[float], boundary: float, size: int) -> list[float]:
    """Return noise levels in blocks of a size, each with the levels of one expert before those of the other.

    Every second block begins with the expert that the block before ended with, so that a block changes the expert once.
    The order is that of `sigmas` for a model with one expert, whose boundary is 0.
    """
    grouped = []
    for number, begin in enumerate(range(0, len(sigmas), size)):
        is_odd = number % 2 == 1
        block = sigmas[begin : begin + size]
        grouped += sorted(block, key=lambda sigma: (sigma < boundary) != is_odd)
    return grouped
