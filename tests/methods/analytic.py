"""A velocity field that is known exactly: data of a prompt is Gaussian with the prompt's mean and a common deviation."""

import torch

from holdfast.diffusion import shifted

DEVIATION = 0.7


class Gaussian:
    """E[noise - clean | z] for clean ~ N(condition, DEVIATION^2). The negative branch is the prompt with mean zero."""

    door = None  # it has no attention

    def __init__(self):
        self.branches = []

    def levels(self, steps, shift=None):
        return shifted(torch.linspace(0.999, 0, steps + 1, dtype=torch.float64), shift or 1.0).tolist()

    def velocity(self, z, sigma, condition, *, branch):
        self.branches.append(branch)
        mean = condition if branch.endswith("+") else 0 * condition
        variance = (1 - sigma) ** 2 * DEVIATION**2 + sigma**2
        residual = (z - (1 - sigma) * mean) / variance
        return sigma * residual - (mean + (1 - sigma) * DEVIATION**2 * residual)


def last(steps):
    for step in steps:  # noqa: B007
        pass
    return step.z
