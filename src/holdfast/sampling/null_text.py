"""Null-text inversion (arXiv:2211.09794): the negative embedding, fitted so that guidance repeats an inversion.

At sampling step i, from the guided latent x at level t to the level t-:
    e_i = argmin |x- (x, e) - x*-|^2 / n,   x- (x, e) = the DDIM step along  v(x, e) + w (v(x, prompt) - v(x, e))

x*- is the inverted latent of level t-. Adam starts at e_{i-1} with the learning rate 1e-2 (1 - i / 100), and ends when
the error is below 1e-5 + 2e-5 i. Each frame has an embedding of its own, or all share one (Video-P2P,
arXiv:2303.04761). Frames are evaluated one after another: the gradient needs the memory of one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .ddim import scale_of
from .field import VelocityField

if TYPE_CHECKING:
    from torch import Tensor

LEARNING_RATE, DECAY = 1e-2, 100
ERROR, ERROR_PER_STEP = 1e-5, 2e-5


@dataclass(frozen=True)
class NullTextStep:
    """A sampling step whose embedding is fitted. number: i, from 0 on; guidance_scale: w."""

    z: Tensor  # 1 c f h w: the guided latent
    wanted: Tensor  # 1 c f h w: the inverted latent of the next level
    sigma: float
    sigma_next: float
    number: int
    guidance_scale: float

    @property
    def learning_rate(self) -> float:
        return LEARNING_RATE * (1 - self.number / DECAY)

    @property
    def largest_error(self) -> float:
        return ERROR + ERROR_PER_STEP * self.number


def begin_embedding(conditioning: Any, frames: int, is_shared: bool) -> Tensor:
    """Return the embedding that the first step starts at, of each frame `f L d` or `1 L d`."""
    value = conditioning.negative.float()
    return value.clone() if is_shared else value.repeat(frames, 1, 1)


def with_embedding(conditioning: Any, embedding: Tensor) -> Any:
    """Return a conditioning with an embedding as its negative prompt."""
    return replace(conditioning, negative=embedding, origin=conditioning.negative)


def fit_embedding(
    field: VelocityField, conditioning: Any, step: NullTextStep, embedding: Tensor, iterations: int
) -> Tensor:
    """Return the embedding of a step, of the shape of the one that it starts at. It takes at most `iterations`."""
    import torch

    if not iterations:
        return embedding
    leaf = embedding.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([leaf], lr=step.learning_rate)
    fitted = with_embedding(conditioning, leaf)
    with torch.no_grad():
        positive = field.velocity(step.z, step.sigma, conditioning, branch="src+")
    open_frames = list(range(step.z.shape[2]))
    for _ in range(iterations):
        before = leaf.detach().clone()
        errors, leaf.grad = _differentiate(field, fitted, leaf, positive, step, open_frames)
        optimizer.step()
        with torch.no_grad():
            _restore_others(leaf, before, open_frames)
        open_frames = _find_open(errors, step.largest_error, is_shared=len(leaf) == 1)
        if not open_frames:
            break
    return leaf.detach()


def _differentiate(
    field: VelocityField,
    fitted: Any,
    leaf: Tensor,
    positive: Tensor,
    step: NullTextStep,
    frames: Sequence[int],
) -> tuple[dict[int, float], Tensor]:
    """Return the error of each frame, and the gradient in the embedding: of the mean where frames share it."""
    import torch

    errors: dict[int, float] = {}
    total = torch.zeros_like(leaf)
    share = 1 / len(frames) if len(leaf) == 1 else 1.0
    for frame in frames:
        with torch.enable_grad():
            error = _frame_error(field, fitted, positive, step, frame)
            (gradient,) = torch.autograd.grad(error, leaf)
        total += share * gradient
        errors[frame] = error.item()
    return errors, total


def _frame_error(
    field: VelocityField, fitted: Any, positive: Tensor, step: NullTextStep, frame: int
) -> Tensor:
    """Return the mean squared error of a frame of x after the guided step."""
    at = slice(frame, frame + 1)
    z = step.z[:, :, at].detach()
    negative = field.velocity(z, step.sigma, fitted, branch="src-", frames=(frame,))
    velocity = negative + step.guidance_scale * (positive[:, :, at] - negative)
    z_next = z + (step.sigma_next - step.sigma) * velocity
    difference = (z_next - step.wanted[:, :, at]) / scale_of(step.sigma_next)
    return difference.square().mean()


def _restore_others(leaf: Tensor, before: Tensor, frames: Sequence[int]) -> None:
    """Undo an update of the frames that are finished: Adam moves them along its moments."""
    if len(leaf) > 1:
        for frame in set(range(len(leaf))) - set(frames):
            leaf[frame] = before[frame]


def _find_open(errors: dict[int, float], largest: float, is_shared: bool) -> list[int]:
    """Return the frames whose embedding is fitted further. errors: of each frame before the update."""
    if is_shared:
        return list(errors) if sum(errors.values()) / len(errors) >= largest else []
    return [frame for frame, error in errors.items() if error >= largest]
