"""FlowAnchor (arXiv:2604.22586): FlowEdit with refined cross-attention and a signal whose magnitude is modulated.

dV = V(z + x_sigma - x, target) - V(x_sigma, source), with spatial-aware attention refinement (SAR, Eqs. 6-9) of the
target's evaluations while sigma >= tau
dV <- (1 + g C) dV, adaptive magnitude modulation (AMM, Eqs. 10-12)
z <- z + (sigma' - sigma) dV
The mask steers attention. It does not limit the change, unless `mask_velocity` is set.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from ..base.notices import warn_user
from ..base.schema import (
    Field,
    Guidance,
    Number,
    Range,
    Share,
    SolverName,
    Steps,
    Timesteps,
    settings_class,
)
from ..sampling import observing
from ..sampling.field import (
    EditInputs,
    Step,
    TargetArea,
    VelocityField,
    initial_state,
    remaining_steps,
)
from ..sampling.guidance import GuidedPoint, guided_velocities
from ..sampling.guidance_schedule import GuidedConfig, begin_guided
from ..sampling.masking import apply_mask, contrast_map
from ..sampling.noise import add_noise, keyed_noise
from ..sampling.solvers import restore_solver
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention import Layer
    from ..models.attention.refinement import MaskRows, WordColumns

METHOD = MethodInfo(
    requires=frozenset({"text_attention"}),
    unused_unless={"base_frames": "gamma", "contrast": "gamma"},
    unmasked_suffix="no SAR",
    words_per_mask=True,
    explains=True,
)
Refinement: TypeAlias = "Callable[[int], contextlib.AbstractContextManager[object]]"


@settings_class
class Config(GuidedConfig):
    """The paper's values. A description says where the paper states none, and docs/flowanchor.md what was measured."""

    steps: Steps = Field(default=25, description="T: number of steps of the noise schedule")
    strength: Share = Field(
        default=0.92,
        description="n_max / T: the share of the schedule that is run; it skips the first two of 25 steps",
    )
    beta_text: Share = Field(default=0.3, description="b1: strength of text-token modulation (TTM)")
    beta_video: Share = Field(
        default=0.3, description="b2: strength of spatio-temporal modulation (STM)"
    )
    tau: Share = Field(
        default=0.6,
        description="tau: attention is refined while sigma (or the step) is at least this",
    )
    tau_by: Literal["sigma", "step"] = Field(
        default="sigma",
        description="sigma >= tau, or steps left >= tau T; the paper's text allows both",
    )
    gamma: Number = Field(default=1.0, description="gamma: strength of AMM")
    base_frames: Annotated[int, Range(2, 10000)] = Field(
        default=21, description="F0: latent frames at which the gain of AMM is gamma"
    )
    contrast: Literal["signed", "abs"] = Field(
        default="signed",
        description="C from the signed mean over channels (the paper), or from the mean magnitude",
    )
    text_range: Literal["all", "prompt"] = Field(
        default="all",
        description="row extremes over all text tokens with padding, or those of the prompt; not stated in the paper",
    )
    padding: Literal["other", "kept"] = Field(
        default="other",
        description="padding is modulated as other words are, or kept unchanged; not stated in the paper",
    )
    statistics: Literal["head", "mean"] = Field(
        default="head",
        description="extremes of each head, or of the heads' mean; not stated in the paper",
    )
    mask_velocity: bool = Field(
        default=False,
        description="also keep the latents outside the mask, which the paper does not",
    )
    region: Literal["auto", "mask", "off"] = Field(
        default="auto",
        description="where the target is evaluated. mask: inside the mask alone, with the source's keys and values "
        "outside (Wan models only), and the latents there are kept. off: everywhere, as in the paper. auto: mask if "
        "mask_velocity is true, otherwise off",
    )
    solver: SolverName = Field(
        default="euler",
        description="how the difference of velocities is integrated; the paper's is euler",
    )
    source_guidance: Guidance = Field(
        default=5.0,
        description="guidance scale of the source prompt; not stated in the paper: Wan-Edit's",
    )
    target_guidance: Guidance = Field(
        default=12.0,
        description="guidance scale of the target prompt; not stated in the paper: Wan-Edit's",
    )
    timesteps: Timesteps = Field(
        default="whole",
        description="timesteps that the network is given; not stated in the paper: Wan-Edit's",
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    if inputs.mask is None:
        warn_user("without a mask the target's attention is not refined; give one, or --mask auto")
    elif not inputs.mask.any():
        return  # nothing is to be edited
    sampler = begin_guided(field, inputs, config, resume)
    sigmas, first = sampler.sigmas, sampler.first_step
    x = inputs.latent
    gain = (
        config.gamma * math.log(x.shape[2]) / math.log(config.base_frames)
    )  # gamma log F / log F0
    refine = prepare_refinement(field, inputs, config)
    region = choose_region(inputs, config)
    z, state = initial_state(resume, x)
    solver = restore_solver(config.solver, state)
    for i in remaining_steps(resume, "edit", first, config.steps):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        x_sigma = add_noise(x, sigma, keyed_noise(x, inputs.seed, i))
        z_sigma = x_sigma + (z - x)
        with refine(i) if is_early(config, sigma, i) else contextlib.nullcontext():
            v_target, v_source = guided_velocities(
                sampler.field,
                sigma,
                GuidedPoint(z_sigma, inputs.target, "tgt", config.target_guidance, region),
                GuidedPoint(x_sigma, inputs.source, "src", config.source_guidance),
            )
        difference = v_target - v_source
        if region is not None:  # outside it is of the two guidance scales alone
            difference = apply_mask(region.to(difference), difference)
        if observing.is_observed():
            observing.observe("contrast C", i, contrast_map(difference, config.contrast, 1e-7))
            observing.observe("change |dV|", i, difference.abs())
        change = modulate_magnitude(difference, gain, config.contrast)
        change = inputs.apply_mask(change) if config.mask_velocity else change
        z, solver = solver.step(z, change, sigma, sigma_next, last=i == config.steps - 1)
        yield Step("edit", i + 1, config.steps, z, solver.to_dict() | sampler.state())


def choose_region(inputs: EditInputs, config: Config) -> Tensor | None:
    """Return where the target is evaluated, 1 1 f h w boolean; None: everywhere."""
    setting = config.region
    if setting == "auto":
        setting = "mask" if config.mask_velocity else "off"
    return inputs.choose_region(setting)


def is_early(config: Config, sigma: float, i: int) -> bool:
    """Return whether attention is refined at step i."""
    if config.tau_by == "sigma":
        return sigma >= config.tau
    return config.steps - i >= config.tau * config.steps


def modulate_magnitude(difference: Tensor, gain: float, contrast: str) -> Tensor:
    """Return AMM of a difference of velocities b c f h w (Eqs. 10-12, 23-29): `(1 + gain C) dV`.

    C is the mean of dV over channels, scaled to [0, 1] over the sample.
    """
    return (1 + contrast_map(difference, contrast, 1e-7, gain)) * difference


def prepare_refinement(field: VelocityField, inputs: EditInputs, config: Config) -> Refinement:
    """Return a function that opens SAR for a step. It has no effect without a mask, words and strength."""
    has_strength = config.beta_text or config.beta_video
    if inputs.mask is None or not inputs.target.edit_tokens or not has_strength:
        return contextlib.nullcontext
    from ..models import attention

    rule = RefinementRule(inputs.mask, inputs.target, config, inputs.areas)

    def open_step(step: int) -> contextlib.AbstractContextManager[object]:
        stack = contextlib.ExitStack()
        stack.enter_context(attention.use_rule(field, rule, RefinementRule.applies_to))
        if observing.is_observed():
            stack.enter_context(observe_attention(field, rule, step))
        return stack

    return open_step


@contextlib.contextmanager
def observe_attention(field: VelocityField, rule: RefinementRule, step: int) -> Iterator[None]:
    """Observe the attention to each mask's words before and after SAR, the mean over heads and layers."""
    from ..models import attention
    from ..models.attention.maps import average_layers

    found: dict[str, dict[Layer, Tensor]] = {}

    def read(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> None:
        for name, values in rule.attention_to_words(layer, q, k, v):
            found.setdefault(name, {})[layer] = layer.to_grid(values)

    with attention.record(field, RefinementRule.applies_to, read):
        yield
    for name, maps in found.items():
        observing.observe(f"attention: {name}", step, average_layers(maps))


class RefinementRule:
    """SAR as an attention rule: of all cross-attention layers, in the target's positive evaluations.

    areas: the masks that have words of their own; by default the one mask has all words that drive the edit.
    """

    def __init__(self, mask: Tensor, target: Any, config: Config, areas: Sequence[TargetArea] = ()):
        self.target, self.config = target, config
        self.areas = tuple(areas) or (TargetArea(mask, target.edit_tokens),)
        # What is the same in all layers and steps: a GPU would wait where it is made.
        self._rows: dict[tuple, MaskRows] = {}  # by frames, token grid, axis and evaluated tokens
        self._keys: dict[tuple, tuple[WordColumns, Tensor | None]] = {}  # by text span and count

    @staticmethod
    def applies_to(layer: Layer) -> bool:
        return layer.kind == "cross" and layer.branch == "tgt+"

    def __call__(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from ..models.attention.refinement import LogitRefinement, refine_attention

        begin, end = layer.text_span
        words, exempt = self._find_keys(layer, k)
        options = LogitRefinement(
            self.config.beta_text,
            self.config.beta_video,
            key_end=end if self.config.text_range == "all" else begin + self.target.token_count,
            exempt_keys=exempt,
            statistics=self.config.statistics,
            key_begin=begin,
        )
        # The equations' extremes of a column are over all frames: join the frames if they are in the batch.
        batch, heads, tokens, dim = q.shape
        joined = q.transpose(0, 1).reshape(1, heads, batch * tokens, dim)
        rows = self._find_rows(layer)
        output = refine_attention(joined, k[:1], v[:1], rows, words, options)
        return output.view(heads, batch, tokens, dim).transpose(0, 1)

    def attention_to_words(
        self, layer: Layer, q: Tensor, k: Tensor, v: Tensor
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield each query's attention to each area's words before and after SAR, `B N`, under a name.

        It is the output of attention to values that are 1 at these words and 0 elsewhere.
        """
        from torch.nn.functional import scaled_dot_product_attention

        for number, area in enumerate(self.areas, 1):
            is_word = v.new_zeros(v.shape)
            is_word[:, :, layer.key_positions(area.edit_tokens, v.device), 0] = 1
            which = f"mask {number}, " if len(self.areas) > 1 else ""
            before = scaled_dot_product_attention(q, k, is_word)
            yield f"{which}before", before[..., 0].mean(1)
            yield f"{which}after", self(layer, q, k, is_word)[..., 0].mean(1)

    def _find_rows(self, layer: Layer) -> MaskRows:
        """Return the layer's tokens inside each mask and outside all of them, of B N."""
        from ..models.attention.refinement import MaskRows

        # The region is the same in all steps, so its tokens are known by their number.
        count = None if layer.tokens is None else len(layer.tokens)
        key = (layer.frames, layer.token_grid, layer.axis, count)
        if key not in self._rows:
            covered = (layer.tokens_in_mask(area.mask).flatten() for area in self.areas)
            self._rows[key] = MaskRows.split(*covered)
        return self._rows[key]

    def _find_keys(self, layer: Layer, k: Tensor) -> tuple[WordColumns, Tensor | None]:
        """Return the columns J, and the keys that are not modulated."""
        from ..models.attention.refinement import WordColumns

        key = (layer.text_span, k.shape[2], k.device)
        if key not in self._keys:
            columns = (layer.key_positions(area.edit_tokens) for area in self.areas)
            words = WordColumns.join(*(found.tolist() for found in columns), device=k.device)
            self._keys[key] = words, self._exempt_keys(layer, k)
        return self._keys[key]

    def _exempt_keys(self, layer: Layer, k: Tensor) -> Tensor | None:
        """Return the keys that are not modulated, L boolean: those that are no text, and padding if it is kept."""
        import torch

        position = torch.arange(k.shape[2], device=k.device)
        begin, end = layer.text_span
        end = begin + self.target.token_count if self.config.padding == "kept" else end
        exempt = (position < begin) | (position >= end)
        return exempt if exempt.any() else None
