"""Run an edit without its network, to count the evaluations."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.base import Backbone, BackboneWrapper
from ..sampling.field import Evaluation


class DryRunBackbone(BackboneWrapper):
    """Return zeros for a velocity, except where hooks read the network or a gradient is needed.

    gradient_evaluations: how many evaluations needed a gradient.
    """

    def __init__(self, inner: Backbone):
        super().__init__(inner)
        self.gradient_evaluations = 0

    def velocities(
        self, sigma: float, evaluations: Sequence[Evaluation], frames: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the velocity of each evaluation, or zeros."""
        needs_gradient = torch.is_grad_enabled()
        self.gradient_evaluations += needs_gradient * len(evaluations)
        hooks = [hooks for hooks in (self.attention_hooks, self.feature_hooks) if hooks]
        if needs_gradient or any(hook.rules for hook in hooks):
            return self.inner.velocities(sigma, evaluations, frames)
        return [torch.zeros_like(evaluation.z) for evaluation in evaluations]
