"""Score distillation smoothed along optical flow: our reading of the abstract of arXiv:2406.04888v3.

D = e(z_t, target) - e(x_t, source)
G = D averaged with its neighbouring frames, warped by the source's flow, where they are visible
M = running mean of where D is large, in [0, 1]
d_i = phi_i(z_t) - phi_i(x_t), with phi_i the features of frame i in the middle of the network, as means over space
L = mean_i |d_i - mean d|^2 / mean_i |phi_i(x_t)|^2: the edit means the same in every frame
z <- z - eta { G + preservation 2 (1 - M)(z - x) + consistency dL/dz }
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from ..base.notices import warn_user
from ..base.schema import Field, Range, Share, settings_class
from ..models import feature_hooks
from ..sampling.distillation import CleanPoint, DistillationConfig, NoiseSample, draw_samples
from ..sampling.field import EditInputs, Step, VelocityField, initial_state
from ..sampling.masking import apply_mask, contrast_map
from ..sampling.noise import add_noise
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention.hooks import Layer
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
        default=0.0,
        description="weight of the global consistency loss, such as 150; 0: off. It takes two more evaluations, one of "
        "them with its gradient",
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    x = inputs.latent
    if config.consistency and field.feature_hooks is None:
        warn_user(
            "this model has no feature hooks: flowdistill runs without its global consistency"
        )
        config = replace(config, consistency=0.0)
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
            gradient = gradient + config.consistency * consistency_gradient(sample, z, inputs)
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


def consistency_gradient(sample: NoiseSample, z: Tensor, inputs: EditInputs) -> Tensor:
    """Return the gradient of L in the latent z b c f h w, times the cells of a frame.

    L compares what the edit changed in each frame's features. Equal latents have no change, and so no gradient.
    """
    import torch

    source = frame_features(sample, inputs.latent, inputs.target)
    with torch.enable_grad():
        # The last bit of a sum depends on the memory layout of its input, which a resumed run does not restore.
        z = z.detach().contiguous().requires_grad_()
        loss = feature_spread(frame_features(sample, z, inputs.target), source)
        return torch.autograd.grad(loss, z)[0] * z[0, 0, 0].numel()


def feature_spread(edited: Tensor, source: Tensor) -> Tensor:
    """Return L of the features of both clips, b c f."""
    change = edited - source
    spread = (change - change.mean(2, keepdim=True)).square().sum(1).mean()
    return spread / source.square().sum(1).mean()


def frame_features(sample: NoiseSample, clean: Tensor, conditioning: Any) -> Tensor:
    """Return phi of a clean latent, b c f: the middle layer's features, as means over space.

    Both clips get the target's prompt, because the features depend on it.
    """
    import torch

    field, noisy = sample.field, add_noise(clean, sample.sigma, sample.eps)
    path = find_middle_layer(field)

    def pool(layer: Layer, x: Tensor) -> Tensor:
        return x.mean((3, 4))

    with feature_hooks.record(field, lambda layer: layer.path == path, pool) as found:
        field.velocity(noisy, sample.sigma, conditioning, branch="tgt+")
    return torch.cat(
        list(found.values()), 2
    )  # a network of images or windows runs in several calls


def find_middle_layer(field: VelocityField) -> str:
    """Return the path of the last residual block in the middle of a U-Net, or of a transformer's middle block."""
    assert field.feature_hooks is not None
    layers = [layer for layer in field.feature_hooks.layers if layer.kind == "residual"]
    middle = [layer for layer in layers if layer.section == "mid"]
    return (middle[-1] if middle else layers[len(layers) // 2]).path
