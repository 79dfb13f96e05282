"""Score distillation smoothed along optical flow: our reading of the abstract of arXiv:2406.04888v3.

D = e(z_t, target) - e(x_t, source)
G = D averaged with its neighbouring frames, warped by the source's flow, where they are visible
M = running mean of where D is large, in [0, 1]
L = mean over frames of 1 - cos(phi_i, mean phi), with phi the clean estimate's mean over space
z <- z - eta { G + preservation 2 (1 - M)(z - x) + consistency dL/dclean }, without the slope of the network
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from ..base.schema import Field, Range, Share, settings_class
from ..sampling.distillation import CleanPoint, DistillationConfig, draw_samples
from ..sampling.field import EditInputs, Step, VelocityField, initial_state
from ..sampling.masking import apply_mask, contrast_map
from ..sampling.noise import add_noise
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.vision.latent_flow import LatentFlow

METHOD = MethodInfo(unused_unless={"map_memory": "preservation"})
Weight = Annotated[float, Range(0, None)]


@settings_class
class Config(DistillationConfig):
    """None of these values is published. They are the ones that measured well (docs/distillation.md)."""

    flow: Annotated[float, Range(0, 0.5)] = Field(
        default=0.165,
        description="weight of the gradient of each of the two neighbouring frames; 0: off",
    )
    preservation: Weight = Field(
        default=0.1, description="weight of the content preservation loss; 0: off"
    )
    map_memory: Share = Field(
        default=0.9, description="share of the map M that an iteration leaves unchanged"
    )
    consistency: Weight = Field(
        default=0.05, description="weight of the global consistency loss; 0: off"
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    x = inputs.latent
    z, state = initial_state(resume, x)
    flow = source_flow(inputs) if config.flow > 0 and x.shape[2] > 1 else None
    change_map = state.get("map")
    for i, sample in draw_samples(field, inputs, config, resume):
        eps_target, eps_source = sample.predict_noise(
            CleanPoint(z, inputs.target, "tgt"), CleanPoint(x, inputs.source, "src")
        )
        change = eps_target - eps_source
        change_map = update_change_map(change_map, change, config.map_memory)
        gradient = smooth_along_flow(change, flow, config.flow) if flow else change
        if config.preservation:
            gradient = gradient + config.preservation * 2 * (1 - change_map) * (z - x)
        if config.consistency:
            z_t = add_noise(z, sample.sigma, sample.eps)
            clean = (z_t - sample.sigma * eps_target) / (1 - sample.sigma)
            gradient = gradient + config.consistency * consistency_gradient(clean)
        z = z - config.step_size(z) * inputs.apply_mask(gradient)
        yield Step("edit", i + 1, config.steps, z, {"map": change_map})


def source_flow(inputs: EditInputs) -> LatentFlow:
    """Return the optical flow of the source, on its latent. An edit keeps this motion, and its own flow is noisier."""
    from ..models.vision.latent_flow import latent_flow

    pixels = inputs.get_pixels()
    return latent_flow(pixels.frames(), pixels.stride).to(inputs.latent)


def smooth_along_flow(change: Tensor, flow: LatentFlow, neighbour_weight: float) -> Tensor:
    """Return each frame of a change b c f h w averaged with its neighbours, warped along the flow where visible.

    The weights are g, 1 - 2 g, g, normalised over what is visible. With g = 1/2 a place can have no weight at all; it
    keeps its own value.
    """
    import torch

    total, weight = (1 - 2 * neighbour_weight) * change, 1 - 2 * neighbour_weight
    for warped, visible in (flow.from_previous(change), flow.from_next(change)):
        total = total + neighbour_weight * apply_mask(visible, warped)
        weight = weight + neighbour_weight * visible
    return torch.where(weight > 0, total / weight, change)


def update_change_map(change_map: Tensor | None, change: Tensor, memory: float) -> Tensor:
    """Return M, b 1 f h w in [0, 1]: the running mean over iterations of where the change is large."""
    now = contrast_map(change, "abs")
    return now if change_map is None else memory * change_map + (1 - memory) * now


def consistency_gradient(clean: Tensor) -> Tensor:
    """Return the gradient of L in the clean estimate b c f h w, times the cells of a frame.

    L measures how far the frames are from their mean.
    """
    import torch
    from torch.nn import functional

    with torch.enable_grad():
        # The last bit of a sum depends on the memory layout of its input, which a resumed run does not restore.
        clean = clean.detach().contiguous().requires_grad_()
        pooled = clean.mean((3, 4)).transpose(1, 2)  # b f c
        mean = pooled.mean(1, keepdim=True)
        loss = (1 - functional.cosine_similarity(pooled, mean, dim=2)).mean()
        return torch.autograd.grad(loss, clean)[0] * clean[0, 0, 0].numel()
