"""FLATTEN (Cong et al., arXiv:2310.05922): attention over all frames, and along the trajectories of optical flow.

Self-attention reads the tokens of all frames, O = softmax(Q K_all^T / sqrt(d)) V_all (Eq. 6). In the layers of the
finest grid a second attention follows, along the source's optical flow: a token on the trajectory tau takes
softmax(o O_tau^T / sqrt(d)) O_tau (Eq. 7), with O as queries, keys and values. The clip is inverted by DDIM with the
empty prompt, and in the first steps of sampling queries, keys and residual branches of the inversion are injected.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..base.schema import Field, Guidance, Share, Steps, settings_class
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
from ..sampling.trajectory_settings import TrajectoryConfig
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention.trajectories import Trajectories
    from ..models.injection import InjectionTable

METHOD = MethodInfo(requires=frozenset({"text", "spatial_attention", "features", "clip_norms"}))


@settings_class
class Config(TrajectoryConfig):
    """The authors' values."""

    steps: Steps = Field(default=50, description="number of steps of the noise schedule")
    inversion_steps: Steps = Field(
        default=100, description="steps of the whole schedule in which the clip is inverted"
    )
    inversion_prompt: Literal["source", "negative"] = Field(
        default="negative",
        description="the prompt of the inversion and of the source branch; negative: the negative prompt, which is "
        "empty by default",
    )
    target_guidance: Guidance = Field(
        default=15.0,
        description="guidance scale of the target prompt; the authors' scripts take 15, 20 and 25",
    )
    inject_share: Share = Field(
        default=0.8,
        description="share of steps in which queries, keys and residual branches of the source are injected",
    )
    variant: Literal["paper", "released"] = Field(
        default="released",
        description="paper: a token attends to its trajectory, and sampling starts from the inverted clip. released: "
        "where no trajectory has all frames, to neighbours in its frame too, and sampling starts from the latent of "
        "the inversion's next level",
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    field = choose_timesteps(field, config)
    levels = ddim.plan_levels(field, inputs, config)
    first = levels.first_step
    if first >= config.steps:
        return
    if config.variant == "released":
        levels = ddim.extend_inversion(levels, field, inputs, config, 1)
    table, trajectories = make_table(field, config), make_trajectories(inputs, config)
    with inflate(field, trajectories, config):
        is_drawn = resume is None and config.posterior == "sample"
        drawn = ddim.sample_latent(inputs) if is_drawn else inputs
        z, state = yield from ddim.invert(field, drawn, config, levels, resume)
        if resume is None or resume.stage == "invert":
            # released: x of the noisier level is taken for that of the first sampling level
            z = z * (ddim.scale_of(levels.sigmas[first]) / ddim.scale_of(levels.rising[-1]))
        for i in remaining_steps(resume, "edit", first, config.steps):
            sigma, sigma_next = levels.sigmas[i], levels.sigmas[i + 1]
            x = state[ddim.inverted_name(config.steps - i)]
            evaluate = GuidedStep(field, inputs, config, table, trajectories)
            z = z + (sigma_next - sigma) * evaluate.velocity(z, x, sigma, i)
            z = levels.hold(inputs, state, i + 1, z)
            state = ddim.drop_above(state, config.steps - i - 1)
            yield Step("edit", i + 1, config.steps, z, state)


def make_trajectories(inputs: EditInputs, config: Config) -> Trajectories:
    """Return the trajectories along the optical flow of the source."""
    from ..models.attention.trajectories import Trajectories

    frames = inputs.get_pixels().frames()
    return Trajectories.of_clip(frames, config.flow, inputs.seed, config.variant)


def make_table(field: VelocityField, config: Config) -> InjectionTable:
    """Return what is injected: three residual branches, and the attention of six blocks."""
    from ..models.injection import Injected, InjectionTable, list_modules

    residuals = list_modules((1, "resnets", (0, 1)), (2, "resnets", (0,)))
    attentions = list_modules(
        (1, "attentions", (1, 2)), (2, "attentions", (0, 1, 2)), (3, "attentions", (0,))
    )
    steps = int(config.inject_share * config.steps)
    rows = [Injected("residual_branch", residuals, steps), Injected("self", attentions, steps)]
    return InjectionTable(field, rows)


@contextlib.contextmanager
def inflate(field: VelocityField, trajectories: Trajectories, config: Config) -> Iterator[None]:
    """Let self-attention read all frames and trajectories, and group norms run over the clip."""
    from ..models import attention
    from ..models.attention.trajectories import FlowAttention, is_spatial_self

    attend = FlowAttention(trajectories, config.old_qk)
    with field.normalize_over_clip(), attention.use_rule(field, attend, is_spatial_self):
        yield


@dataclass(frozen=True)
class GuidedStep:
    """The evaluation of one step: the source branch while it is injected, and the target's branches."""

    field: VelocityField
    inputs: EditInputs
    config: Config
    table: InjectionTable
    trajectories: Trajectories

    def velocity(self, z: Tensor, x: Tensor, sigma: float, step: int) -> Tensor:
        """Return the guided velocity. z: the edited latent; x: the inverted clip at the same level."""
        from ..models import attention
        from ..models.attention.trajectories import FlowAttention, is_spatial_self

        target = GuidedPoint(z, self.inputs.target, "tgt", self.config.target_guidance)
        evaluations, sources = target.evaluations(), []
        if step < int(self.config.inject_share * self.config.steps):
            branch = "src+" if self.config.inversion_prompt == "source" else "src-"
            sources = [Evaluation(x, self.inputs.source, branch)]
        with self.table.use(self.field, step) as injection:
            attend = FlowAttention(self.trajectories, self.config.old_qk, injection)
            with attention.use_rule(self.field, attend, is_spatial_self):
                velocities = self.field.velocities(sigma, [*sources, *evaluations])
        return target.combine(velocities[len(sources) :])
