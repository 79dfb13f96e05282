"""AnyV2V (arXiv:2403.14468): an edited first frame, carried through the clip by an image-to-video model.

invert: DDIM inversion of the clip under its own first frame, without guidance
edit: DDIM sampling from there under the edited frame. In the first steps, of both halves of the guidance,
      the branch of one residual block is the source's:                  f <- f_src
      self-attention over space and over time takes the source's q, k:   softmax(q_src k_src^T / sqrt d) v
The source branch runs in each of these steps on the inverted latent of that level.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from ..base.schema import Field, Guidance, ScheduleName, Share, Steps, settings_class
from ..models.injection import Injected, Injection, InjectionTable, list_modules
from ..sampling import ddim
from ..sampling.field import EditInputs, Step, VelocityField, choose_timesteps, remaining_steps
from ..sampling.guidance import guided_velocity
from ..sampling.noise import keyed_noise
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

METHOD = MethodInfo(
    requires=frozenset({"image", "spatial_attention", "temporal_attention", "features"}),
    draws_noise="random_ratio",
)
RESIDUALS = ("up_blocks.1.resnets.1",)
# all on the way up but the first one
ATTENTIONS = list_modules(
    (1, "attentions", (1, 2)), (2, "attentions", (0, 1, 2)), (3, "attentions", (0, 1, 2))
)


@settings_class
class Config(ddim.DDIMConfig):
    """The paper's values, which are those of its I2VGen-XL."""

    strength: Share = Field(
        default=0.98,
        description="share of the schedule that is run, from its clean end; of 50 steps the authors leave out one",
    )
    schedule: ScheduleName = Field(
        default="native", description="how the noise levels are spaced; native: as the model's own"
    )
    inversion_steps: Steps = Field(
        default=500,
        description="steps of the whole schedule in which the clip is inverted; rounded down to a number whose levels "
        "include those of sampling",
    )
    target_guidance: Guidance = Field(default=9.0, description="guidance scale of the edit")
    residual_share: Share = Field(
        default=0.2,
        description="tau_conv: share of the steps in which the residual branch is the source's",
    )
    spatial_share: Share = Field(
        default=0.2, description="tau_sa: share of the steps with the source's attention over space"
    )
    temporal_share: Share = Field(
        default=0.5, description="tau_ta: share of the steps with the source's attention over time"
    )
    random_ratio: Share = Field(
        default=0.0, description="share of fresh noise in the latent that sampling starts from"
    )
    negative_image: Literal["latents", "zeros"] = Field(
        default="latents",
        description="what the negative branch receives next to a zero embedding: the edited frame's latents, as "
        "released, or zeros, as the model was trained",
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    field = choose_timesteps(field, config)
    config = divide_steps(config)
    levels = ddim.plan_levels(field, inputs, config)
    table = make_table(field, config, levels.first_step)
    target = target_conditioning(inputs, config)
    z, state = yield from ddim.invert(field, inputs, config, levels, resume)
    for i in remaining_steps(resume, "edit", levels.first_step, config.steps):
        sigma, sigma_next = levels.sigmas[i], levels.sigmas[i + 1]
        inverted = state[ddim.inverted_name(config.steps - i)]
        if i == levels.first_step:
            z = inputs.blend_outside(mix_noise(z, sigma, inputs, config), inverted)
        with use_table(table, field, i) as injection:
            if injection and (injection.attention or injection.features):
                field.velocity(inverted, sigma, inputs.source, branch="src+")
            velocity = guided_velocity(field, z, sigma, target, "tgt", config.target_guidance)
        z = z + (sigma_next - sigma) * velocity
        z = levels.hold(inputs, state, i + 1, z)
        state = ddim.drop_above(state, config.steps - i - 1)
        yield Step("edit", i + 1, config.steps, z, state)


def divide_steps(config: Config) -> Config:
    """Return settings whose inversion divides each interval of the sampling levels into equal parts.

    The first and the last level of a schedule do not depend on its number of steps.
    """
    parts = config.inversion_steps // config.steps
    if parts == 0:
        return config  # too few, which is refused
    return replace(config, inversion_steps=(config.steps - 1) * parts + 1)


def make_table(field: VelocityField, config: Config, first_step: int) -> InjectionTable | None:
    """Return what the target takes from the source; None for nothing.

    The shares count all steps of the schedule. Raise UserError if the network has none of the layers.
    """
    rows = [
        Injected("residual_branch", RESIDUALS, count_steps(config.residual_share, config)),
        Injected("self", ATTENTIONS, count_steps(config.spatial_share, config)),
        Injected("self", ATTENTIONS, count_steps(config.temporal_share, config), "temporal"),
    ]
    rows = [row for row in rows if row.steps > first_step]
    return InjectionTable(field, rows) if rows else None


def count_steps(share: float, config: Config) -> int:
    """Return how many steps a share of the schedule has, rounded down."""
    return int(share * config.steps + 1e-9)


def use_table(
    table: InjectionTable | None, field: VelocityField, step: int
) -> contextlib.AbstractContextManager[Injection | None]:
    """Inject what the table says for a step inside the block."""
    return table.use(field, step) if table else contextlib.nullcontext()


def target_conditioning(inputs: EditInputs, config: Config) -> Any:
    """Return the conditioning of the target on the edited first frame."""
    if config.negative_image == "zeros" or inputs.first_frame is None:
        return inputs.target
    from ..models.base import Prompt

    prompt = Prompt(image=inputs.first_frame, negative_image="latents")
    return inputs.get_pixels().condition(prompt)


def mix_noise(z: Tensor, sigma: float, inputs: EditInputs, config: Config) -> Tensor:
    """Return the inverted latent mixed with noise of its level, in x: (1 - r) x + r eps."""
    ratio = config.random_ratio
    if ratio == 0:
        return z
    noise = ddim.scale_of(sigma) * keyed_noise(z, inputs.seed, 0)
    return (1 - ratio) * z + ratio * noise
