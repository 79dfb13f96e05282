"""Classifier-free guidance: `v = v- + w (v+ - v-)`, with w one number or one per latent frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from .field import NEGATIVE, POSITIVE, Branch, Evaluation, Side, VelocityField

if TYPE_CHECKING:
    from torch import Tensor

# A number; or one per frame: a tensor of f numbers, or the first and the last, with even steps between them.
GuidanceScale: TypeAlias = "float | tuple[float, float] | Tensor"


@dataclass(frozen=True)
class GuidedPoint:
    """A latent b c f h w whose guided velocity is wanted. At a guidance scale of 1 the negative is not evaluated.

    region: 1 1 f h w boolean, where it is evaluated; elsewhere it gets the source's velocities. None: everywhere.
    """

    z: Tensor
    conditioning: Any
    side: Side
    guidance_scale: GuidanceScale = 1.0
    region: Tensor | None = None

    def evaluations(self) -> list[Evaluation]:
        """Return the evaluations that the velocity needs: the positive branch, then the negative one."""
        branches: list[Branch] = [POSITIVE[self.side]]
        if not (isinstance(self.guidance_scale, (int, float)) and self.guidance_scale == 1):
            branches.append(NEGATIVE[self.side])
        return [Evaluation(self.z, self.conditioning, branch, self.region) for branch in branches]

    def combine(self, velocities: Sequence[Tensor]) -> Tensor:
        """Return `v- + w (v+ - v-)` of the velocities of `evaluations()`."""
        if len(velocities) == 1:
            return velocities[0]
        positive, negative = velocities
        return negative + scale_per_frame(self.guidance_scale, self.z) * (positive - negative)


def guided_velocities(
    field: VelocityField,
    sigma: float,
    *points: GuidedPoint,
    frames: Sequence[int] | None = None,
) -> list[Tensor]:
    """Return the guided velocity of each point, b c f h w. All their branches are evaluated in one call.

    frames: the latent frames of the clip that the points hold; None: all.
    """
    parts = [point.evaluations() for point in points]
    evaluations = [evaluation for part in parts for evaluation in part]
    velocities = iter(field.velocities(sigma, evaluations, frames))
    return [
        point.combine(list(islice(velocities, len(part))))
        for point, part in zip(points, parts, strict=True)
    ]


def guided_velocity(
    field: VelocityField,
    z: Tensor,
    sigma: float,
    conditioning: Any,
    side: Side,
    guidance_scale: GuidanceScale,
) -> Tensor:
    """Return the guided velocity of one point, b c f h w."""
    point = GuidedPoint(z, conditioning, side, guidance_scale)
    (velocity,) = guided_velocities(field, sigma, point)
    return velocity


def scale_per_frame(scale: GuidanceScale, z: Tensor) -> float | Tensor:
    """Return a guidance scale as it multiplies a latent b c f h w: a number, or a tensor 1 1 f 1 1."""
    import torch

    if isinstance(scale, (int, float)):
        return scale
    if isinstance(scale, tuple):
        scale = torch.linspace(*scale, z.shape[2])
    return scale.to(z).view(1, 1, -1, 1, 1)
