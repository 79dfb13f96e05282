"""I2VEdit (arXiv:2405.16537): one edited frame, carried through the clip by an image-to-video model.

tune: low-rank adapters on the layers over time learn the clip's motion (Eq. 4)
invert: EDM inversion of the clip, its flat areas perturbed a little (Eq. 5), without adapters
edit: denoise from there under the edited frame, the source's attention of the paired inversion step at hand: over space
      blended by how far attention moved, out = (1 - M) A0 V + M A V; over time replaced in early steps
A long clip goes in clips that share a frame: the last one's latent is the next one's first frame, and the layers over
time see the first clip too (Eq. 3), by running it again beside.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ...models import attention
from ...models.base import Prompt
from ...sampling import inversion, maths, smooth_area_noise, tuning
from ...sampling.field import (
    EditInputs,
    Step,
    VelocityField,
    initial_state,
    opened,
    remaining_steps,
)
from .attention import (
    FirstSegmentAttention,
    extend_keys,
    index_temporal,
    is_temporal_self,
    match_source,
    record_source,
)
from .config import Config


@dataclass(frozen=True)
class FirstSegment:
    """The first clip, as later ones look at it: its conditions, its latents at every level, and its adapters."""

    given: EditInputs
    latents: dict[str, Tensor]  # inverted0, ... and edited0, ... (before that step)
    adapters: dict[str, Tensor]


def edit(field: VelocityField, given: EditInputs, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    if cfg.variant == "released" and given.shown is not None:
        given = replace(given, tgt=target_conditioning(given.shown, given, cfg))
    spans = given.spans or ((0, given.source.shape[2]),)
    if len(spans) == 1:
        yield from edit_segment(field, given, cfg, start)
        return
    whole, state = initial_state(start, given.source)
    begun = int(state.get("clip", torch.tensor(0)))
    kept = _under("first.", state)
    for n in range(begun, len(spans)):
        part, count = cut_segment(given, spans[n], whole, cfg), len(spans)
        part = replace(part, adapters=_under(f"{n}.", given.adapters or {}))
        inner = None
        if start and n == begun:
            per_clip = start.count // count
            at = start.index - n * per_clip
            inner = Step(start.stage, at, per_clip, state["part"], _under("own.", state))
        own = n == 0 or spans[n][0] in given.keys
        first = None if n == 0 or not cfg.interval else _first(given, spans[0], kept, cfg)
        last = whole
        for step in edit_segment(field, part, cfg, inner, first):
            if n == 0 and cfg.interval:
                kept |= first_segment_state(step, cfg)
            about = {"clip": torch.tensor(n), "part": step.z} | _named("own.", step.state)
            about |= _named("first.", kept)
            z = paste_segment(whole, step.z, spans[n], own) if step.stage == "edit" else whole
            place = step.stage, n * step.count + step.index, count * step.count
            of = (spans[n][0] + (0 if own else 1), spans[n][1])  # a shared frame is the last part's
            yield Step(*place, z, about, fitted=_named(f"{n}.", step.fitted), span=of)
            last = z
        whole = last


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def paste_segment(whole: Tensor, part: Tensor, span: tuple[int, int], own: bool) -> Tensor:
    """The whole clip with a part in its place; the frame that it shares with the one before is that one's, unless it
    is its own.
    """
    begin, end = span
    shared = 0 if own else 1
    return torch.cat((whole[:, :, : begin + shared], part[:, :, shared:], whole[:, :, end:]), 2)


def cut_segment(given: EditInputs, span: tuple[int, int], whole: Tensor, cfg: Config) -> EditInputs:
    """One clip. A later one's wanted first frame is the last latent of the one before, as it is, or its own."""
    begin, end = span
    ways, mask = given.pixels, given.mask
    pixels = replace(ways, frames=lambda: list(islice(ways.frames(), begin, end)))
    source = given.source[:, :, begin:end]
    part = replace(given, source=source, pixels=pixels, spans=(), adapters=None, keys={})
    part = replace(part, mask=None if mask is None else mask[:, :, begin:end])
    if begin == 0:
        return part
    shown = next(islice(ways.frames(), begin, None))
    src = ways.condition(Prompt(image=shown))
    if begin in given.keys:
        return replace(part, src=src, tgt=target_conditioning(given.keys[begin], given, cfg))
    latent = whole[:, :, begin : begin + 1]
    shown = next(iter(ways.decode(latent)))[0]
    return replace(part, src=src, tgt=target_conditioning(shown, given, cfg, latent))


def target_conditioning(image: Tensor, given: EditInputs, cfg: Config, latent: Tensor | None = None) -> Any:
    """The condition of the target's calls; as released, its noise goes into the latent."""
    noise = {"noise_target": "latent"} if cfg.variant == "released" else {}
    return given.pixels.condition(Prompt(image=image, latent=latent, **noise))


def first_segment_state(step: Step, cfg: Config) -> dict[str, Tensor]:
    """What later clips need of a step of the first one."""
    adapters = {name: value for name, value in step.state.items() if _of_adapters(name)}
    if step.stage == "tune":
        return adapters
    if step.stage == "invert":
        low = {"inverted0": step.state["inverted0"]}
        last = {f"edited{cfg.steps - step.count}": step.z} if step.index == step.count else {}
        return adapters | low | {f"inverted{step.index}": step.z} | last
    return {f"edited{step.index}": step.z}


def _first(given: EditInputs, span: tuple[int, int], kept: dict[str, Tensor], cfg: Config) -> FirstSegment:
    latents = {name: value for name, value in kept.items() if not _of_adapters(name)}
    adapters = {name: value for name, value in kept.items() if _of_adapters(name)}
    part = cut_segment(given, span, given.source, cfg)
    _, src = inversion_inputs(part, cfg)
    return FirstSegment(replace(part, src=src), latents, adapters)


def _of_adapters(name: str) -> bool:
    return name.endswith((".down", ".up"))


def edit_segment(
    field: VelocityField, given: EditInputs, cfg: Config, start: Step | None, first: FirstSegment | None = None
) -> Iterator[Step]:
    """The three stages of one clip."""
    fit = tuning.TuningOptions(cfg.tune, cfg.rate, given.seed)
    tunes = cfg.tune and round(cfg.strength * cfg.steps)  # else no target call is made
    paths = tuning.find_layers(field.network, field.attention_hooks.layers, cfg.targets) if tunes else []
    state = start.state if start else {}
    if not paths:
        yield from invert_and_edit(FieldPair(field, field, None), given, cfg, start, {}, first)
        return
    with tuning.mount_adapters(field.network, paths, cfg.rank, given.seed) as adapters:
        tuned = tuning.Tuned(field, adapters)
        if given.adapters and start is None:
            state = given.adapters
            adapters.load(state)
        elif start is None or start.stage == "tune":
            begun = start.index if start else 0
            for i, found in tuning.tune_adapters(tuned, adapters, tuning_inputs(given, cfg), fit, state, begun):
                fitted = found if i == cfg.tune else {}
                yield Step("tune", i, cfg.tune, given.source, found, fitted)
            state = adapters.tensors()
        else:
            adapters.load(state)
        kept = {name: value for name, value in state.items() if _of_adapters(name)}
        yield from invert_and_edit(FieldPair(field, tuned, adapters), given, cfg, start, kept, first)


@dataclass(frozen=True)
class FieldPair:
    """The field for the source's calls, and for the target's, in which adapters are on."""

    source: VelocityField
    target: VelocityField
    adapters: tuning.Adapters | None

    @contextlib.contextmanager
    def with_adapters(self, of_first: dict, own: dict) -> Iterator[None]:
        """Have the first clip's adapters in place of this one's inside."""
        if self.adapters:
            self.adapters.load(of_first)
        try:
            yield
        finally:
            if self.adapters:
                self.adapters.load(own)


def invert_and_edit(
    field: FieldPair,
    given: EditInputs,
    cfg: Config,
    start: Step | None,
    kept: dict[str, Tensor],
    first: FirstSegment | None,
) -> Iterator[Step]:
    """Inversion and editing. kept: what every step's state holds besides the inverted latents."""
    told, levels, begin = opened(field.source, given, cfg)
    field = replace(field, source=told)
    rising = inversion.inversion_sigmas(levels)
    walked = cfg.steps - begin  # from the clean end up
    begun = start if start and start.stage != "tune" else None
    source, src = inversion_inputs(given, cfg)
    given = replace(given, src=src)
    z, state = initial_state(begun, (1 - rising[0]) * source)
    state = kept | state
    state.setdefault("inverted0", (1 - rising[0]) * source)
    for i in remaining_steps(begun, "invert", 0, walked):
        with extend_keys(told, run_first_segment_inversion(field, first, rising, i)):
            velocity = told.velocity(z, rising[i], src, branch="src+")
        z = z + (rising[i + 1] - rising[i]) * velocity
        state = inversion.store_latent(state, i + 1, z)
        yield Step("invert", i + 1, walked, z, state)
    for j in remaining_steps(begun, "edit", begin, cfg.steps):
        paired = cfg.steps - 1 - j  # the inversion step that this one undoes
        there = {}
        if first:
            with field.with_adapters(first.adapters, kept):
                there = run_first_segment_edit(field, first, rising, levels, cfg, j)
        with extend_keys(told, there), record_source(told, cfg, j) as seen:
            if seen is not None:
                told.velocity(state[f"inverted{paired}"], rising[paired], src, branch="src+")
        with match_source(field.target, seen, there, given, cfg, j):
            velocity = maths.guided_velocity(field.target, z, levels[j], given.tgt, "tgt", cfg.guidance)
        z = z + (levels[j + 1] - levels[j]) * velocity
        # outside a mask: the clip as it was at this level, in the end itself
        rest = state[f"inverted{paired}"] if paired else given.source
        z = given.held(z, rest)
        state = inversion.drop_latent(state, paired + 1)
        yield Step("edit", j + 1, cfg.steps, z, state)


def tuning_inputs(given: EditInputs, cfg: Config) -> tuple[Tensor, Any]:
    """What tuning looks at: the clip's latent and its condition.

    As released: a sample of either, and the numbers beside the image in another order than the model was trained with.
    """
    if cfg.variant == "clean":
        return given.source, given.src
    first = next(iter(given.pixels.frames()))
    condition = given.pixels.condition(Prompt(image=first, time_ids=(6, 0.02, 127), noise_target="sample"))
    return sample_latent(given, given.pixels.frames()), condition


def inversion_inputs(given: EditInputs, cfg: Config) -> tuple[Tensor, Any]:
    """What is inverted: the clip's latent and its first frame's condition, where it is flat perturbed a little.

    As released: the first frame is perturbed by a draw of its own and cut to eight bits, and the latent is a sample.
    """
    released = cfg.variant == "released"
    if not cfg.sarp and not released:
        return given.source, given.src
    frames = torch.stack(list(given.pixels.frames())).to(given.source)
    # one draw for the clip, so that its first frame and the condition stay the same picture
    noisy = perturb_flat_areas(frames, given.seed, 0, cfg.sarp)
    if not released:
        src = given.pixels.condition(Prompt(image=noisy[0]))
        return given.pixels.encode(noisy), src
    first = perturb_flat_areas(frames[:1], given.seed, 1, cfg.sarp)[0]
    first = (first * 255).floor() / 255
    return sample_latent(given, noisy), given.pixels.condition(Prompt(image=first, time_ids=(8, 127, 0.02)))


def perturb_flat_areas(frames: Tensor, seed: int, draw: int, scale: float) -> Tensor:
    """Frames f 3 H W in [0, 1], perturbed where they are flat."""
    eps = maths.keyed_noise(frames.transpose(0, 1)[None], seed, draw)[0].transpose(0, 1)
    return smooth_area_noise.add_flat_area_noise(frames * 2 - 1, eps, scale=scale) / 2 + 0.5


def sample_latent(given: EditInputs, frames: Iterable[Tensor]) -> Tensor:
    """A latent drawn from what the VAE says of the frames, in place of its mode."""
    eps = maths.keyed_noise(given.source, given.seed, 0)[0].transpose(0, 1)
    return given.pixels.encode(frames, eps)


def run_first_segment_inversion(field: FieldPair, first: FirstSegment | None, rising: list[float], i: int) -> FirstSegmentAttention:
    """What the first clip's layers over time held in inversion step i, by running it again."""
    if first is None:
        return {}
    with attention.record(field.source, is_temporal_self) as seen:
        z = first.latents[f"inverted{i}"]
        field.source.velocity(z, rising[i], first.given.src, branch="src+")
    return index_temporal(seen)


def run_first_segment_edit(
    field: FieldPair, first: FirstSegment, rising: list[float], levels: list[float], cfg: Config, j: int
) -> FirstSegmentAttention:
    """What they held in edit step j, in the edit's own calls and in the source's paired one."""
    paired, given = cfg.steps - 1 - j, first.given
    with record_source(field.source, cfg, j, everything=True) as seen:
        if seen is not None:
            z = first.latents[f"inverted{paired}"]
            field.source.velocity(z, rising[paired], given.src, branch="src+")
    ruled = match_source(field.target, seen, {}, given, cfg, j)
    with ruled, attention.record(field.target, is_temporal_self) as edited:
        z = first.latents[f"edited{j}"]
        maths.guided_velocity(field.target, z, levels[j], given.tgt, "tgt", cfg.guidance)
    return index_temporal(seen or {}) | index_temporal(edited)
