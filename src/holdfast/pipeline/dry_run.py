"""Run an edit without its network, to count the evaluations."""

import torch
from torch import Tensor

from ..models.base import Backbone, BackboneWrapper


class DryRunBackbone(BackboneWrapper):
    """Return zeros for a velocity, except where hooks read the network or a gradient is needed.

    gradient_evaluations: how many evaluations needed a gradient.
    """

    def __init__(self, inner: Backbone):
        super().__init__(inner)
        self.gradient_evaluations = 0

    def velocity(self, z, sigma, condition, *, branch, frames=None) -> Tensor:
        """Return the velocity of an evaluation, or zeros."""
        needs_gradient = torch.is_grad_enabled()
        self.gradient_evaluations += needs_gradient
        hooks = [hooks for hooks in (self.attention_hooks, self.feature_hooks) if hooks]
        if needs_gradient or any(hook.rules for hook in hooks):
            return self.inner.velocity(z, sigma, condition, branch=branch, frames=frames)
        return torch.zeros_like(z)
