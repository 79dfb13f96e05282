"""FateZero (arXiv:2303.09535): attention maps of a DDIM inversion, blended into the sampling of the edited clip.

At sampling step j of N, with the maps of the inversion step that it reverses (from level N - 1 - j to N - j):
cross-attention  C <- Edit(C_src, C)              the first `cross_replace_steps` (models/attention/map_editing.py)
self-attention   S <- B S + (1 - B) S_src         the first `self_replace_steps`; B is where C_src of the edited words
                                                  exceeds tau of its maximum
latents          z <- z_inv + B' (z - z_inv)      optional, between 20 and 80 % of the steps; B' of both prompts

Self-attention over space reads other frames, and group norms run over the clip, in the inversion and in sampling. The
authors store the maps, 100 GB for 8 frames; here each step evaluates the source again at the inverted latent, with the
timestep that the inversion gave it. Its queries and keys are all that is kept, until the end of the step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ..base.schema import Count, Field, Number, Share, settings_class
from ..sampling import ddim
from ..sampling.field import (
    EditInputs,
    Evaluation,
    Step,
    VelocityField,
    choose_timesteps,
    remaining_steps,
)
from ..sampling.guidance import guided_velocity
from ..sampling.masking import blend_by_mask
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention import Layer
    from ..models.attention.map_editing import SourceAttention, WordMap

METHOD = MethodInfo(
    requires=frozenset({"text_attention", "spatial_attention", "clip_norms"}),
    draws_noise=False,
    unused_unless={
        "mapping": "cross_replace_steps",
        "word_weight": "cross_replace_steps",
        "attention_blend": "self_replace_steps",
    },
)
BLEND_START, BLEND_END = 0.2, 0.8  # shares of the steps with a blend of latents
HEAT = "target_heat"  # the name in a step's state of the target's maps of the edited words, summed over steps


@settings_class
class Config(ddim.DDIMConfig):
    """The values of the authors' scripts for changes of style and attributes; for a change of shape they use 0.5."""

    target_guidance: Number = Field(default=7.5, description="guidance scale of the sampling")
    cross_replace_steps: Share = Field(
        default=0.8,
        description="share of the steps whose cross-attention is made from the source's maps",
    )
    self_replace_steps: Share = Field(
        default=0.8,
        description="share of the steps whose self-attention takes the source's maps",
    )
    mapping: Literal["auto", "replace", "refine"] = Field(
        default="auto",
        description="how cross maps follow the words. replace: a changed word takes the map of the word in its place; "
        "refine: new words keep their own maps; auto: replace between prompts of as many words, else refine",
    )
    word_weight: Number = Field(
        default=1.0, description="c: factor on the cross maps of the words that drive the edit"
    )
    attention_blend: bool = Field(
        default=True,
        description="keep the target's own self-attention where the edited words attend (B); off: nowhere",
    )
    latent_blend: bool = Field(
        default=False, description="take the inverted latents where no edited word attends"
    )
    blend_threshold: Number = Field(
        default=0.3,
        description="tau: share of a frame's largest attention that a mask begins at; 0 is everywhere, 2 nowhere",
    )
    frame_attention: Literal["previous+first", "middle", "own"] = Field(
        default="previous+first",
        description="the frames whose keys and values self-attention over space reads; own: of each frame alone",
    )
    frame_attention_channels: Count = Field(
        default=0,
        description="self-attention of fewer channels reads its own frame alone; the authors' examples: 640 or 1280",
    )
    variant: Literal["released", "paper"] = Field(
        default="released",
        description="as released the inverted latents of latent_blend are one level too noisy, words after a "
        "replacement with another number of tokens are not aligned, and cross maps have a share of N + 1 steps",
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    field = choose_timesteps(field, config)
    levels = ddim.plan_levels(field, inputs, config)
    words = plan_words(inputs, config)
    z, state = yield from ddim.invert(inflate(field, config), inputs, config, levels, resume)
    for i in remaining_steps(resume, "edit", levels.first_step, config.steps):
        sigma, sigma_next = levels.sigmas[i], levels.sigmas[i + 1]
        step = StepEdit(
            inputs, config, words, i - levels.first_step, config.steps - levels.first_step
        )
        with see_clip(field, config):
            source = read_source(field, step, levels, state, i)
            with edit_maps(field, step, source) as own:
                velocity = guided_velocity(
                    field, z, sigma, inputs.target, "tgt", config.target_guidance
                )
        z = z + (sigma_next - sigma) * velocity
        z, state = blend_latent(z, step, source, own, levels, state, i)
        z = levels.hold(inputs, state, i + 1, z)
        state = ddim.drop_above(state, config.steps - i - 1)
        yield Step("edit", i + 1, config.steps, z, state)


@dataclass(frozen=True)
class StepEdit:
    """What a sampling step edits. number: of the step, from 0 on, among the `count` that run."""

    inputs: EditInputs
    config: Config
    words: WordMap | None
    number: int
    count: int

    @property
    def edits_cross(self) -> bool:
        return self.words is not None and self._is_replaced("cross")

    @property
    def edits_self(self) -> bool:
        return self._is_replaced("self")

    @property
    def blends_latent(self) -> bool:
        first, end = int(BLEND_START * self.count), int(BLEND_END * self.count)
        return self.sums_heat and first < self.number + 1 < end

    @property
    def sums_heat(self) -> bool:
        """Whether the target's maps of the edited words are summed, for the blend of latents of a later step."""
        has_words = self.inputs.source.edit_tokens or self.inputs.target.edit_tokens
        return self.config.latent_blend and bool(has_words)

    def _is_replaced(self, kind: Literal["cross", "self"]) -> bool:
        from ..models.attention.map_editing import is_replaced

        config = self.config
        share = config.cross_replace_steps if kind == "cross" else config.self_replace_steps
        return is_replaced(share, self.number, self.count, kind, config.variant)


def plan_words(inputs: EditInputs, config: Config) -> WordMap | None:
    """Return how cross maps follow the words; None where no step edits them."""
    from ..models.attention.map_editing import plan_word_map

    source, target = inputs.source, inputs.target
    if not config.cross_replace_steps:
        return None
    return plan_word_map(
        source.tokens,
        target.tokens,
        target.positive.shape[1],
        config.mapping,
        config.variant,
        dict.fromkeys(target.edit_tokens, config.word_weight),
    )


@contextlib.contextmanager
def see_clip(field: VelocityField, config: Config) -> Iterator[None]:
    """Let norms run over the clip, and self-attention over space read other frames, inside the block."""
    from ..models import attention
    from ..models.attention.frames import attend_to_frames

    def rule(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend_to_frames(layer, q, k, v, choose_sources(layer, q, config))

    with contextlib.ExitStack() as stack:
        stack.enter_context(field.normalize_over_clip())
        if config.frame_attention != "own":
            stack.enter_context(attention.use_rule(field, rule, is_spatial_self))
        yield


def inflate(field: VelocityField, config: Config) -> VelocityField:
    """Return a field whose frames see each other in every evaluation."""

    def velocities(
        sigma: float, evaluations: Sequence[Evaluation], frames: Sequence[int] | None = None
    ) -> list[Tensor]:
        with see_clip(field, config):
            return field.velocities(sigma, evaluations, frames)

    return replace(field, velocities=velocities)


def is_spatial_self(layer: Layer) -> bool:
    return layer.kind == "self" and layer.axis == "spatial"


def choose_sources(layer: Layer, q: Tensor, config: Config) -> list[list[int]]:
    """Return the frames that each frame of a layer attends to. The middle one of an even number is the earlier."""
    from ..models.attention.frames import fixed_sources, frame_sources

    count, channels = len(layer.frames), q.shape[1] * q.shape[3]
    if config.frame_attention == "own" or channels < config.frame_attention_channels:
        return frame_sources("own", count)
    if config.frame_attention == "middle":
        return fixed_sources([(count - 1) // 2], count)
    return frame_sources(config.frame_attention, count)


def read_source(
    field: VelocityField,
    step: StepEdit,
    levels: ddim.Levels,
    state: dict[str, Tensor],
    i: int,
) -> SourceAttention:
    """Return the source's queries and keys of the inversion step that sampling step i reverses.

    That step began at the level to which step i goes, and gave the network the timestep of the level above. With the
    older rule of the inversion, it is the latent at that level itself.
    """
    from ..models.attention.map_editing import has_small_map, record_source

    if not (step.edits_cross or step.edits_self or step.blends_latent):
        return {}
    below, above = levels.sigmas[i + 1], levels.sigmas[i]
    number = levels.steps - i - 1
    sigma, network_sigma = below, above
    if step.config.inversion_timestep == "current":
        number, sigma, network_sigma = number + 1, above, None

    def is_read(layer: Layer) -> bool:
        return has_small_map(layer) and (layer.kind == "cross" or step.edits_self)

    with record_source(field, is_read) as found:
        field.velocity(
            state[ddim.inverted_name(number)],
            sigma,
            step.inputs.source,
            branch="src+",
            network_sigma=network_sigma,
        )
    return found


@contextlib.contextmanager
def edit_maps(
    field: VelocityField, step: StepEdit, source: SourceAttention
) -> Iterator[SourceAttention]:
    """Edit the maps of the target's positive evaluations inside the block. Yield its own queries and keys.

    They are those of cross-attention, before the edit, if later steps need them.
    """
    from ..models import attention
    from ..models.attention import map_editing

    own: SourceAttention = {}
    config, tokens = step.config, step.inputs.source.edit_tokens
    heat = None
    if config.attention_blend and step.edits_self:
        heat = map_editing.word_heat(source, tokens)

    def rule(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        if layer.kind == "cross":
            if step.sums_heat:
                own[layer] = q, k
            if not step.edits_cross:
                return None
            assert step.words is not None
            return map_editing.edit_cross_attention(layer, q, k, v, source, step.words)
        if not step.edits_self:
            return None
        size = layer.token_grid[1:]
        mask = None
        if heat is not None:
            mask = map_editing.blend_mask(heat, size, config.blend_threshold)
        sources = choose_sources(layer, q, config)
        return map_editing.edit_self_attention(layer, q, k, v, source, sources, mask)

    def is_edited(layer: Layer) -> bool:
        return layer.branch in ("", "tgt+") and map_editing.has_small_map(layer)

    if not (step.edits_cross or step.edits_self or step.sums_heat):
        yield own
        return
    with attention.use_rule(field, rule, is_edited):
        yield own


def blend_latent(
    z: Tensor,
    step: StepEdit,
    source: SourceAttention,
    own: SourceAttention,
    levels: ddim.Levels,
    state: dict[str, Tensor],
    i: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return z after sampling step i with the inverted latent where no edited word attends, and the state."""
    from ..models.attention.map_editing import blend_mask, unite_masks, word_heat

    if not step.sums_heat:
        return z, state
    heats = [word_heat(source, step.inputs.source.edit_tokens)] if source else []
    target = word_heat(own, step.inputs.target.edit_tokens)
    if target is not None:
        target = target + state[HEAT] if HEAT in state else target
        state = {**state, HEAT: target}
        heats.append(target)
    if not step.blends_latent:
        return z, state
    size, tau = (z.shape[3], z.shape[4]), step.config.blend_threshold
    mask = unite_masks(blend_mask(heat, size, tau) for heat in heats if heat is not None)
    return blend_by_mask(mask, z, find_inverted(step.config, levels, state, i)), state


def find_inverted(config: Config, levels: ddim.Levels, state: dict[str, Tensor], i: int) -> Tensor:
    """Return the inverted latent that is blended into z after sampling step i; as released one level too noisy."""
    number = levels.steps - i - 1
    if config.variant == "paper":
        return state[ddim.inverted_name(number)]
    scales = [ddim.scale_of(sigma) for sigma in levels.sigmas[i : i + 2]]
    return state[ddim.inverted_name(number + 1)] / scales[0] * scales[1]
