"""A velocity field that is known exactly: data of a prompt is Gaussian with the prompt's mean
and a common deviation.
"""

import functools

import torch

from holdfast.models.base import Conditioning
from holdfast.sampling.field import VelocityField, evaluate_in_turn
from holdfast.sampling.schedules import shift_sigmas

DEVIATION = 0.7
# The settings of methods that edit attention with which they edit none: this field has no layers.
WITHOUT_LAYERS = {
    "cross_replace_steps": 0.0,
    "self_replace_steps": 0.0,
    "frame_attention": "own",
    "local_blend": False,
    "null_text_iterations": 0,
    "feature_share": 0.0,
    "residual_share": 0.0,
    "spatial_share": 0.0,
    "temporal_share": 0.0,
}


def as_field(model):
    """The velocity field of a model that has a velocity, sigmas and hooks; a field is one already."""
    if isinstance(model, VelocityField):
        return model
    names = ("attention_hooks", "feature_hooks", "network", "clean_sigma", "clip_norms")
    names += ("training_sigmas", "prediction")
    known = {name: getattr(model, name) for name in names if hasattr(model, name)}
    evaluate = functools.partial(evaluate_in_turn, model.velocity)
    return VelocityField(evaluate, model.sigmas, model.snap_timestep, **known)


class Gaussian:
    """E[noise - clean | z] for clean ~ N(mean, DEVIATION^2); a condition's halves are the means."""

    attention_hooks = feature_hooks = network = None  # it has no layers

    def __init__(self):
        self.branches, self.told = [], []

    def sigmas(self, steps, shift=None, schedule="native", shape=None):
        even = torch.linspace(0.999, 0, steps + 1, dtype=torch.float64)
        return shift_sigmas(even, shift or 1.0).tolist()

    def snap_timestep(self, sigma):
        return int(1000 * sigma) / 1000

    def velocity(self, z, sigma, condition, *, branch, frames=None, network_sigma=None):
        self.branches.append(branch)
        self.told.append(sigma)
        mean = condition.for_branch(branch)
        mean = mean if frames is None else mean[:, :, list(frames)]
        variance = (1 - sigma) ** 2 * DEVIATION**2 + sigma**2
        residual = (z - (1 - sigma) * mean) / variance
        return sigma * residual - (mean + (1 - sigma) * DEVIATION**2 * residual)


def about(mean):
    """The condition of a prompt whose clips have this mean; the negative prompt's is zero."""
    return Conditioning(mean, 0 * mean)


def last(steps):
    for step in steps:  # noqa: B007
        pass
    return step.z
