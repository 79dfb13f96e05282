"""Classifier-free guidance: `v = v- + w (v+ - v-)`, with w one number or one per latent frame.

Away from a second prompt as well: `v = v- + w (v+ - v-) + h (v+ - v_other)`.
"""

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
    other, other_scale: a conditioning whose prompt the velocity is led away from too, and h; at 0 it is not evaluated.
    """

    z: Tensor
    conditioning: Any
    side: Side
    guidance_scale: GuidanceScale = 1.0
    region: Tensor | None = None
    other: Any = None
    other_scale: float = 0.0

    def evaluations(self) -> list[Evaluation]:
        """Return the evaluations that the velocity needs: the positive branch, then the negative ones."""
        branches: list[tuple[Branch, Any]] = [(POSITIVE[self.side], self.conditioning)]
        if self._has_negative:
            branches.append((NEGATIVE[self.side], self.conditioning))
        if self.other_scale:
            other = self.conditioning.with_negative_of(self.other)
            branches.append((NEGATIVE[self.side], other))
        return [Evaluation(self.z, given, branch, self.region) for branch, given in branches]

    @property
    def _has_negative(self) -> bool:
        return not (isinstance(self.guidance_scale, (int, float)) and self.guidance_scale == 1)

    def combine(self, velocities: Sequence[Tensor]) -> Tensor:
        """Return `v- + w (v+ - v-) + h (v+ - v_other)` of the velocities of `evaluations()`."""
        positive, *negatives = velocities
        velocity = positive
        if self._has_negative:
            scale = scale_per_frame(self.guidance_scale, self.z)
            velocity = negatives[0] + scale * (positive - negatives[0])
        if self.other_scale:
            velocity = velocity + self.other_scale * (positive - negatives[-1])
        return velocity


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
