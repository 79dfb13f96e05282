"""VideoGrain (Yang et al., arXiv:2502.17258): regions with words of their own attract the logits of attention.

With S = Q K^T / sqrt(d), in the first steps of sampling,

    S <- S + lambda R tau P (max S - S) - lambda R tau (1 - P) (S - min S),  tau = ((t - 1) / 1000)^5

In cross-attention P = 1 for the words of the query's region; in self-attention over all frames P = 1 for the tokens of
its region. R = 1 - the region's share of the tokens. The states of a region's words are those of the words alone. On
the finest grid attention follows optical flow, as in FLATTEN (arXiv:2310.05922).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..base.lazy import torch
from ..base.notices import warn_user
from ..base.schema import Count, Field, Guidance, Number, Steps, settings_class
from ..sampling import ddim
from ..sampling.field import (
    Branch,
    EditInputs,
    Evaluation,
    Step,
    TargetArea,
    VelocityField,
    choose_timesteps,
    remaining_steps,
)
from ..sampling.guidance import GuidedPoint
from ..sampling.noise import add_noise, keyed_noise
from ..sampling.trajectory_settings import TrajectoryConfig
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention import Layer
    from ..models.attention.trajectories import FlowAttention, Trajectories
    from ..models.injection import InjectionTable

METHOD = MethodInfo(
    requires=frozenset({"text", "text_attention", "spatial_attention", "features", "clip_norms"}),
    words_per_mask=True,
    unmasked_suffix="no regions",
    unused_unless={"self_strength": "modulated_steps", "cross_strength": "modulated_steps"},
)
TIMESTEPS = 1000  # of the schedule that models are trained on, as tau has it
MAX_HALF = 65504  # the largest number in half precision


@settings_class
class Config(TrajectoryConfig):
    """The authors' values."""

    steps: Steps = Field(default=50, description="number of steps of the noise schedule")
    target_guidance: Guidance = Field(
        default=7.5, description="guidance scale of the target prompt"
    )
    variant: Literal["paper", "released"] = Field(
        default="released",
        description="paper: both kinds of attention are modulated for the target prompt, the rest of the frame is a "
        "region with the other words, and latents outside the mask are the inverted clip's. released: self-attention "
        "is modulated for the negative prompt, with another size of regions, the rest is not a region, cross-attention "
        "on the finest grid stays, and latents outside are the clip with fresh noise of the level before",
    )
    modulated_steps: Count = Field(
        default=15, description="the first steps, in which attention is modulated"
    )
    self_strength: Number = Field(default=0.3, description="lambda of self-attention")
    cross_strength: Number = Field(default=1.0, description="lambda of cross-attention")
    inject_steps: Count = Field(
        default=0,
        description="the first steps, in which queries, keys and residual branches of the source are injected",
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    field = choose_timesteps(field, config)
    levels = ddim.plan_levels(field, inputs, config)
    first = levels.first_step
    if first >= config.steps:
        return
    guided = GuidedStep.prepare(field, inputs, config, levels)
    with guided.inflate():
        is_drawn = resume is None and config.posterior == "sample"
        drawn = ddim.sample_latent(inputs) if is_drawn else inputs
        z, state = yield from ddim.invert(field, drawn, config, levels, resume)
        for i in remaining_steps(resume, "edit", first, config.steps):
            sigma, sigma_next = levels.sigmas[i], levels.sigmas[i + 1]
            z = z + (sigma_next - sigma) * guided.velocity(z, state, i)
            z = hold(inputs, config, levels, state, (i, z))
            state = ddim.drop_above(state, config.steps - i - 1)
            yield Step("edit", i + 1, config.steps, z, state)


def hold(
    inputs: EditInputs,
    config: Config,
    levels: ddim.Levels,
    state: dict[str, Tensor],
    moved: tuple[int, Tensor],
) -> Tensor:
    """Return z after step i with what belongs outside the mask. moved: i and z.

    released: the clip with fresh noise of the level before the step, one too noisy. After the last step, the clip.
    """
    i, z = moved
    if config.variant == "paper" or inputs.mask is None or i + 1 == config.steps:
        return levels.hold(inputs, state, i + 1, z)
    sigma, sigma_next = levels.sigmas[i], levels.sigmas[i + 1]
    noisy = add_noise(inputs.latent, sigma, keyed_noise(inputs.latent, inputs.seed, i, repeat=1))
    scale = ddim.scale_of(sigma_next) / ddim.scale_of(sigma)
    return inputs.blend_outside(z, scale * noisy)


def find_areas(inputs: EditInputs) -> tuple[TargetArea, ...]:
    """Return the regions: the masks with words of their own, or one with all words that drive the edit."""
    if inputs.areas:
        return inputs.areas
    mask = inputs.mask
    if mask is None:
        warn_user(
            "without a mask the target's attention is moved towards one region, the whole frame; give a mask, or "
            "several that each have words"
        )
        mask = torch.ones_like(inputs.latent[:, :1])
    return (TargetArea(mask, inputs.target.edit_tokens),)


def splice_words(inputs: EditInputs, areas: Sequence[TargetArea]) -> Any:
    """Return the target's conditioning, with the states of each region's words as they are alone.

    Where the words alone have another number of tokens, or their text is not known, the states stay.
    """
    from ..models.base import Prompt

    target = inputs.target
    for area in areas:
        if not area.text:
            continue
        words = inputs.get_pixels().condition(Prompt(area.text))
        if words.token_count - 2 == len(area.edit_tokens):  # without the marks of begin and end
            target = target.splice_words(area.edit_tokens, words)
    return target


def time_factor(field: VelocityField, config: Config, sigma: float, step: int) -> float:
    """Return tau = ((t - 1) / 1000)^5 of a noise level."""
    known = field.training_sigmas()
    if known:
        timestep = min(range(len(known)), key=lambda t: abs(known[t] - sigma))
    else:
        timestep = TIMESTEPS * (1 - step / config.steps)
    return (max(timestep - 1, 0) / TIMESTEPS) ** 5


@dataclass(frozen=True)
class GuidedStep:
    """The evaluations of a step, under the rules of attention."""

    field: VelocityField
    inputs: EditInputs
    config: Config
    levels: ddim.Levels
    target: Any  # conditioning with the spliced words
    areas: tuple[TargetArea, ...]
    trajectories: Trajectories
    table: InjectionTable

    @classmethod
    def prepare(
        cls, field: VelocityField, inputs: EditInputs, config: Config, levels: ddim.Levels
    ) -> GuidedStep:
        """Return the evaluations of an edit."""
        from ..models.attention.trajectories import Trajectories

        areas, frames = find_areas(inputs), inputs.get_pixels().frames()
        trajectories = Trajectories.of_clip(frames, config.flow, inputs.seed, config.variant)
        target, table = splice_words(inputs, areas), make_table(field, config)
        return cls(field, inputs, config, levels, target, areas, trajectories, table)

    @contextlib.contextmanager
    def inflate(self) -> Iterator[None]:
        """Let self-attention read all frames and trajectories, and group norms run over the clip."""
        from ..models import attention
        from ..models.attention.trajectories import FlowAttention, is_spatial_self

        def is_joint(layer: Layer) -> bool:
            return is_spatial_self(layer) and not layer.is_of_controlnet

        attend = FlowAttention(self.trajectories, self.config.old_qk)
        rule = attention.use_rule(self.field, attend, is_joint)
        with self.field.normalize_over_clip(), rule:
            yield

    def velocity(self, z: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
        """Return the guided velocity. state: holds the inverted clip."""
        from ..models import attention
        from ..models.attention.trajectories import FlowAttention

        sigma = self.levels.sigmas[step]
        target = GuidedPoint(z, self.target, "tgt", self.config.target_guidance)
        injects = self.injects(step)
        with self.table.use(self.field, step if injects else self.config.steps) as injection:
            flow = FlowAttention(self.trajectories, self.config.old_qk, injection)
            factor = time_factor(self.field, self.config, sigma, step)
            is_on = step - self.levels.first_step < self.config.modulated_steps
            rule = RegionAttention(self, flow, factor if is_on else 0.0)
            with attention.use_rule(self.field, rule, RegionAttention.applies_to):
                if not injects:
                    return target.combine(self.field.velocities(sigma, target.evaluations()))
                return target.combine(self.inject(target.evaluations(), state, step))

    def injects(self, step: int) -> bool:
        """Return whether features are injected in a step."""
        return step < self.config.inject_steps and self.source_step(step) < self.config.steps

    def source_step(self, step: int) -> int:
        """Return the step at whose level the features are. released: the next, cleaner one."""
        return step + 1 if self.config.variant == "released" else step

    def inject(
        self, evaluations: Sequence[Evaluation], state: dict[str, Tensor], step: int
    ) -> list[Tensor]:
        """Return the velocities of a target's branches, with the features of the source's."""
        at, sigmas, before, velocities = self.source_step(step), self.levels.sigmas, "", []
        x = state[ddim.inverted_name(self.config.steps - at)]
        for evaluation in evaluations:
            branch = self.source_branch(evaluation.branch)
            if branch != before:
                source = Evaluation(x, self.inputs.source, branch)
                self.field.velocities(sigmas[at], [source])
            velocities += self.field.velocities(sigmas[step], [evaluation])
            before = branch
        return velocities

    def source_branch(self, target: Branch) -> Branch:
        """Return the source's branch whose features a target's branch takes.

        released: the negative one takes those of the negative prompt, since the authors invert with both at once.
        """
        is_negative = self.config.variant == "released" and target == "tgt-"
        return "src-" if is_negative or self.config.inversion_prompt == "negative" else "src+"


def make_table(field: VelocityField, config: Config) -> InjectionTable:
    """Return what is injected: FLATTEN's three residual branches, and the attention of six blocks."""
    from ..models.injection import Injected, InjectionTable, list_modules

    if not config.inject_steps:
        return InjectionTable(field, [])
    residuals = list_modules((1, "resnets", (0, 1)), (2, "resnets", (0,)))
    attentions = list_modules(
        (1, "attentions", (1, 2)), (2, "attentions", (0, 1, 2)), (3, "attentions", (0,))
    )
    steps = min(config.inject_steps, config.steps)
    rows = [Injected("residual_branch", residuals, steps), Injected("self", attentions, steps)]
    return InjectionTable(field, rows)


@dataclass(frozen=True)
class RegionAttention:
    """The attention rule of a step. time_factor: tau; 0: nothing is modulated."""

    step: GuidedStep
    flow: FlowAttention
    time_factor: float

    @staticmethod
    def applies_to(layer: Layer) -> bool:
        is_attention = layer.axis == "spatial" and layer.kind in ("self", "cross")
        return is_attention and not layer.is_of_controlnet

    @property
    def is_released(self) -> bool:
        return self.step.config.variant == "released"

    def __call__(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        if layer.kind == "cross":
            is_left = self.is_released and layer.cells_per_token == 1
            is_on = self.time_factor and layer.branch == "tgt+" and not is_left
            return self.attend_to_words(layer, q, k, v) if is_on else None
        branch = "tgt-" if self.is_released else "tgt+"
        if self.time_factor and layer.branch == branch and layer.cells_per_token > 1:
            return self.attend_to_regions(layer, q, k, v)
        return self.flow(layer, q, k, v)

    def attend_to_words(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return cross-attention that is moved towards the words of each query's region."""
        from ..models.attention.frames import merge_frames, split_frames
        from ..models.attention.modulation import Modulation, attend_modulated, count_regions

        frames, regions = len(layer.frames), self.find_regions(layer)
        counts = count_regions(regions, len(self.step.areas) + 1)  # f regions
        sizes, strength = counts.gather(1, regions), self.step.config.cross_strength
        weights = self.weigh(strength, sizes, regions.shape[1], regions)
        modulation = Modulation(regions.flatten(), self.find_words(layer, k), weights.flatten())
        merged = merge_frames(q, frames)
        return split_frames(attend_modulated(merged, k[:1], v[:1], modulation), frames)

    def attend_to_regions(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return self-attention over all frames that is moved towards the tokens of each query's region."""
        from ..models.attention.frames import merge_frames, split_frames
        from ..models.attention.modulation import Modulation, attend_modulated, count_regions

        assert self.flow.injection is not None
        q, k = self.flow.injection.exchange(layer, q, k)
        frames, regions = len(layer.frames), self.find_regions(layer).flatten()
        count = len(self.step.areas) + 1
        total = len(regions) * (frames if self.is_released else 1)
        sizes = count_regions(regions[None], count)[0][regions]
        keys = regions == torch.arange(count, device=regions.device)[:, None]
        if self.is_released:
            keys[0] = False
            sizes = sizes.clamp(max=MAX_HALF).half()  # R and the weights are half precision, too
        weights = self.weigh(self.step.config.self_strength, sizes, total, regions)
        q, k, v = (merge_frames(x, frames) for x in (q, k, v))
        modulation = Modulation(regions, keys, weights)
        return split_frames(attend_modulated(q, k, v, modulation), frames)

    def find_regions(self, layer: Layer) -> Tensor:
        """Return the region of each token, f N: 0 for the rest of the frame."""
        from ..models.attention.modulation import number_regions, regions_of_tokens

        return regions_of_tokens(number_regions([a.mask for a in self.step.areas]), layer)

    def find_words(self, layer: Layer, k: Tensor) -> Tensor:
        """Return which keys are words of each region, regions x L. paper: the rest has the other words."""
        words = torch.zeros(len(self.step.areas) + 1, k.shape[2], dtype=torch.bool, device=k.device)
        for number, area in enumerate(self.step.areas, 1):
            words[number, layer.key_positions(area.edit_tokens, k.device)] = True
        if not self.is_released:
            prompt = range(1, self.step.target.token_count - 1)
            words[0, layer.key_positions(prompt, k.device)] = True
            words[0] &= ~words[1:].any(0)
        return words

    def weigh(self, strength: float, sizes: Tensor, total: int, regions: Tensor) -> Tensor:
        """Return lambda R tau of each query, of the type of `sizes`: the tokens of its region, of `total`.

        released: the rest of the frame is no region, and R is 1 there.
        """
        if self.is_released:
            sizes = torch.where(regions == 0, 0, sizes)
        return (1 - sizes / total) * strength * self.time_factor
