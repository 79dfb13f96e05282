"""RF-Solver-Edit (Wang et al., arXiv:2411.04746): invert with a second-order solver, sample with the target prompt,
share features.

In the first `inject` sampling steps the self-attention of the later layers takes the values V of the source at the
same level. They are not kept from the inversion: its latents at those few levels are, and the source is run there
again; V is held for one step.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from ..base.schema import Count, Guidance, LevelGrid, Share, Shift, Steps, Timesteps, check, setting
from ..models import attention
from ..sampling import inversion, maths
from ..sampling.field import EditInputs, Step, VelocityField, initial_state, opened, remaining_steps

NEEDS = {"joint_attention"}
ONLY_WITH = {"depth": "inject"}  # settings that need another one
SEEDED = False  # nothing is drawn


@dataclass(frozen=True)
class Config:
    """The authors' values for video (HunyuanVideo, single-stream blocks 21 to 39 of 40); on Wan the later layers'
    self-attention.
    """

    steps: Steps = setting(25, "each way")
    strength: Share = setting(1.0, "the share of the levels that is inverted and sampled again")
    solver: Literal["midpoint", "cached"] = setting(
        "midpoint", "two evaluations a step, or FireFlow's one (arXiv:2412.07517)"
    )
    inject: Count = setting(2, "sampling steps that share V")
    depth: Share = setting(0.5, "layers from this share of all on")
    target_guidance: Guidance = setting(6.0, "their model's embedded guidance; silent for Wan")
    shift: Shift = setting(
        None, "of the grid of levels; the authors' is 7; None: the backbone's own"
    )
    grid: LevelGrid = setting("own", "of levels, by name")
    timesteps: Timesteps = setting("exact", "what the model is told; the authors' are exact")

    __post_init__ = check


def edit(field: VelocityField, given: EditInputs, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    field, levels, first = opened(field, given, cfg)
    source = given.source
    up = levels[first:][::-1]  # from clean to noisy
    count = len(up) - 1

    def inverting(x, sigma):
        return field.velocity(x, sigma, given.src, branch="src+")

    def sampling(x, sigma):
        return maths.guided_velocity(field, x, sigma, given.tgt, "tgt", cfg.target_guidance)

    z, state = initial_state(start, source)
    for i in remaining_steps(start, "invert", 0, count):
        z, state = solver_step(inverting, z, state, up[i], up[i + 1], cfg.solver)
        if given.mask is not None or i + 1 > count - cfg.inject:
            state = inversion.store_latent(state, i + 1, z)
        yield Step("invert", i + 1, count, z, state)
    if start is None or start.stage == "invert":
        # the other prompt's
        state = {name: value for name, value in state.items() if name != "last"}
    for i in remaining_steps(start, "edit", 0, count):
        level = count - i  # index in `up` of the level that this step leaves
        inverted = inversion.load_latent(state, source, level) if i < cfg.inject else None
        with share_source_values(field, inverted, up[level], given, cfg.depth):
            z, state = solver_step(sampling, z, state, up[level], up[level - 1], cfg.solver)
        if given.mask is not None:
            z = given.held(z, inversion.load_latent(state, source, level - 1))
        state = inversion.drop_latent(state, level)
        yield Step("edit", i + 1, count, z, state)


def solver_step(
    velocity: inversion.Velocity,
    z: Tensor,
    state: dict,
    sigma: float,
    sigma_next: float,
    solver: str,
) -> tuple[Tensor, dict]:
    """One step of the solver; what it carries to the next one is `last` of the state."""
    if solver == "midpoint":
        return inversion.midpoint_step(velocity, z, sigma, sigma_next), state
    last = state["last"] if "last" in state else velocity(z, sigma)
    z, last = inversion.cached_midpoint_step(velocity, z, last, sigma, sigma_next)
    return z, state | {"last": last}


@contextlib.contextmanager
def share_source_values(
    field: VelocityField, inverted: Tensor | None, sigma: float, given: EditInputs, depth: float
) -> Iterator[None]:
    """Inside, later layers' self-attention takes the source's values, as found at an inverted latent; without one its
    own.
    """
    if inverted is None:
        yield
        return
    first_layer = round(depth * field.attention_hooks.count_layers("self", "joint"))  # depth 1: none

    def where(site: attention.Layer) -> bool:
        return site.kind == "self" and site.index >= first_layer

    with attention.record(field, where, lambda site, q, k, v: v) as found:
        field.velocity(inverted, sigma, given.src, branch="src+")
    values = {(site.path, site.frames): v for site, v in found.items()}

    def share(site: attention.Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, values[site.path, site.frames])

    with attention.use_rule(field, share, where):
        yield
