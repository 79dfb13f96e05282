"""Adaptive sliding score distillation (arXiv:2406.04888v2): DDS whose reference is smoothed over time.

It is smoothed where an edit goes too far. An image model adds its change on key frames, and the reference's attention
is fused into the target's.

D = e(z_t, target), R = e(x_t, source);  m = 1 where |D - R| is near its largest over time                     (7)
z <- z - eta { m [D - Smooth(R)] + (1 - m) [D - R] + [D' - R'] of the image model on key frames }         (6, 8-10)
attention of D, last spatial layers: (1 - lambda) self + lambda [softmax(Q K_R^T) V_R]                       (11-13)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from ..base.notices import warn_user
from ..base.schema import Field, Guidance, Number, Range, Share, Steps, settings_class
from ..sampling import observing
from ..sampling.distillation import CleanPoint, DistillationConfig, NoiseSample, draw_samples
from ..sampling.field import EditInputs, ImageModel, Step, VelocityField, initial_state
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention import Layer

METHOD = MethodInfo(
    unused_unless={
        "smooth_target": "smoothing",
        "smoothing_mask": "smoothing",
        "tau": "smoothing_mask",
        "fused_layers": "fusion",
        "joint_guidance": "joint",
        "key_frame_stride": "joint",
    },
    image_model_weight="joint",
    explains=True,
)
KeysAndValues: TypeAlias = "dict[Layer, tuple[Tensor, Tensor]]"


@settings_class
class Config(DistillationConfig):
    """The paper's values. Where it gives none, those that measured well (docs/distillation.md)."""

    smoothing: Annotated[float, Range(0, 0.5)] = Field(
        default=0.165, description="g, Eq. 6: weight of each of the two neighbouring frames; 0: off"
    )
    smooth_target: Literal["prediction", "residual"] = Field(
        default="prediction",
        description="what is smoothed: R, as printed, or R minus the noise that was drawn, which is no signal",
    )
    smoothing_mask: Literal["text", "printed", "off"] = Field(
        default="text",
        description="m of Eq. 7: above the threshold, as the text says; below it, as printed; or 1 everywhere",
    )
    tau: Number = Field(
        default=0.05, description="tau, Eq. 7: distance to the largest change; not in the paper"
    )
    fusion: Share = Field(
        default=0.8, description="lambda, Eq. 13: weight of the source's attention; 0: off"
    )
    fused_layers: Steps = Field(
        default=3,
        description="how many of the last spatial self-attention layers are fused; not in the paper",
    )
    joint: Number = Field(default=1.0, description="weight of the image model, Eq. 10; 0: off")
    joint_guidance: Guidance = Field(default=7.5, description="guidance scale of the image model")
    key_frame_stride: Steps = Field(
        default=4, description="latent frames from one key frame to the next; not in the paper"
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    x = inputs.latent
    if config.fusion and field.attention_hooks is None:
        warn_user("this model has no attention hooks: assd runs without its attention fusion")
        config = replace(config, fusion=0.0)
    z, _ = initial_state(resume, x)
    for i, sample in draw_samples(field, inputs, config, resume):
        with record_source(field, config) as found, fuse_source(field, config, found):
            eps_source, eps_target = sample.predict_noise(
                CleanPoint(x, inputs.source, "src"), CleanPoint(z, inputs.target, "tgt")
            )
        if config.smoothing and observing.is_observed():
            m = smoothing_mask(eps_target - eps_source, config)
            observing.observe("smoothing mask m", i, m)
        change = eps_target - reference(eps_target, eps_source, sample.eps, config)
        if inputs.image_model and METHOD.uses_image_model(config):
            change = change + config.joint * image_model_change(
                inputs.image_model, z, x, sample, config
            )
        z = z - config.step_size(z) * inputs.apply_mask(change)
        yield Step("edit", i + 1, config.steps, z)


def reference(eps_target: Tensor, eps_source: Tensor, eps: Tensor, config: Config) -> Tensor:
    """Return R of the source, smoothed over time where m is 1 (Eqs. 6 to 8)."""
    import torch

    if not config.smoothing:
        return eps_source
    base = eps if config.smooth_target == "residual" else torch.zeros_like(eps)
    smooth = smooth_over_time(eps_source - base, config.smoothing) + base
    return torch.where(smoothing_mask(eps_target - eps_source, config), smooth, eps_source)


def smooth_over_time(e: Tensor, neighbour_weight: float) -> Tensor:
    """Return each frame of e, b c f h w, averaged with its two neighbours (Eq. 6).

    The weights are g, 1 - 2 g, g, normalised at the ends of the clip. A single frame is returned unchanged.
    """
    import torch

    if e.shape[2] == 1:
        return e
    own_weight = 1 - 2 * neighbour_weight
    total, weight = own_weight * e, torch.full_like(e[:, :1, :, :1, :1], own_weight)
    for here, there in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        total[:, :, here] += neighbour_weight * e[:, :, there]
        weight[:, :, here] += neighbour_weight
    return total / weight


def smoothing_mask(change: Tensor, config: Config) -> Tensor:
    """Return m of Eq. 7, boolean b c f h w: where a change is within tau of its largest over time."""
    import torch

    if config.smoothing_mask == "off":
        return torch.ones_like(change, dtype=torch.bool)
    size = change.abs()
    bound = size.amax(2, keepdim=True) - config.tau
    return size > bound if config.smoothing_mask == "text" else size < bound


def image_model_change(
    image_model: ImageModel, z: Tensor, x: Tensor, sample: NoiseSample, config: Config
) -> Tensor:
    """Return D' - R' of the image model on key frames, and 0 on the others (Eq. 9). b c f h w."""
    import torch

    frames = range(0, z.shape[2], config.key_frame_stride)
    sample = sample.for_model(image_model.field, config.joint_guidance, frames)
    eps_target, eps_source = sample.predict_noise(
        CleanPoint(z, image_model.target, "tgt"), CleanPoint(x, image_model.source, "src")
    )
    change = torch.zeros_like(z)
    change[:, :, list(frames)] = eps_target - eps_source
    return change


def find_last_layers(field: VelocityField, count: int) -> set[str]:
    """Return the paths of the last self-attention layers over space, or over space and time."""
    layers = field.get_attention_hooks().layers
    paths = [layer.path for layer in layers if layer.kind == "self" and layer.axis != "temporal"]
    return set(paths[-count:])


def record_source(
    field: VelocityField, config: Config
) -> contextlib.AbstractContextManager[KeysAndValues]:
    """Collect keys and values of the source's evaluations, by layer."""
    if not config.fusion:
        return contextlib.nullcontext({})
    from ..models import attention

    paths = find_last_layers(field, config.fused_layers)

    def is_source(layer: Layer) -> bool:
        return layer.path in paths and layer.branch.startswith("src")

    return attention.record(field, is_source, lambda layer, q, k, v: (k, v))


def fuse_source(
    field: VelocityField, config: Config, found: KeysAndValues
) -> contextlib.AbstractContextManager[None]:
    """Fuse the source's attention into the target's evaluations of the same sign (Eqs. 11 to 13)."""
    if not config.fusion:
        return contextlib.nullcontext()
    from torch.nn.functional import scaled_dot_product_attention

    from ..models import attention

    paths = find_last_layers(field, config.fused_layers)

    def is_target(layer: Layer) -> bool:
        return layer.path in paths and layer.branch.startswith("tgt")

    def fuse(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        own = scaled_dot_product_attention(q, k, v)
        k_source, v_source = found[replace(layer, branch=f"src{layer.branch[3:]}")]
        source = scaled_dot_product_attention(q, k_source, v_source)
        # in this form equal latents give the layer's own attention whatever the weight
        return own + config.fusion * (source - own)

    return attention.use_rule(field, fuse, is_target)
