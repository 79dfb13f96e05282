"""The sampling loop over key frames. A step's state holds what the first key frame and the one before left."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...base.lazy import torch
from ...sampling import from_noise
from ...sampling.field import EditInputs, Step, VelocityField, initial_state, remaining_steps
from ...sampling.from_noise import NoiseSampler, SameNoise
from ...sampling.guidance import GuidedPoint, guided_velocities
from ...sampling.noise import add_noise, keyed_noise, predict_noise
from . import fusion
from .attention import FIRST, OWN, PREVIOUS, State, find_kept, kept_name, pass_on, see_key_frames
from .between import propagate
from .flows import ClipFlow, open_flow, to_array, to_tensor
from .settings import Config

if TYPE_CHECKING:
    from torch import Tensor

FUSED, VISIBLE = "fused", "visible"  # names in the state of the fused picture's latent


@dataclass(frozen=True)
class Run:
    """An edit: its inputs, and the key frames."""

    sampler: NoiseSampler
    inputs: EditInputs
    config: Config
    keys: tuple[int, ...]

    @functools.cached_property
    def flow(self) -> ClipFlow:
        """The flow of the source clip."""
        return open_flow(self.inputs, self.config)

    @property
    def steps(self) -> int:
        """Steps of each key frame."""
        return self.config.steps - self.sampler.first_step

    def inputs_of(self, frame: int) -> EditInputs:
        """Return the inputs of one frame alone."""
        part, mask = slice(frame, frame + 1), self.inputs.mask
        cut = None if mask is None else mask[:, :, part]
        return replace(self.inputs, latent=self.inputs.latent[:, :, part], mask=cut)


@dataclass(frozen=True)
class Point:
    """Where a key frame is: its number, the step of the schedule, and its latent 1 c 1 h w there."""

    number: int
    step: int
    z: Tensor


def edit_key_frames(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    """Sample one key frame after another, and then the frames in between."""
    sampler = from_noise.begin(field, inputs, config)
    run = Run(sampler, inputs, config, tuple(range(0, inputs.latent.shape[2], config.interval)))
    count = len(run.keys) * run.steps
    z, state = initial_state(resume, inputs.latent)
    for done in remaining_steps(resume, "edit", 0, count):
        number, step = divmod(done, run.steps)
        key = run.keys[number]
        point = Point(number, sampler.first_step + step, z[:, :, key : key + 1])
        if step == 0:
            point = replace(point, z=start_key(run, key))
        z = z.clone(memory_format=torch.contiguous_format)
        z[:, :, key : key + 1], state = step_key(run, point, z, state)
        if step == run.steps - 1:
            state = pass_on(state, number) if number < len(run.keys) - 1 else {}
        if done == count - 1:
            z = fill_between(run, z)
        yield Step("edit", done + 1, count, z, state)


def start_key(run: Run, key: int) -> Tensor:
    """Return the latent with which a key frame begins; all have the same noise."""
    x = run.inputs_of(key).latent
    return run.sampler.start(x, SameNoise(run.inputs.seed)(x))


def step_key(run: Run, point: Point, clip: Tensor, state: State) -> tuple[Tensor, State]:
    """Return a key frame after a step, and the state. clip: the latent with the finished key frames."""
    config, sigmas = run.config, run.sampler.sigmas
    sigma, sigma_next = sigmas[point.step], sigmas[point.step + 1]
    v, kept = key_velocity(run, point, state)
    clean, noise = point.z - sigma * v, predict_noise(point.z, sigma, v)
    share = (point.step - run.sampler.first_step) / run.steps
    if point.number and share < config.warp_end:
        clean = warp_clean(run, point, clean, state)
    if point.number and share >= config.colour_start:
        clean = fusion.match_statistics(clean, find_kept(state, FIRST, point.step, "clean"))
    own = {**kept, kept_name(OWN, point.step, "clean"): clean}
    if (
        point.number
        and config.fusion_strength
        and config.fusion_start <= share <= config.fusion_end
    ):
        if FUSED not in state:
            state = state | fuse_with_earlier(run, point, clip, state)
        clean, noise = blend_earlier(run, point, (clean, noise), state)
    z = hold_key(run, point, add_noise(clean, sigma_next, noise))
    is_followed = point.number < len(run.keys) - 1
    return z, state | own if is_followed else state


def key_velocity(run: Run, point: Point, state: State) -> tuple[Tensor, State]:
    """Return the guided velocity of a key frame, and the keys and values that it leaves."""
    field, sigma, key = run.sampler.field, run.sampler.sigmas[point.step], run.keys[point.number]
    guided = GuidedPoint(point.z, run.inputs.target, "tgt", run.config.target_guidance)
    with see_key_frames(field, run.config, state, point.step, point.number == 0) as kept:
        (v,) = guided_velocities(field, sigma, guided, frames=(key,))
    return v, dict(kept)


def hold_key(run: Run, point: Point, z: Tensor) -> Tensor:
    """Return a key frame after a step, with the source outside the mask."""
    inputs = run.inputs_of(run.keys[point.number])
    return run.sampler.hold(inputs, point.step + 1, z, SameNoise(inputs.seed)(z))


def warp_clean(run: Run, point: Point, clean: Tensor, state: State) -> Tensor:
    """Return the clean estimate with that of an earlier key frame where it is visible."""
    is_first = run.config.warp_reference == "first"
    owner, number = (FIRST, 0) if is_first else (PREVIOUS, point.number - 1)
    other = find_kept(state, owner, point.step, "clean")
    frames = run.keys[point.number], run.keys[number]
    warped, visible = run.flow.warp_cells(other, *frames, run.inputs.get_pixels().stride)
    return visible * warped + (1 - visible) * clean


def fuse_with_earlier(run: Run, point: Point, clip: Tensor, state: State) -> State:
    """Return the latent of the fused picture and where it shows earlier key frames, for the state.

    The key frame is sampled to its end without fusion first, for what no earlier one shows.
    """
    pixels, key = run.inputs.get_pixels(), run.keys[point.number]
    earlier = (run.keys[0], run.keys[point.number - 1])
    pictures = {k: fusion.decode_frame(pixels, clip[:, :, k : k + 1]) for k in earlier}
    own = fusion.decode_frame(pixels, sample_rest(run, point, state))
    picture, visible = fusion.fuse_pictures(run.flow, key, pictures, own)
    z = fusion.encode_faithfully(pixels, picture.to(own))
    return {FUSED: z.to(point.z), VISIBLE: fusion.visible_cells(visible, pixels, point.z)}


def sample_rest(run: Run, point: Point, state: State) -> Tensor:
    """Return the latent of a key frame that is sampled to its end without fusion."""
    sigmas = run.sampler.sigmas
    for step in range(point.step, run.config.steps):
        here = replace(point, step=step)
        v, _ = key_velocity(run, here, state)
        clean, noise = here.z - sigmas[step] * v, predict_noise(here.z, sigmas[step], v)
        point = replace(here, z=hold_key(run, here, add_noise(clean, sigmas[step + 1], noise)))
    return point.z


def blend_earlier(
    run: Run, point: Point, estimate: tuple[Tensor, Tensor], state: State
) -> tuple[Tensor, Tensor]:
    """Return the clean estimate and the noise with the fused picture where earlier key frames are visible."""
    key, config = run.keys[point.number], run.config
    fresh = keyed_noise(point.z, run.inputs.seed, point.step + 1, first_frame=key)
    fused = state[FUSED], fresh, state[VISIBLE]
    return fusion.blend_fused(*estimate, fused, config.fusion_strength, config.noise_strength)


def fill_between(run: Run, z: Tensor) -> Tensor:
    """Return the clip with the frames between key frames propagated from them."""
    count = z.shape[2]
    if len(run.keys) == count:
        return z
    pixels = run.inputs.get_pixels()
    decoded = {k: fusion.decode_frame(pixels, z[:, :, k : k + 1]) for k in run.keys}
    keyframes = {k: to_array(picture) for k, picture in decoded.items()}
    frames = propagate(run.flow, keyframes, run.config.propagation, run.inputs.seed)
    filled = z.clone()
    for i, frame in frames.items():
        filled[:, :, i : i + 1] = pixels.encode([to_tensor(frame).to(z)]).to(z)
    return run.inputs.blend_outside(filled, run.inputs.latent)
