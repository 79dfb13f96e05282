"""ControlVideo (Zhang et al., arXiv:2305.13077): sampling from noise with a ControlNet and attention to all frames.

The ControlNet gives the structure; the attention and one noise for all frames make the clip coherent. No training.

self-attention of U-Net and ControlNet, for frame i:  softmax(Q_i K^T / sqrt(d)) V, with K and V of all frames
x0 = (x - sqrt(1 - abar) eps) / sqrt(abar);   at two steps:  x0 <- E(smooth(D(x0)))
x- = sqrt(abar-) x0 + sqrt(1 - abar-) eps

`smooth` replaces every second frame by what lies between its neighbours: those of odd index at the first of the two
steps, those of even index at the second. A long clip has key frames with attention to each other; each frame between
two of them attends to both.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from ..base.schema import Count, Field, Number, ScheduleName, Share, Steps, settings_class
from ..models.attention import frames as frame_attention
from ..models.attention import hooks as attention
from ..sampling import from_noise
from ..sampling.field import EditInputs, Step, VelocityField, initial_state, remaining_steps
from ..sampling.from_noise import SameNoise
from ..sampling.guidance import GuidedPoint, guided_velocities
from ..sampling.noise import add_noise, predict_noise
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention.hooks import Layer

METHOD = MethodInfo(
    requires=frozenset({"control", "spatial_attention"}),
    unused_unless={"smoother_at": "smoother_steps"},
)
SHORT_CLIP = 15  # frames of the paper's short clips
MIN_SPACING = 3  # frames from a key frame to the next but one, of the released code


@settings_class
class Config(from_noise.FromNoiseConfig):
    steps: Steps = Field(default=50, description="T: number of DDIM steps")
    schedule: ScheduleName = Field(
        default="ddim", description="how the noise levels are spaced; the authors' is ddim"
    )
    target_guidance: Number = Field(default=12.5, description="guidance scale of the target prompt")
    attention: Literal["all", "own"] = Field(
        default="all",
        description="the frames whose keys and values self-attention reads, in the U-Net and the ControlNet: all, or "
        "each frame its own",
    )
    norms: Literal["clip", "frame"] = Field(
        default="clip",
        description="what the group norms of residual blocks are over; the authors' inflated model: the clip",
    )
    smoother_at: Share = Field(
        default=0.6,
        description="the share of the steps after which the interleaved-frame smoother runs; of 50 steps these are 30 "
        "and 31 from the noisy end (the paper), which the authors' command counts as 20 and 19 from the clean one",
    )
    smoother_steps: Count = Field(
        default=2,
        description="consecutive steps with the smoother, odd and even frames in turn; 0: none",
    )
    long_clip: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="the hierarchical sampler of long clips, with key frames; auto: for more than 15 frames",
    )
    variant: Literal["paper", "released"] = Field(
        default="paper",
        description="the ControlNet's attention, and the long clip's sampler. paper: in the ControlNet, too, frames "
        "attend to each other; key frames every floor(sqrt(N)) frames, and frames in between attend to both. "
        "released: in the ControlNet each frame attends to itself; key frames every max(3, floor(sqrt(N))) - 1 "
        "frames, and frames in between attend to the first key frame and to the last of them",
    )


@dataclass(frozen=True)
class Pass:
    """Frames that are evaluated together. kept: those of them whose velocity is used; sources: as in attention."""

    frames: tuple[int, ...]
    kept: tuple[int, ...]
    attends_to_ends: bool = False  # to the first and the last of the frames, and otherwise to all


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    sampler = from_noise.begin(field, inputs, config)
    x, sigmas, noise = inputs.latent, sampler.sigmas, SameNoise(inputs.seed)
    passes = plan_passes(x.shape[2], config)
    z, _ = initial_state(resume, sampler.start(x, noise(x)))
    for i in remaining_steps(resume, "edit", sampler.first_step, config.steps):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        v = clip_velocity(sampler.field, inputs, config, passes, (z, sigma))
        clean, eps = z - sigma * v, predict_noise(z, sigma, v)
        if (number := smoother_number(i, config)) is not None:
            clean = smooth_latent(inputs, clean, first=1 + number % 2)
        z = sampler.hold(inputs, i + 1, add_noise(clean, sigma_next, eps), noise(x))
        yield Step("edit", i + 1, config.steps, z)


def clip_velocity(
    field: VelocityField,
    inputs: EditInputs,
    config: Config,
    passes: Sequence[Pass],
    point: tuple[Tensor, float],
) -> Tensor:
    """Return the guided velocity of the target at a latent and a noise level, each frame's from its own pass."""
    z, sigma = point
    if len(passes) == 1:
        return _pass_velocity(field, inputs, config, None, point)
    velocity = z.clone()
    for part in passes:
        index = list(part.frames)
        found = _pass_velocity(field, inputs, config, part, (z[:, :, index], sigma))
        kept = [index.index(frame) for frame in part.kept]
        velocity[:, :, list(part.kept)] = found[:, :, kept]
    return velocity


def _pass_velocity(
    field: VelocityField,
    inputs: EditInputs,
    config: Config,
    part: Pass | None,
    point: tuple[Tensor, float],
) -> Tensor:
    """Return the guided velocity of the frames of a pass; None: all frames, which attend to all."""
    z, sigma = point
    guided = GuidedPoint(z, inputs.target, "tgt", config.target_guidance)
    with _see_each_other(field, config, part is not None and part.attends_to_ends):
        frames = None if part is None else part.frames
        (velocity,) = guided_velocities(field, sigma, guided, frames=frames)
    return velocity


@contextlib.contextmanager
def _see_each_other(field: VelocityField, config: Config, ends: bool) -> Iterator[None]:
    """Let frames attend to each other inside the block, to the first and the last of a call or to all."""

    def is_joint(layer: Layer) -> bool:
        is_own = config.variant == "released" and layer.is_of_controlnet
        return layer.kind == "self" and layer.axis == "spatial" and not is_own

    def rule(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        count = len(layer.frames)
        sources = frame_attention.frame_sources("all", count)
        if ends:
            sources = frame_attention.fixed_sources((0, count - 1), count)
        return frame_attention.attend_to_frames(layer, q, k, v, sources)

    with contextlib.ExitStack() as stack:
        if config.attention == "all":
            stack.enter_context(attention.use_rule(field, rule, is_joint))
        if config.norms == "clip":
            stack.enter_context(field.normalize_over_clip())
        yield


def plan_passes(count: int, config: Config) -> list[Pass]:
    """Return what is evaluated in each step of a clip of `count` frames: the key frames, then those in between."""
    everything = tuple(range(count))
    is_long = count > SHORT_CLIP if config.long_clip == "auto" else config.long_clip == "on"
    if not is_long or count < MIN_SPACING:
        return [Pass(everything, everything)]
    keys = key_frames(count, config.variant)
    passes = [Pass(keys, keys)]
    for key, following in pairwise(keys):
        inner = tuple(range(key + 1, following))
        order = (key, *inner, following)
        if config.variant == "released":
            order = (key, following, *inner)
        if inner:
            passes.append(Pass(order, inner, attends_to_ends=True))
    return passes


def key_frames(count: int, variant: str) -> tuple[int, ...]:
    """Return the indices of the key frames of a long clip. The first and the last frame are among them."""
    spacing = math.isqrt(count)
    if variant == "released":
        spacing = max(MIN_SPACING, spacing) - 1
    return (*range(0, count - 1, max(1, spacing)), count - 1)


def smoother_number(step: int, config: Config) -> int | None:
    """Return which of the smoother's steps a step is, from 0; None if it is not one."""
    number = step - round(config.smoother_at * config.steps)
    return number if 0 <= number < config.smoother_steps else None


def smooth_latent(inputs: EditInputs, clean: Tensor, first: int) -> Tensor:
    """Return a clean latent whose frames first, first + 2, ... lie between their neighbours, through pixels."""
    import torch

    pixels = inputs.get_pixels()
    # Contiguous: the last bit of a convolution depends on the memory layout, which a resumed run does not know.
    frames = torch.cat(list(pixels.decode(clean.contiguous())))  # f 3 H W
    smooth = frames.clone(memory_format=torch.contiguous_format)
    for i in range(first, len(frames) - 1, 2):
        smooth[i] = _middle_frame(frames[i - 1], frames[i + 1])
    return pixels.encode(smooth).to(clean).contiguous()


def _middle_frame(first: Tensor, second: Tensor) -> Tensor:
    """Return the frame in the middle between two, 3 H W."""
    import torch

    from ..media.interpolation import interpolate_middle

    before, after = (f.float().cpu().permute(1, 2, 0).numpy() for f in (first, second))
    return torch.from_numpy(interpolate_middle(before, after)).permute(2, 0, 1).to(first)
