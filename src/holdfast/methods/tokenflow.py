"""TokenFlow (Geyer et al., arXiv:2307.10373): features of a few edited pivot frames are propagated along the source's.

At each step one frame of every group is drawn as a pivot. The pivots are edited jointly: Q of each, K and V of all
(Eq. 2). T is the output of self-attention there, and phi the source's tokens before it. Every other frame takes

    gamma_j(p) = argmax_q cos(phi_i(p), phi_j(q))                                    (Eq. 3)
    T_i(p) = w T_j(gamma_j(p)) + (1 - w) T_k(gamma_k(p)), pivots j and k             (Eq. 4)

for its output of self-attention at the layer. Plug-and-Play (arXiv:2211.12572) keeps the structure: residual branches
and queries and keys of the source branch are injected; the variant after SDEdit starts later instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as data_field
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from ..base.lazy import functional, torch
from ..base.schema import Field, Guidance, Range, Share, Steps, settings_class
from ..sampling import ddim
from ..sampling.field import (
    EditInputs,
    Evaluation,
    Step,
    VelocityField,
    choose_timesteps,
    remaining_steps,
)
from ..sampling.guidance import GuidedPoint
from ..sampling.noise import add_noise, keyed_integer
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention import Layer
    from ..models.injection import Injection, InjectionTable

METHOD = MethodInfo(
    requires=frozenset({"text", "spatial_attention", "features", "clip_norms"}),
    unused_unless={
        "residual_share": "structure=pnp",
        "attention_share": "structure=pnp",
        "start": "structure=sdedit",
    },
)
Blend: TypeAlias = "tuple[tuple[int, float], ...]"  # of a frame: its pivots and their weights


@settings_class
class Config(ddim.DDIMConfig):
    """The authors' values."""

    steps: Steps = Field(default=50, description="number of steps of the noise schedule")
    inversion_steps: Steps = Field(
        default=500,
        description="steps of the whole schedule in which the clip is inverted; the authors take 100 for sdedit",
    )
    target_guidance: Guidance = Field(
        default=7.5, description="guidance scale of the target prompt"
    )
    variant: Literal["paper", "released"] = Field(
        default="released",
        description="how pivots are blended and where sampling starts. paper: the nearest pivots before and after a "
        "frame, w falling evenly from one to the other, from the inverted clip. released: the pivots of its own and "
        "the previous group, w = sigmoid(d' / (d + d')) of the distances to the groups' centres, from the clip with "
        "the noise that its noisiest inverted latent implies",
    )
    structure: Literal["pnp", "sdedit"] = Field(
        default="pnp",
        description="what keeps the structure. pnp: injection of the source branch; sdedit: a later start",
    )
    group_frames: Annotated[int, Range(1, 10000)] = Field(
        default=8, description="frames of a group; one frame of each is a pivot"
    )
    residual_share: Share = Field(
        default=0.8, description="tau_f: share of steps in which a residual branch is injected"
    )
    attention_share: Share = Field(
        default=0.5, description="tau_A: share of steps in which queries and keys are injected"
    )
    start: Share = Field(
        default=0.9, description="share of the schedule that is sampled with structure=sdedit"
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    field = choose_timesteps(field, config)
    levels = ddim.plan_levels(field, inputs, config)
    first = max(levels.first_step, first_step(config))
    if first >= config.steps:
        return
    if config.variant == "released":
        levels = ddim.extend_inversion(levels, field, inputs, config)
    table = make_table(field, config)
    z, state = yield from ddim.invert(field, inputs, config, levels, resume)
    if resume is None or resume.stage == "invert":
        z = start_latent(inputs, config, levels, first, (z, state))
        state = ddim.drop_above(state, config.steps - first)
    for i in remaining_steps(resume, "edit", first, config.steps):
        sigma, sigma_next = levels.sigmas[i], levels.sigmas[i + 1]
        x = state[ddim.inverted_name(config.steps - i)]
        velocity = StepOfGroups(field, inputs, config, table, i, sigma).velocity(z, x)
        z = z + (sigma_next - sigma) * velocity
        z, state = (
            levels.hold(inputs, state, i + 1, z),
            ddim.drop_above(state, config.steps - i - 1),
        )
        yield Step("edit", i + 1, config.steps, z, state)


def first_step(config: Config) -> int:
    """Return the step at which the structure lets sampling begin.

    The authors count the steps after SDEdit as the whole part of `start N - 1`: 44 of 50 at 0.9.
    """
    if config.structure == "pnp":
        return 0
    return config.steps - max(0, int(config.start * config.steps - 1))


def make_table(field: VelocityField, config: Config) -> InjectionTable:
    """Return what is injected: with Plug-and-Play one residual branch, and the attention of blocks 4 to 11."""
    from ..models.injection import Injected, InjectionTable, list_modules

    if config.structure == "sdedit":
        return InjectionTable(field, [])
    places = (1, "attentions", (1, 2)), (2, "attentions", (0, 1, 2)), (3, "attentions", (0, 1, 2))
    residual, attention = (
        int(config.steps * share) for share in (config.residual_share, config.attention_share)
    )
    return InjectionTable(
        field,
        [
            Injected("residual_branch", ("up_blocks.1.resnets.1",), residual),
            Injected("self", list_modules(*places), attention),
        ],
    )


def start_latent(
    inputs: EditInputs,
    config: Config,
    levels: ddim.Levels,
    first: int,
    inverted: tuple[Tensor, dict[str, Tensor]],
) -> Tensor:
    """Return where sampling begins. inverted: the noisiest latent and the state of the inversion.

    released: e with z_T = (1 - sigma_T) x + sigma_T e, and from it (1 - sigma) x + sigma e at the first level.
    """
    noisiest, state = inverted
    if config.variant == "paper":
        return state[ddim.inverted_name(config.steps - first)]
    sigma = levels.rising[-1]
    eps = (noisiest - (1 - sigma) * inputs.latent) / sigma
    return add_noise(inputs.latent, levels.sigmas[first], eps)


def make_groups(frames: int, size: int) -> list[range]:
    """Return the frames in groups; the last may be shorter."""
    return [range(i, min(i + size, frames)) for i in range(0, frames, size)]


def draw_pivots(groups: Sequence[range], seed: int, step: int) -> list[int]:
    """Return one frame of each group, drawn by key."""
    first = step * len(groups)
    return [
        keyed_integer(seed, first + n, group.start, group.stop) for n, group in enumerate(groups)
    ]


def blend_by_centres(groups: Sequence[range], pivots: Sequence[int]) -> list[Blend]:
    """Return each frame's pivots as the released code blends them: those of its group and of the previous one."""
    centres = [group.start + len(group) // 2 for group in groups]
    blends: list[Blend] = [((pivots[0], 1.0),) for _ in groups[0]]
    for n, group in enumerate(groups[1:], 1):
        for frame in group:
            own, previous = abs(frame - centres[n]), abs(frame - centres[n - 1])
            w = 1 / (1 + math.exp(-previous / (own + previous)))
            blends.append(((pivots[n], w), (pivots[n - 1], 1 - w)))
    return blends


def blend_by_neighbours(frames: int, pivots: Sequence[int]) -> list[Blend]:
    """Return each frame's pivots as the paper blends them: the nearest before and after it."""
    blends: list[Blend] = []
    for frame in range(frames):
        before = max((p for p in pivots if p <= frame), default=pivots[0])
        after = min((p for p in pivots if p >= frame), default=pivots[-1])
        if before == after:
            blends.append(((before, 1.0),))
            continue
        w = (after - frame) / (after - before)
        blends.append(((before, w), (after, 1 - w)))
    return blends


class StepOfGroups:
    """The evaluations of one step: the pivots jointly, then each group with what the pivots have."""

    def __init__(
        self,
        field: VelocityField,
        inputs: EditInputs,
        config: Config,
        table: InjectionTable,
        step: int,
        sigma: float,
    ):
        self.field, self.inputs, self.config = field, inputs, config
        self.table, self.step, self.sigma = table, step, sigma
        frames = inputs.latent.shape[2]
        self.groups = make_groups(frames, config.group_frames)
        self.pivots = draw_pivots(self.groups, inputs.seed, step)
        if config.variant == "released":
            self.blends = blend_by_centres(self.groups, self.pivots)
        else:
            self.blends = blend_by_neighbours(frames, self.pivots)

    def velocity(self, z: Tensor, x: Tensor) -> Tensor:
        """Return the guided velocity. z: the edited latent; x: the inverted clip at the same level."""
        from ..models import attention, feature_hooks

        pivots = PivotTokens(self.blends)
        with self.table.use(self.field, self.step) as injection:
            attend = JointAttention(injection)
            with (
                attention.use_rule(self.field, attend, is_spatial_self),
                feature_hooks.use_rule(self.field, pivots.keep, is_around_attention),
            ):
                self.evaluate(z, x, self.pivots)
            with (
                attention.use_rule(self.field, skip_attention, is_spatial_self),
                feature_hooks.use_rule(self.field, pivots.propagate, is_around_attention),
            ):
                parts = [self.evaluate(z, x, group) for group in self.groups]
        velocities = [torch.cat(part, 2) for part in zip(*parts, strict=True)]
        return self.point(z).combine(velocities[1:])

    def point(self, z: Tensor) -> GuidedPoint:
        return GuidedPoint(z, self.inputs.target, "tgt", self.config.target_guidance)

    def evaluate(self, z: Tensor, x: Tensor, frames: Sequence[int]) -> list[Tensor]:
        """Return the velocities of the source and of the target's branches at some frames."""
        branch = "src+" if self.config.inversion_prompt == "source" else "src-"
        frames = list(frames)
        source = Evaluation(x[:, :, frames], self.inputs.source, branch)
        targets = self.point(z[:, :, frames]).evaluations()
        return self.field.velocities(self.sigma, [source, *targets], frames)


def is_spatial_self(layer: Layer) -> bool:
    """Select self-attention over space."""
    return layer.kind == "self" and layer.axis == "spatial"


def is_around_attention(layer: Layer) -> bool:
    """Select what goes into self-attention and what comes out of it."""
    is_output = layer.kind == "attention_output" and layer.path.endswith("attn1")
    return layer.kind == "attention_input" or is_output


def skip_attention(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return zeros: the output of the layer is replaced."""
    return torch.zeros_like(q)


@dataclass(frozen=True)
class JointAttention:
    """An attention rule: target branches attend to the keys and values of all frames of the call."""

    injection: Injection

    def __call__(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        from ..models.attention.frames import attend_to_frames, frame_sources

        q, k = self.injection.exchange(layer, q, k)
        if layer.branch.startswith("src"):
            return None
        return attend_to_frames(layer, q, k, v, frame_sources("all", len(layer.frames)))


@dataclass
class PivotTokens:
    """What the pivots have around each self-attention: phi of the source branch, and T of every branch.

    Tokens of a frame are b N c. blends: the pivots of each frame of the clip. matches: gamma, by block and frame.
    """

    blends: Sequence[Blend]
    phi: dict[tuple[str, int], Tensor] = data_field(default_factory=dict)
    outputs: dict[tuple[str, str, int], Tensor] = data_field(default_factory=dict)
    matches: dict[tuple[str, int], list[Tensor]] = data_field(default_factory=dict)

    def keep(self, layer: Layer, x: Tensor) -> None:
        """Keep the pivots' tokens: a feature rule."""
        block = layer.path.rpartition(".")[0]
        is_input, is_source = layer.kind == "attention_input", layer.branch.startswith("src")
        for frame, tokens in zip(layer.frames, frame_tokens(x), strict=True):
            if is_input and is_source:
                self.phi[block, frame] = functional.normalize(tokens.float(), dim=-1)
            elif not is_input:
                self.outputs[block, layer.branch, frame] = tokens

    def propagate(self, layer: Layer, x: Tensor) -> Tensor | None:
        """Return the output of self-attention that the pivots give: a feature rule."""
        block = layer.path.rpartition(".")[0]
        if layer.kind == "attention_input":
            if layer.branch.startswith("src"):
                self.match(block, layer, x)
            return None
        tokens = [self.gather(block, layer.branch, frame) for frame in layer.frames]
        return torch.stack(tokens, 1).unflatten(2, layer.token_grid[1:]).permute(0, 4, 1, 2, 3)

    def match(self, block: str, layer: Layer, x: Tensor) -> None:
        """Find gamma of each frame in each of its pivots."""
        for frame, tokens in zip(layer.frames, frame_tokens(x), strict=True):
            phi = functional.normalize(tokens.float(), dim=-1)
            pivots = [self.phi[block, pivot] for pivot, _ in self.blends[frame]]
            self.matches[block, frame] = [most_similar(phi, pivot) for pivot in pivots]

    def gather(self, block: str, branch: str, frame: int) -> Tensor:
        """Return `w T_j(gamma_j) + (1 - w) T_k(gamma_k)` of a frame, b N c."""
        total: Tensor | None = None
        pairs = zip(self.blends[frame], self.matches[block, frame], strict=True)
        for (pivot, weight), index in pairs:
            tokens = self.outputs[block, branch, pivot]
            part = weight * tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
            total = part if total is None else total + part
        assert total is not None
        return total


def frame_tokens(x: Tensor) -> Sequence[Tensor]:
    """Return a value b c f h w as the tokens b N c of each frame."""
    return x.flatten(3).permute(2, 0, 3, 1).unbind()


def most_similar(tokens: Tensor, others: Tensor) -> Tensor:
    """Return for each token the index of the most similar other one by scalar product, b N; in blocks of tokens."""
    from ..models.attention.maps import rows_per_block

    size = rows_per_block(tokens.shape[1], len(tokens) * others.shape[1], tokens.device)
    parts = [(rows @ others.mT).argmax(-1) for rows in tokens.split(size, 1)]
    return torch.cat(parts, 1)
