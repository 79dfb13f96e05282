"""I2VEdit of one segment: tune adapters, invert, edit."""

from __future__ import annotations

import bisect
import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...sampling.field import (
    EditInputs,
    Step,
    VelocityField,
    begin,
    initial_state,
    remaining_steps,
)
from ...sampling.guidance import guided_velocity
from ...sampling.inversion import drop_latent, inversion_sigmas, store_latent
from .conditions import inversion_inputs, tuning_inputs
from .settings import Config

if TYPE_CHECKING:
    from torch import Tensor

    from ...models.attention import NetworkCall
    from ...sampling.adapters import Adapters
    from .attention import FirstSegmentAttention


@dataclass(frozen=True)
class FirstSegment:
    """The first segment, as later ones attend to it: its inputs, latents at every noise level, and adapters."""

    inputs: EditInputs
    latents: dict[str, Tensor]  # inverted0, ... and edited0, ... (before that step)
    adapters: dict[str, Tensor]


@dataclass(frozen=True)
class FieldPair:
    """The field for the source's evaluations, and the one for the target's, whose adapters are enabled."""

    source: VelocityField
    target: VelocityField
    adapters: Adapters | None

    @contextlib.contextmanager
    def swap_adapters(
        self, of_first: Mapping[str, Tensor], own: Mapping[str, Tensor]
    ) -> Iterator[None]:
        """Load the first segment's adapters, and this segment's again afterwards."""
        if self.adapters:
            self.adapters.load(of_first)
        try:
            yield
        finally:
            if self.adapters:
                self.adapters.load(own)


def is_adapter(name: str) -> bool:
    """Return whether a named tensor of a step's state belongs to the adapters."""
    return name.endswith((".down", ".up"))


def edit_segment(
    field: VelocityField,
    inputs: EditInputs,
    config: Config,
    resume: Step | None,
    first: FirstSegment | None = None,
) -> Iterator[Step]:
    """Run the three stages of one segment. first: the first segment, for a later one that attends to it."""
    from ...sampling.adapters import enable_for_target, find_layers, mount_adapters

    paths = []
    if config.tuning_steps and round(config.strength * config.steps):  # else there is no edit step
        layers = field.get_attention_hooks().layers
        paths = find_layers(field.get_network(), layers, config.tuned_layers)
    if not paths:
        yield from invert_and_edit(FieldPair(field, field, None), inputs, config, resume, {}, first)
        return
    with mount_adapters(field.get_network(), paths, config.rank, inputs.seed) as adapters:
        pair = FieldPair(field, enable_for_target(field, adapters), adapters)
        yield from _tune(pair, adapters, inputs, config, resume, first)
        own = adapters.tensors()
        yield from invert_and_edit(pair, inputs, config, resume, own, first)


def _tune(
    fields: FieldPair,
    adapters: Adapters,
    inputs: EditInputs,
    config: Config,
    resume: Step | None,
    first: FirstSegment | None,
) -> Iterator[Step]:
    """Fit the adapters, or load those of an earlier run or of a resumed one."""
    from ...sampling.tuning import TuningOptions, tune_adapters

    steps = config.tuning_steps
    if inputs.adapters and resume is None:
        adapters.load(inputs.adapters)
    elif resume is None or resume.stage == "tune":
        options = TuningOptions(steps, config.learning_rate, inputs.seed)
        saved, done = (resume.state, resume.index) if resume else ({}, 0)
        clip = tuning_inputs(inputs, config)
        surround = functools.partial(attend_in_tuning, fields, first, inputs, config)
        fitting = tune_adapters(fields.target, adapters, clip, options, saved, done, surround)
        for i, state in fitting:
            fitted = state if i == steps else {}
            yield Step("tune", i, steps, inputs.latent, state, fitted)
    else:
        adapters.load(resume.state)


def invert_and_edit(
    fields: FieldPair,
    inputs: EditInputs,
    config: Config,
    resume: Step | None,
    adapters: Mapping[str, Tensor],
    first: FirstSegment | None,
) -> Iterator[Step]:
    """Run the inversion and the edit. adapters: the tensors that the state of every step contains."""
    from .attention import extend_keys, match_source, record_source

    sampler = begin(fields.source, inputs, config)
    fields, sigmas, begun = (
        replace(fields, source=sampler.field),
        sampler.sigmas,
        sampler.first_step,
    )
    field, rising = sampler.field, inversion_sigmas(sigmas)
    count = config.steps - begun  # of inverted levels, from the clean end
    resume = resume if resume and resume.stage != "tune" else None
    latent, source = inversion_inputs(inputs, config)
    inputs = replace(inputs, source=source)
    z, state = initial_state(resume, (1 - rising[0]) * latent)
    state = {**adapters, **state}
    state.setdefault("inverted0", (1 - rising[0]) * latent)
    for i in remaining_steps(resume, "invert", 0, count):
        with extend_keys(field, attend_in_inversion(fields, first, rising, i)):
            velocity = field.velocity(z, rising[i], source, branch="src+")
        z = z + (rising[i + 1] - rising[i]) * velocity
        state = store_latent(state, i + 1, z)
        yield Step("invert", i + 1, count, z, state)
    for j in remaining_steps(resume, "edit", begun, config.steps):
        paired = config.steps - 1 - j  # the inversion step that this one reverses
        of_first: FirstSegmentAttention = {}
        if first:
            with fields.swap_adapters(first.adapters, adapters):
                of_first = attend_in_edit(fields, first, rising, sigmas, config, j)
        with extend_keys(field, of_first), record_source(field, config, j) as found:
            if found is not None:
                inverted = state[f"inverted{paired}"]
                field.velocity(inverted, rising[paired], source, branch="src+")
        with match_source(fields.target, found, of_first, inputs, config, j):
            velocity = guided_velocity(
                fields.target, z, sigmas[j], inputs.target, "tgt", config.guidance
            )
        z = z + (sigmas[j + 1] - sigmas[j]) * velocity
        # outside the mask: the clip at this noise level, and at the end the clip itself
        z = inputs.blend_outside(z, state[f"inverted{paired}"] if paired else inputs.latent)
        state = drop_latent(state, paired + 1)
        yield Step("edit", j + 1, config.steps, z, state)


@contextlib.contextmanager
def attend_in_tuning(
    fields: FieldPair,
    first: FirstSegment | None,
    inputs: EditInputs,
    config: Config,
    sigma: float,
) -> Iterator[None]:
    """Let a tuning iteration at noise level sigma attend to the first segment's source (Eq. 3), inside the block.

    The first segment is evaluated once for this, at its inversion level at or just above sigma.
    """
    import torch

    from .attention import extend_keys

    if first is None or not config.attend_in_tuning:
        yield
        return
    sampler = begin(fields.source, first.inputs, config)
    rising = inversion_sigmas(sampler.sigmas)
    i = tuning_level(rising, sigma, config.steps - sampler.first_step, config.variant)
    with torch.no_grad():
        source = replace(fields, source=sampler.field)
        of_first = attend_in_inversion(source, first, rising, i)
    hooks = fields.target.get_attention_hooks()
    # The backward pass runs checkpointed layers again, when the evaluation that they belong to is over.
    with hooks.use_call(whole_call(inputs.latent)), extend_keys(fields.target, of_first):
        yield


def whole_call(latent: Tensor) -> NetworkCall:
    """Return the target's evaluation of a whole latent, 1 c f h w, as attention hooks know it."""
    from ...models.attention import NetworkCall

    return NetworkCall("tgt+", tuple(range(latent.shape[2])), (latent.shape[3], latent.shape[4]))


def tuning_level(rising: Sequence[float], sigma: float, count: int, variant: str) -> int:
    """Return the index of the inversion level that goes with a tuning iteration at noise level sigma.

    It is the lowest level of at least sigma, or the highest of the `count` that were inverted. As released it is the
    level below that one: the stored attention is indexed by where an inversion step ends, and made where it begins.
    """
    above = min(bisect.bisect_left(rising, sigma), count)
    return max(above - 1, 0) if variant == "released" else above


def attend_in_inversion(
    fields: FieldPair, first: FirstSegment | None, rising: Sequence[float], i: int
) -> FirstSegmentAttention:
    """Return the temporal layers' q, k and v of the first segment in inversion step i, by evaluating it again."""
    if first is None:
        return {}
    from ...models import attention
    from .attention import index_temporal, is_temporal_self

    with attention.record(fields.source, is_temporal_self) as found:
        z = first.latents[f"inverted{i}"]
        fields.source.velocity(z, rising[i], first.inputs.source, branch="src+")
    return index_temporal(found)


def attend_in_edit(
    fields: FieldPair,
    first: FirstSegment,
    rising: Sequence[float],
    sigmas: Sequence[float],
    config: Config,
    j: int,
) -> FirstSegmentAttention:
    """Return them in edit step j: of the edit's own evaluations, and of the source's paired one."""
    from ...models import attention
    from .attention import index_temporal, is_temporal_self, match_source, record_source

    paired, inputs = config.steps - 1 - j, first.inputs
    with record_source(fields.source, config, j, all_temporal=True) as found:
        if found is not None:
            z = first.latents[f"inverted{paired}"]
            fields.source.velocity(z, rising[paired], inputs.source, branch="src+")
    matching = match_source(fields.target, found, {}, inputs, config, j)
    with matching, attention.record(fields.target, is_temporal_self) as edited:
        z = first.latents[f"edited{j}"]
        guided_velocity(fields.target, z, sigmas[j], inputs.target, "tgt", config.guidance)
    return index_temporal(found or {}) | index_temporal(edited)
