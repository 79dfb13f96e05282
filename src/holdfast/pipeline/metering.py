"""Observers of a velocity field: how often it is evaluated, and how the edited clip looks while it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..models.base import Conditioning
from ..sampling.field import Evaluation, Step, VelocityField

if TYPE_CHECKING:
    from torch import Tensor


class EvaluationMeter:
    """Counts the evaluations of a field, and remembers the conditionings that they used.

    evaluations: those that ran the network. dense_equivalents: what they cost, in evaluations of the whole latent.
    """

    def __init__(self) -> None:
        self.evaluations, self.dense_equivalents = 0, 0.0
        self._used: list[Any] = []  # the objects themselves: an id may be used again

    def wrap(self, field: VelocityField) -> VelocityField:
        """Return a field that counts its evaluations here."""

        def velocities(
            sigma: float, evaluations: Sequence[Evaluation], frames: Sequence[int] | None = None
        ) -> list[Tensor]:
            # Before the call: a method may stop the network when it has run the layers that it reads.
            costs = field.costs(evaluations)
            self.evaluations += sum(cost > 0 for cost in costs)
            self.dense_equivalents += sum(costs)
            for evaluation in evaluations:
                self._remember(evaluation)
            return field.velocities(sigma, evaluations, frames)

        return replace(field, velocities=velocities)

    def was_used(self, embedding: Any) -> bool:
        """Return whether one side of a conditioning, positive or negative, was used by an evaluation."""
        return any(used is embedding for used in self._used)

    def _remember(self, evaluation: Evaluation) -> None:
        conditioning = evaluation.conditioning
        if not isinstance(conditioning, Conditioning):
            return
        embedding = conditioning.for_branch(evaluation.branch)
        if embedding is conditioning.negative and conditioning.origin is not None:
            embedding = conditioning.origin  # many are fitted from one
        if embedding is not None and not self.was_used(embedding):
            self._used.append(embedding)


class LivePreview:
    """The edited clip as the last evaluations of the target predict it, 1 c f h w: `z - sigma velocity`.

    A method that edits a long clip in segments evaluates one segment at a time; its steps say which.
    """

    def __init__(self, source: Tensor) -> None:
        self.clean = self._segment = source

    def wrap(self, field: VelocityField) -> VelocityField:
        """Return a field whose evaluations update the preview."""

        def velocities(
            sigma: float, evaluations: Sequence[Evaluation], frames: Sequence[int] | None = None
        ) -> list[Tensor]:
            found = field.velocities(sigma, evaluations, frames)
            for evaluation, velocity in zip(evaluations, found, strict=True):
                if evaluation.branch == "tgt+":
                    self._update(evaluation.z[:1] - sigma * velocity[:1], frames)
            return found

        return replace(field, velocities=velocities)

    def after(self, step: Step) -> Tensor:
        """Return the whole clip after a step: the method's own preview, if it makes one.

        Outside the step's segment it is what is edited so far.
        """
        if step.preview is not None:
            return step.preview
        if step.segment is None:
            return self.clean
        begin, end = step.segment
        if step.stage != "edit":
            return step.z
        import torch

        segment = self._segment[:, :, begin - end :]
        return torch.cat((step.z[:, :, :begin], segment, step.z[:, :, end:]), 2)

    def _update(self, clean: Tensor, frames: Sequence[int] | None) -> None:
        import torch

        clean = self._segment = clean.detach().to(self.clean)
        if clean.shape == self.clean.shape:
            self.clean = clean
        elif frames is not None:
            at = torch.as_tensor(frames, device=clean.device)
            self.clean = self.clean.index_copy(2, at, clean)
