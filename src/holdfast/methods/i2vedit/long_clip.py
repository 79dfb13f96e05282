"""I2VEdit of a clip of any length: its segments one after another, each from the last latent of the one before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from ...sampling.field import EditInputs, Step, VelocityField, initial_state
from .conditions import inversion_inputs, target_conditioning
from .segment import FirstSegment, edit_segment, is_adapter
from .settings import Config

if TYPE_CHECKING:
    from torch import Tensor


def describe_segments(config: Config) -> str:
    """Return how the segments of a long clip see each other, for the plan."""
    if not config.attend_first_segment:
        return "later segments do not attend to the first one"
    return "later segments attend to the first one, which doubles their evaluations"


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    if config.variant == "released" and inputs.first_frame is not None:
        target = target_conditioning(inputs.first_frame, inputs, config)
        inputs = replace(inputs, target=target)
    segments = inputs.segments or ((0, inputs.latent.shape[2]),)
    if len(segments) == 1:
        yield from edit_segment(field, inputs, config, resume)
        return
    z, state = initial_state(resume, inputs.latent)
    first_state = with_prefix("first.", state)
    for n in range(int(state["segment"]) if state else 0, len(segments)):
        part = cut_segment(inputs, segments[n], z, config)
        part = replace(part, adapters=with_prefix(f"{n}.", inputs.adapters or {}))
        first = None
        if n and config.attend_first_segment:
            first = load_first_segment(inputs, segments[0], first_state, config)
        for step in edit_segment(field, part, config, resume_segment(resume, n, segments), first):
            if n == 0 and config.attend_first_segment:
                first_state |= first_segment_state(step, config)
            done = place_step(step, inputs, z, n, segments)
            z = done.z
            yield replace(done, state=done.state | add_prefix("first.", first_state))


def place_step(
    step: Step, inputs: EditInputs, z: Tensor, n: int, segments: tuple[tuple[int, int], ...]
) -> Step:
    """Return the step of segment n as one of the whole clip. z: the whole clip before the segment."""
    begin, end = segments[n]
    shared = count_shared_frames(inputs, n, begin)
    state = {"segment": _as_tensor(n), "part": step.z} | add_prefix("own.", step.state)
    whole = paste_segment(z, step.z, segments[n], shared) if step.stage == "edit" else z
    return Step(
        step.stage,
        n * step.count + step.index,
        len(segments) * step.count,
        whole,
        state,
        adapters=add_prefix(f"{n}.", step.adapters),
        segment=(begin + shared, end),  # a shared frame belongs to the segment before
    )


def resume_segment(
    resume: Step | None, n: int, segments: tuple[tuple[int, int], ...]
) -> Step | None:
    """Return the step of segment n to resume from; None where another segment was stopped."""
    if resume is None or n != int(resume.state["segment"]):
        return None
    count = resume.count // len(segments)
    own = with_prefix("own.", resume.state)
    return Step(resume.stage, resume.index - n * count, count, resume.state["part"], own)


def count_shared_frames(inputs: EditInputs, n: int, begin: int) -> int:
    """Return how many frames segment n shares with the one before: 0 where it begins with a keyframe."""
    return 0 if n == 0 or begin in inputs.keyframes else 1


def paste_segment(z: Tensor, part: Tensor, segment: tuple[int, int], shared: int) -> Tensor:
    """Return the whole clip with a segment in its place. Shared frames stay those of the segment before."""
    import torch

    begin, end = segment
    return torch.cat((z[:, :, : begin + shared], part[:, :, shared:], z[:, :, end:]), 2)


def cut_segment(
    inputs: EditInputs, segment: tuple[int, int], z: Tensor, config: Config
) -> EditInputs:
    """Return the inputs of one segment.

    The edited first frame of a later one is its keyframe, or the last latent of the segment before. z: the whole clip.
    """
    from ...models.base import Prompt

    begin, end = segment
    pixels, mask = inputs.get_pixels(), inputs.mask
    part = replace(
        inputs,
        latent=inputs.latent[:, :, begin:end],
        pixels=replace(pixels, frames=lambda: list(islice(pixels.frames(), begin, end))),
        mask=None if mask is None else mask[:, :, begin:end],
        segments=(),
        adapters=None,
        keyframes={},
    )
    if begin == 0:
        return part
    source = pixels.condition(Prompt(image=next(islice(pixels.frames(), begin, None))))
    if begin in inputs.keyframes:
        target = target_conditioning(inputs.keyframes[begin], inputs, config)
    else:
        latent = z[:, :, begin : begin + 1]
        image = next(iter(pixels.decode(latent)))[0]
        target = target_conditioning(image, inputs, config, latent)
    return replace(part, source=source, target=target)


def first_segment_state(step: Step, config: Config) -> dict[str, Tensor]:
    """Return what later segments need of a step of the first one."""
    adapters = {name: value for name, value in step.state.items() if is_adapter(name)}
    if step.stage == "tune":
        return adapters
    if step.stage == "invert":
        lowest = {"inverted0": step.state["inverted0"]}
        is_last = step.index == step.count
        noisiest = {f"edited{config.steps - step.count}": step.z} if is_last else {}
        return adapters | lowest | {f"inverted{step.index}": step.z} | noisiest
    return {f"edited{step.index}": step.z}


def load_first_segment(
    inputs: EditInputs, segment: tuple[int, int], state: Mapping[str, Tensor], config: Config
) -> FirstSegment:
    """Return the first segment of what `first_segment_state` gave for its steps."""
    latents = {name: value for name, value in state.items() if not is_adapter(name)}
    adapters = {name: value for name, value in state.items() if is_adapter(name)}
    part = cut_segment(inputs, segment, inputs.latent, config)
    _, source = inversion_inputs(part, config)
    return FirstSegment(replace(part, source=source), latents, adapters)


def add_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose name has the prefix, by their names without it."""
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _as_tensor(number: int) -> Tensor:
    import torch

    return torch.tensor(number)
