"""RF-Solver-Edit (Wang et al., arXiv:2411.04746): a second-order solver inverts, then samples with the target prompt.

In the first `inject` sampling steps the self-attention of the later layers takes the values V of the source at the same
noise level. V is not stored during the inversion. Only the latents of those few levels are, and the source is evaluated
there again; V is kept for one step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from ..base.schema import Count, Field, Guidance, Share, Shift, Steps, settings_class
from ..sampling.field import (
    EditInputs,
    Step,
    VelocityField,
    begin,
    initial_state,
    remaining_steps,
)
from ..sampling.guidance import guided_velocity
from ..sampling.inversion import drop_latent, load_latent, store_latent
from ..sampling.perturbation import UNUSED_UNLESS, PerturbedConfig, perturbed_source
from ..sampling.solvers import Velocity, cached_midpoint_step, midpoint_step
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention import Layer

METHOD = MethodInfo(
    requires=frozenset({"joint_attention"}),
    unused_unless={"depth": "inject", **UNUSED_UNLESS},
    draws_noise="sarp",
)


@settings_class
class Config(PerturbedConfig):
    """The authors' values for video (HunyuanVideo, single-stream blocks 21 to 39 of 40).

    On Wan the values are shared in the self-attention of the later layers.
    """

    steps: Steps = Field(default=25, description="number of steps in each direction")
    strength: Share = Field(
        default=1.0, description="share of the schedule that is inverted and sampled again"
    )
    solver: Literal["midpoint", "cached"] = Field(
        default="midpoint",
        description="midpoint: two evaluations per step; cached: FireFlow's one (arXiv:2412.07517)",
    )
    inject: Count = Field(default=2, description="number of sampling steps that share V")
    depth: Share = Field(default=0.5, description="layers from this share of the depth on share V")
    target_guidance: Guidance = Field(
        default=6.0,
        description="guidance scale of the target prompt; their model's embedded guidance; not stated for Wan",
    )
    shift: Shift = Field(
        default=None,
        description="shift of the noise schedule; the authors' is 7; none: the backbone's own",
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    sampler = begin(field, inputs, config)
    field, x = sampler.field, inputs.latent
    rising = sampler.sigmas[sampler.first_step :][::-1]  # from clean to noisy
    count = len(rising) - 1

    def v_source(z: Tensor, sigma: float) -> Tensor:
        return field.velocity(z, sigma, inputs.source, branch="src+")

    def v_target(z: Tensor, sigma: float) -> Tensor:
        return guided_velocity(field, z, sigma, inputs.target, "tgt", config.target_guidance)

    z, state = initial_state(resume, x if resume else perturbed_source(inputs, config))
    for i in remaining_steps(resume, "invert", 0, count):
        z, state = solver_step(v_source, z, state, rising[i], rising[i + 1], config.solver)
        if inputs.mask is not None or i + 1 > count - config.inject:
            state = store_latent(state, i + 1, z)
        yield Step("invert", i + 1, count, z, state)
    if resume is None or resume.stage == "invert":
        # the last velocity is that of the source prompt
        state = {name: value for name, value in state.items() if name != "last"}
    for i in remaining_steps(resume, "edit", 0, count):
        level = count - i  # index in `rising` of the noise level before this step
        inverted = load_latent(state, x, level) if i < config.inject else None
        with share_source_values(field, inverted, rising[level], inputs, config.depth):
            z, state = solver_step(
                v_target, z, state, rising[level], rising[level - 1], config.solver
            )
        if inputs.mask is not None:
            z = inputs.blend_outside(z, load_latent(state, x, level - 1))
        state = drop_latent(state, level)
        yield Step("edit", i + 1, count, z, state)


def solver_step(
    velocity: Velocity,
    z: Tensor,
    state: dict[str, Tensor],
    sigma: float,
    sigma_next: float,
    solver: str,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return z and the state after one step of the solver. `last` in the state is the velocity for the next step."""
    if solver == "midpoint":
        return midpoint_step(velocity, z, sigma, sigma_next), state
    last = state["last"] if "last" in state else velocity(z, sigma)
    z, last = cached_midpoint_step(velocity, z, last, sigma, sigma_next)
    return z, state | {"last": last}


@contextlib.contextmanager
def share_source_values(
    field: VelocityField, inverted: Tensor | None, sigma: float, inputs: EditInputs, depth: float
) -> Iterator[None]:
    """Let the self-attention of later layers take the source's values V, as found at an inverted latent.

    inverted: 1 c f h w; None: the layers keep their own values.
    """
    if inverted is None:
        yield
        return
    from torch.nn import functional

    from ..models import attention

    # depth 1: no layer
    first_layer = round(depth * field.get_attention_hooks().count_layers("self", "joint"))

    def is_later(layer: Layer) -> bool:
        return layer.kind == "self" and layer.index >= first_layer

    with attention.record(field, is_later, lambda layer, q, k, v: v) as found:
        field.velocity(inverted, sigma, inputs.source, branch="src+")
    values = {(layer.path, layer.frames): v for layer, v in found.items()}

    def share(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, values[layer.path, layer.frames])

    with attention.use_rule(field, share, is_later):
        yield
