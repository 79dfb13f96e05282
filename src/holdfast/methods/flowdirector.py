"""FlowDirector (arXiv:2506.05046): FlowEdit within the places where both prompts' edit words attend.

dV_a = V(z + x_a - x, target) - V(x_a, source), for several noises a
V = mean_a dV_a, sharpened by differential averaging guidance
z <- z + (sigma' - sigma) W V, with W from cross-attention: 1 inside its mask, exp(-decay distance) outside
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..base.errors import UserError
from ..base.notices import warn_user
from ..base.schema import (
    Count,
    Field,
    Guidance,
    Number,
    Share,
    Shift,
    Steps,
    Timesteps,
    settings_class,
)
from ..sampling.field import (
    EditInputs,
    Side,
    Step,
    VelocityField,
    initial_state,
    remaining_steps,
)
from ..sampling.guidance import GuidedPoint, guided_velocities
from ..sampling.guidance_schedule import GuidedConfig, begin_guided
from ..sampling.masking import apply_mask
from ..sampling.noise import add_noise, keyed_noise
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention import Layer

METHOD = MethodInfo(
    requires=frozenset({"text_attention"}),
    unused_unless={"n_worst": "averaging=published", "omega": "averaging=published"},
)
Heat: TypeAlias = "dict[Layer, Tensor]"


@settings_class
class Config(GuidedConfig):
    """The values of the authors' script for Wan2.1 1.3B."""

    strength: Share = Field(
        default=0.8, description="n_max / T: the share of the schedule that is run; 40 of 50"
    )
    n_avg: Steps = Field(default=4, description="number of noises per step")
    averaging: Literal["published", "released"] = Field(
        default="published",
        description="away from the worst flows; or the code's form, which corrects exactly nothing",
    )
    n_worst: Count = Field(default=2, description="K: number of flows in the worse average")
    omega: Number = Field(default=2.75, description="omega: distance from the worse average")
    depth: Share = Field(
        default=0.6,
        description="layer whose attention is read, as a share of the depth: the 18th of 30",
    )
    pool_size: Steps = Field(
        default=11,
        description="side of the average pooling before the threshold, in latent cells of a 60 x 104 frame; "
        "scaled to the frame",
    )
    decay: Number = Field(default=0.25, description="decay per latent cell outside the mask")
    source_guidance: Guidance = Field(
        default=3.5, description="guidance scale of the source prompt"
    )
    target_guidance: Guidance = Field(
        default=10.5, description="guidance scale of the target prompt"
    )
    shift: Shift = Field(
        default=None,
        description="shift of the noise schedule; the authors' is 12; none: the backbone's own",
    )
    timesteps: Timesteps = Field(
        default="whole",
        description="timesteps that the network is given; the authors' are whole numbers, and so are the noise "
        "levels of the steps",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.averaging == "published" and self.n_avg > 1 and not 0 < self.n_worst < self.n_avg:
            raise UserError(
                f"n_worst is {self.n_worst}, and n_avg is {self.n_avg}",
                f"choose n_worst between 1 and n_avg - 1 = {self.n_avg - 1}",
            )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    sampler = begin_guided(field, inputs, config, resume)
    sigmas, first = sampler.sigmas, sampler.first_step
    if config.timesteps == "whole":
        sigmas = [field.snap_timestep(sigma) for sigma in sigmas]
    x = inputs.latent
    has_words = bool(inputs.source.edit_tokens or inputs.target.edit_tokens)
    if not has_words:
        warn_user(
            "no word drives the edit, so nothing limits its place: the whole frame may change"
        )
    z, _ = initial_state(resume, x)
    for i in remaining_steps(resume, "edit", first, config.steps):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        flows, mask = [], x.new_zeros(x[:, :1].shape)
        for a in range(config.n_avg):
            x_sigma = add_noise(x, sigma, keyed_noise(x, inputs.seed, i, a))
            z_sigma = x_sigma + (z - x)
            points = (
                GuidedPoint(x_sigma, inputs.source, "src", config.source_guidance),
                GuidedPoint(z_sigma, inputs.target, "tgt", config.target_guidance),
            )
            (v_source, v_target), attended = evaluate_with_attention(
                sampler.field, sigma, points, config
            )
            flows.append(v_target - v_source)
            mask = mask.maximum(attended)
        change = average_differentially(flows, config)
        if has_words:
            change = apply_mask(fade_outwards(mask, config.decay), change)
        z = z + (sigma_next - sigma) * inputs.apply_mask(change)
        yield Step("edit", i + 1, config.steps, z, sampler.state())


def evaluate_with_attention(
    field: VelocityField, sigma: float, points: Sequence[GuidedPoint], config: Config
) -> tuple[list[Tensor], Tensor]:
    """Return the guided velocity of each point, and where the words of any of them attend: 1 1 f h w, 0 or 1."""
    from ..models.attention import maps

    with contextlib.ExitStack() as stack:
        heats = [
            stack.enter_context(record_heat(field, point.conditioning, point.side, config.depth))
            for point in points
            if point.conditioning.edit_tokens
        ]
        velocities = guided_velocities(field, sigma, *points)
    z = points[0].z
    mask = z.new_zeros(z[:, :1].shape)
    for heat in heats:
        whole = maps.merge_windows(heat)
        mask = mask.maximum(threshold_heat(whole, z.shape[2:], config.pool_size))
    return velocities, mask


def record_heat(
    field: VelocityField, conditioning: Any, side: Side, depth: float
) -> contextlib.AbstractContextManager[Heat]:
    """Collect how much each place attends to the conditioning's words, in the positive evaluations of a side."""
    from ..models import attention
    from ..models.attention import maps

    path = find_layer(field, depth)

    def is_read(layer: Layer) -> bool:
        return layer.path == path and layer.branch == f"{side}+"

    return attention.record(field, is_read, maps.token_heatmap(conditioning.edit_tokens))


def find_layer(field: VelocityField, depth: float) -> str:
    """Return the path of the cross-attention layer at a share of the network's depth."""
    layers = field.get_attention_hooks().layers
    paths = [layer.path for layer in layers if layer.kind == "cross" and layer.axis != "temporal"]
    return paths[min(round(depth * len(paths)), len(paths) - 1)]


def threshold_heat(heat: Tensor, size: Sequence[int], pool_size: int) -> Tensor:
    """Return a map of attention, 1 1 f h w, as a mask of a latent's size f h w, 0 or 1.

    The map is smoothed by average pooling. The threshold is the mean of the map before that.
    """
    from torch.nn import functional

    heat = functional.interpolate(heat, size=tuple(size), mode="nearest")
    side = max(1, round(pool_size * min(size[1:]) / 60) // 2 * 2 + 1)  # odd
    frames = heat[0].transpose(0, 1)  # f 1 h w
    pooled = functional.avg_pool2d(frames, side, stride=1, padding=side // 2)
    return (pooled.transpose(0, 1)[None] > heat.mean()).to(heat)


def average_differentially(flows: Sequence[Tensor], config: Config) -> Tensor:
    """Return differential averaging guidance of flows b c f h w: mean + omega (mean - worse).

    worse: the mean of the K flows that are least like the mean. The released form is mean + (omega - 1) times the mean
    over all K-subsets of (mean - the subset's mean), which is zero by algebra.
    """
    import torch

    mean = torch.stack(list(flows)).mean(0)
    if config.averaging == "released" or len(flows) == 1:
        return mean
    likeness = [_cosine_similarity(flow, mean) for flow in flows]
    order = sorted(range(len(flows)), key=likeness.__getitem__)
    worse = torch.stack([flows[i] for i in order[: config.n_worst]]).mean(0)
    return mean + config.omega * (mean - worse)


def _cosine_similarity(flow: Tensor, mean: Tensor) -> float:
    """Return the cosine similarity, with 0 for what is not finite: NaN would make any order."""
    from torch.nn import functional

    parts = (part.flatten().nan_to_num(0, 0, 0) for part in (flow, mean))
    return functional.cosine_similarity(*parts, dim=0).item()


def fade_outwards(mask: Tensor, decay: float) -> Tensor:
    """Return 1 inside a mask 1 1 f h w, and exp(-decay d) at a distance of d cells outside, per latent frame.

    A frame where the mask is empty is 0: it is not edited.
    """
    import cv2
    import numpy as np
    import torch

    weights = []
    for frame in mask[0, 0].cpu().numpy():
        outside = (frame == 0).astype(np.uint8)
        weight = np.zeros(frame.shape)
        if not outside.all():
            distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            weight = np.exp(-decay * distance)
        weights.append(torch.from_numpy(weight.astype(np.float32)))
    return torch.stack(weights)[None, None].to(mask)
