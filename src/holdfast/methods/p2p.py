"""Prompt-to-Prompt (arXiv:2208.01626) on a clip that is inverted by null-text inversion (arXiv:2211.09794).

Source and target are sampled side by side from the inverted latent, both with guidance. At step j of N the target's
positive evaluation takes the source's attention maps:
cross-attention  C <- Edit(C_src, C)         the first `cross_replace_steps` (models/attention/map_editing.py)
self-attention   S <- S_src                  the first `self_replace_steps`, in layers of at most 32^2 queries
latents          z <- z_src + B (z - z_src)  from 20 % of the steps on; B is where the maps of the edited words, summed
                                             over the steps so far, exceed tau of their maximum in either prompt

Null-text inversion (sampling/null_text.py) fits the embedding of the negative prompt at each step, so that the source
returns along the inversion. Each step's fit stands before its sampling step; the order of the authors, all fits first,
gives the same numbers. Frames are edited one by one, and may share the embedding (Video-P2P, arXiv:2303.04761).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..base.schema import Count, Field, Number, Share, settings_class
from ..sampling import ddim, null_text
from ..sampling.field import EditInputs, Step, VelocityField, choose_timesteps, remaining_steps
from ..sampling.guidance import guided_velocity
from ..sampling.masking import blend_by_mask
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention import Layer
    from ..models.attention.map_editing import SourceAttention, WordMap

METHOD = MethodInfo(
    requires=frozenset({"text_attention", "spatial_attention", "frame_text"}),
    draws_noise=False,
    gradient_iterations="null_text_iterations",
    unused_unless={
        "mapping": "cross_replace_steps",
        "word_weight": "cross_replace_steps",
        "blend_threshold": "local_blend",
        "shared_null_text": "null_text_iterations",
        "target_negative": "null_text_iterations",
    },
)
BLEND_START = 0.2  # share of the steps before the first blend of latents
SOURCE, EMBEDDING = (
    "source",
    "embedding",
)  # names in a step's state: z_src, and the fitted embedding
HEAT = {
    "src": "source_heat",
    "tgt": "target_heat",
}  # maps of the edited words, summed over the steps


@settings_class
class Config(ddim.DDIMConfig):
    """The values of the authors' null-text example."""

    source_guidance: Number = Field(
        default=7.5, description="w: guidance scale of the source, which the null text is fitted to"
    )
    target_guidance: Number = Field(default=7.5, description="guidance scale of the target")
    cross_replace_steps: Share = Field(
        default=0.8,
        description="share of the steps whose cross-attention is made from the source's maps",
    )
    self_replace_steps: Share = Field(
        default=0.5, description="share of the steps whose self-attention takes the source's maps"
    )
    mapping: Literal["auto", "replace", "refine"] = Field(
        default="auto",
        description="how cross maps follow the words. replace: a changed word takes the map of the word in its place; "
        "refine: new words keep their own maps; auto: replace between prompts of as many words, else refine",
    )
    word_weight: Number = Field(
        default=1.0, description="c: factor on the cross maps of the words that drive the edit"
    )
    local_blend: bool = Field(
        default=True, description="take the source's latents where no edited word attends"
    )
    blend_threshold: Number = Field(
        default=0.3, description="tau: share of a frame's largest attention that a mask begins at"
    )
    null_text_iterations: Count = Field(
        default=10,
        description="iterations of Adam at each step, at most; 0: no null-text inversion, the negative prompt as it is",
    )
    shared_null_text: bool = Field(
        default=False,
        description="one embedding for all frames (Video-P2P), instead of one for each",
    )
    target_negative: Literal["fitted", "initial"] = Field(
        default="fitted",
        description="the target's negative prompt: the fitted embedding, or the one before (Video-P2P)",
    )
    variant: Literal["released", "paper"] = Field(
        default="released",
        description="as released the target's maps are read for the blend after their edit, words after a replacement "
        "with another number of tokens are not aligned, and cross maps have a share of N + 1 steps",
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    field = choose_timesteps(field, config)
    levels = ddim.plan_levels(field, inputs, config)
    words = plan_words(inputs, config)
    z, state = yield from ddim.invert(field, inputs, config, levels, resume)
    for i in remaining_steps(resume, "edit", levels.first_step, config.steps):
        step = StepEdit(
            inputs, config, words, i - levels.first_step, config.steps - levels.first_step
        )
        sigma, sigma_next = levels.sigmas[i], levels.sigmas[i + 1]
        z_source = state.get(SOURCE, z)
        state = fit_null_text(field, step, z_source, levels, state, i)
        source, target = condition(step, state)
        with read_source(field, step) as found:
            v_source = guided_velocity(
                field, z_source, sigma, source, "src", config.source_guidance
            )
        with edit_maps(field, step, found) as heats:
            v_target = guided_velocity(field, z, sigma, target, "tgt", config.target_guidance)
        z_source = z_source + (sigma_next - sigma) * v_source
        z = z + (sigma_next - sigma) * v_target
        state = sum_heats(step, found, heats, {**state, SOURCE: z_source})
        z = blend_latent(z, step, state)
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
    def sums_heat(self) -> bool:
        """Whether the maps of the edited words are summed, for the blend of latents."""
        has_words = self.inputs.source.edit_tokens or self.inputs.target.edit_tokens
        return self.config.local_blend and bool(has_words)

    @property
    def blends_latent(self) -> bool:
        return self.sums_heat and self.number + 1 > int(BLEND_START * self.count)

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
    weights = dict.fromkeys(target.edit_tokens, config.word_weight)
    length = target.positive.shape[1]
    return plan_word_map(
        source.tokens, target.tokens, length, config.mapping, config.variant, weights
    )


def fit_null_text(
    field: VelocityField,
    step: StepEdit,
    z_source: Tensor,
    levels: ddim.Levels,
    state: dict[str, Tensor],
    i: int,
) -> dict[str, Tensor]:
    """Return the state with the embedding of sampling step i; as it is where none is fitted.

    At a guidance scale of 1 the negative prompt has no weight, so there is nothing to fit.
    """
    config, source = step.config, step.inputs.source
    if not config.null_text_iterations or config.source_guidance == 1:
        return state
    begun = state.get(EMBEDDING)
    if begun is None:
        frames = z_source.shape[2]
        begun = null_text.begin_embedding(source, frames, config.shared_null_text)
    wanted = state[ddim.inverted_name(levels.steps - i - 1)]
    sigma, sigma_next = levels.sigmas[i], levels.sigmas[i + 1]
    problem = null_text.NullTextStep(
        z_source, wanted, sigma, sigma_next, step.number, config.source_guidance
    )
    fitted = null_text.fit_embedding(field, source, problem, begun, config.null_text_iterations)
    return {**state, EMBEDDING: fitted}


def condition(step: StepEdit, state: dict[str, Tensor]) -> tuple[Any, Any]:
    """Return the conditionings of source and target with their negative embeddings."""
    source, target = step.inputs.source, step.inputs.target
    if EMBEDDING not in state:
        return source, target
    embedding = state[EMBEDDING]
    if step.config.target_negative == "fitted":
        target = null_text.with_embedding(target, embedding)
    return null_text.with_embedding(source, embedding), target


def read_source(
    field: VelocityField, step: StepEdit
) -> contextlib.AbstractContextManager[SourceAttention]:
    """Collect the queries and keys of the source's positive evaluation that the step uses."""
    from ..models.attention.map_editing import has_small_map, record_source

    reads_cross = step.edits_cross or step.sums_heat

    def is_read(layer: Layer) -> bool:
        if layer.kind == "cross":
            return step.edits_cross or (step.sums_heat and has_small_map(layer))
        return step.edits_self and has_small_map(layer)

    if not (reads_cross or step.edits_self):
        return contextlib.nullcontext({})
    return record_source(field, is_read)


@contextlib.contextmanager
def edit_maps(
    field: VelocityField, step: StepEdit, source: SourceAttention
) -> Iterator[dict[Layer, Tensor]]:
    """Edit the maps of the target's positive evaluations inside the block. Yield the heat of the edited words.

    It is 1 1 f h w by layer, if the step sums it.
    """
    from ..models import attention
    from ..models.attention import map_editing
    from ..models.attention.frames import frame_sources

    heats: dict[Layer, Tensor] = {}

    def rule(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        if layer.kind == "self":
            if not (step.edits_self and map_editing.has_small_map(layer)):
                return None
            sources = frame_sources("own", len(layer.frames))
            return map_editing.edit_self_attention(layer, q, k, v, source, sources, None)
        own = edited = attention_map(q, k)
        if step.edits_cross:
            assert step.words is not None
            before = attention_map(*map_editing.find_source(source, layer))
            edited = step.words.edit(before, own)
        if step.sums_heat and map_editing.has_small_map(layer):
            read = edited if step.config.variant == "released" else own
            heats[layer] = layer.to_grid(read[..., tokens].mean((1, 3)))
        return edited.to(v) @ v if step.edits_cross else None

    attention_map = map_editing.attention_probabilities
    tokens = list(step.inputs.target.edit_tokens)
    if not (step.edits_cross or step.edits_self or step.sums_heat):
        yield heats
        return
    with attention.use_rule(field, rule, lambda layer: layer.branch in ("", "tgt+")):
        yield heats


def sum_heats(
    step: StepEdit,
    source: SourceAttention,
    heats: dict[Layer, Tensor],
    state: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Return the state with this step's maps of the edited words added."""
    from ..models.attention import map_editing, maps

    if not step.sums_heat:
        return state
    chosen = map_editing.blend_layers(heats)
    found = {
        HEAT["src"]: map_editing.word_heat(source, step.inputs.source.edit_tokens),
        HEAT["tgt"]: maps.average_layers({layer: heats[layer] for layer in chosen})
        if step.inputs.target.edit_tokens
        else None,
    }
    for name, heat in found.items():
        if heat is not None:
            state = {**state, name: state[name] + heat if name in state else heat}
    return state


def blend_latent(z: Tensor, step: StepEdit, state: dict[str, Tensor]) -> Tensor:
    """Return z with the source's latent where no edited word attends."""
    from ..models.attention.map_editing import blend_mask, unite_masks

    if not step.blends_latent:
        return z
    size, tau = (z.shape[3], z.shape[4]), step.config.blend_threshold
    heats = [state[name] for name in HEAT.values() if name in state]
    mask = unite_masks(blend_mask(heat, size, tau) for heat in heats)
    return blend_by_mask(mask, z, state[SOURCE])
