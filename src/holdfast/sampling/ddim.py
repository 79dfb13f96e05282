"""DDIM inversion and sampling (arXiv:2010.02502) as the editing methods on noise-prediction models run them.

inversion, from level t to the noisier t+:  x+ = sqrt(abar+) x0 + sqrt(1 - abar+) eps,  eps = eps(x, t+)
sampling, from level t to the cleaner t-:   x- = sqrt(abar-) x0 + sqrt(1 - abar-) eps,  eps = eps(x, t)

with x0 = (x - sqrt(1 - abar) eps) / sqrt(abar). Both are Euler steps of the velocity `eps - x0` in z = x / (a + s),
with a = sqrt(abar) and s = sqrt(1 - abar). The inversion gives the network the timestep that it goes to, not the one at
which the latent is. A scheduler without `set_alpha_to_one` takes a clean latent to be at timestep 0, not at abar = 1.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..base.errors import UserError
from ..base.schema import Field, ScheduleName, Steps, settings_class
from .field import EditInputs, Step, VelocityField, initial_state, remaining_steps
from .guidance import GuidanceScale, guided_velocity
from .noise import keyed_noise
from .settings import SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor

R = TypeVar("R")
NEAR = 1e-9  # of two noise levels that are one


@settings_class
class DDIMConfig(SamplingConfig):
    """The settings of a method that inverts a clip by DDIM. A method overrides the defaults by its paper's values."""

    schedule: ScheduleName = Field(
        default="ddim", description="how the noise levels are spaced; the authors' is ddim"
    )
    inversion_steps: Steps = Field(
        default=50,
        description="steps of the whole schedule in which the clip is inverted; at least `steps`",
    )
    inversion_prompt: Literal["source", "negative"] = Field(
        default="source",
        description="the prompt of the inversion; negative: the negative prompt, which is empty by default",
    )
    inversion_timestep: Literal["next", "current"] = Field(
        default="next",
        description="the timestep that the network is given in an inversion step: that of the level it goes to, or "
        "that of the level at which the latent is (diffusers before 0.22)",
    )
    last_level: Literal["scheduler", "clean"] = Field(
        default="scheduler",
        description="the noise level of a clean latent: that of the model's scheduler (of Stable Diffusion timestep "
        "0), or none",
    )


@dataclass(frozen=True)
class Levels:
    """The noise levels of an inversion and of the sampling that reverses it.

    sigmas: of the sampling, steps + 1 from noisy to the clean end. rising: of the inversion, from its clean end upwards
    to the level of the first sampling step. networks: those whose timesteps each inversion step gives the network.
    numbers: which rising levels are sampling levels; level n stands n steps above the clean end.
    """

    sigmas: list[float]
    first_step: int
    rising: list[float]
    networks: list[float]
    numbers: dict[int, int]  # index in `rising` -> n

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    def start(self, latent: Tensor) -> Tensor:
        """Return a clean latent as z of the level at which the inversion begins."""
        return latent * scale_of(self.rising[0])

    def hold(self, inputs: EditInputs, state: dict[str, Tensor], step: int, z: Tensor) -> Tensor:
        """Return z after `step` sampling steps, with the inverted clip of that level outside the mask.

        After the last step it is a latent again: x of the last level, and outside the mask the source's latent.
        """
        if step == self.steps:
            z = z / scale_of(self.sigmas[-1])
            return inputs.blend_outside(z, inputs.latent)
        return inputs.blend_outside(z, state[inverted_name(self.steps - step)])


def scale_of(sigma: float) -> float:
    """Return z / x = 1 / (a + s) at a noise level sigma = s / (a + s) with a^2 + s^2 = 1."""
    return math.hypot(1 - sigma, sigma)


def inverted_name(number: int) -> str:
    """Return the name in a step's state of the inverted latent that stands `number` sampling steps above the clean."""
    return f"inverted{number}"


def plan_levels(field: VelocityField, inputs: EditInputs, config: DDIMConfig) -> Levels:
    """Return the noise levels of an edit. Raise UserError for fewer inversion steps than steps.

    A sampling level that is not among those of the inversion steps is inverted as well, so that every sampling step
    has its inverted latent; the authors' numbers of steps need none of these.
    """
    if config.inversion_steps < config.steps:
        raise UserError(
            f"inversion_steps is {config.inversion_steps}, and steps {config.steps}",
            "invert in as many steps as are sampled, or more",
        )
    options = config.shift, config.schedule, inputs.latent.shape[2:]
    noisy, inverted = (
        field.sigmas(steps, *options)[:-1] for steps in (config.steps, config.inversion_steps)
    )
    if len(set(noisy)) < len(noisy):
        raise UserError(f"the model has {len(set(noisy))} noise levels", "use fewer steps")
    inverted = join_levels(inverted, noisy)
    clean = field.clean_sigma if config.last_level == "scheduler" else 0.0
    first = config.steps - round(config.strength * config.steps)
    sigmas = [*noisy, clean]
    top = inverted.index(sigmas[first]) + 1 if first < config.steps else 0
    return make_levels(sigmas, first, clean, inverted[:top], config.inversion_timestep)


def make_levels(
    sigmas: list[float],
    first_step: int,
    clean: float,
    inverted: Sequence[float],
    timestep: Literal["next", "current"] = "next",
) -> Levels:
    """Return the levels of an inversion through the rising `inverted` levels.

    next: from the clean end; current: from the first of them, at which the clean latent is taken to be.
    """
    if timestep == "next":
        rising, networks = [clean, *inverted], list(inverted)
    else:
        rising = list(inverted) or [clean]
        networks = rising[:-1]
    steps = len(sigmas) - 1
    numbers = {rising.index(sigma): steps - i for i, sigma in enumerate(sigmas) if sigma in rising}
    return Levels(sigmas, first_step, rising, networks, numbers)


def extend_inversion(
    levels: Levels,
    field: VelocityField,
    inputs: EditInputs,
    config: DDIMConfig,
    count: int | None = None,
) -> Levels:
    """Return levels whose inversion runs `count` further steps of its schedule; None: to the noisiest level."""
    options = config.shift, config.schedule, inputs.latent.shape[2:]
    inverted = field.sigmas(config.inversion_steps, *options)[-2::-1]
    rest = [sigma for sigma in inverted if sigma > levels.rising[-1] + NEAR][:count]
    rising = [*levels.rising, *rest]
    networks = [*levels.networks, *rest] if config.inversion_timestep == "next" else rising[:-1]
    return replace(levels, rising=rising, networks=networks)


def join_levels(levels: Sequence[float], added: Sequence[float]) -> list[float]:
    """Return the levels of both, rising. A level that is an added one but for rounding occurs once."""
    others = [level for level in levels if all(abs(level - own) > NEAR for own in added)]
    return sorted([*others, *added])


def invert(
    field: VelocityField,
    inputs: EditInputs,
    config: DDIMConfig,
    levels: Levels,
    resume: Step | None,
    conditioning: Any = None,
) -> Generator[Step, None, tuple[Tensor, dict[str, Tensor]]]:
    """Invert the clip, and yield a step after each level. Return the noisiest latent and the state.

    The state holds the latent of every sampling level, `inverted_name(n)`, and it has to be in each step that follows.
    No guidance. conditioning: None for the source's. A resumed run returns what it had saved; one that was stopped
    while it was tuned inverts from the start.
    """
    resume = None if resume and resume.stage == "tune" else resume
    branch = "src+" if config.inversion_prompt == "source" else "src-"
    conditioning = inputs.source if conditioning is None else conditioning
    z, state = initial_state(resume, levels.start(inputs.latent))
    count = len(levels.networks)
    if resume is None and 0 in levels.numbers:
        state = {inverted_name(levels.numbers[0]): z}
    for i in remaining_steps(resume, "invert", 0, count):
        sigma, sigma_next = levels.rising[i], levels.rising[i + 1]
        velocity = field.velocity(
            z, sigma, conditioning, branch=branch, network_sigma=levels.networks[i]
        )
        z = z + (sigma_next - sigma) * velocity
        if i + 1 in levels.numbers:
            state = {**state, inverted_name(levels.numbers[i + 1]): z}
        yield Step("invert", i + 1, count, z, state)
    return z, state


def edit_inverted(
    field: VelocityField,
    inputs: EditInputs,
    config: DDIMConfig,
    levels: Levels,
    guidance: GuidanceScale,
    resume: Step | None,
    kept: Mapping[str, Tensor] | None = None,
) -> Iterator[Step]:
    """Invert the clip and sample from there with the target prompt, the inverted clip outside the mask.

    resume: a step of a stage before the inversion is the same as None. kept: tensors that the state of every step
    holds.
    """
    kept = kept or {}
    inversion = invert(field, inputs, config, levels, resume)
    z, state = yield from keep_in_state(inversion, kept)
    state = {**kept, **state}
    for i in remaining_steps(resume, "edit", levels.first_step, levels.steps):
        sigma, sigma_next = levels.sigmas[i], levels.sigmas[i + 1]
        velocity = guided_velocity(field, z, sigma, inputs.target, "tgt", guidance)
        z = levels.hold(inputs, state, i + 1, z + (sigma_next - sigma) * velocity)
        state = drop_above(state, levels.steps - i - 2)
        yield Step("edit", i + 1, levels.steps, z, state)


def keep_in_state(
    steps: Generator[Step, None, R], kept: Mapping[str, Tensor]
) -> Generator[Step, None, R]:
    """Yield steps whose state holds more tensors, and return what the steps return."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        yield replace(step, state={**kept, **step.state})


def sample_latent(inputs: EditInputs) -> EditInputs:
    """Return the inputs with a latent that is drawn from the VAE's posterior of the source, in place of its mode."""
    eps = keyed_noise(inputs.latent, inputs.seed, 0)[0].transpose(0, 1)
    pixels = inputs.get_pixels()
    return replace(inputs, latent=pixels.encode(pixels.frames(), eps))


def drop_above(state: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """Return a state without the inverted latents that stand above a level: sampling needs them no more."""
    prefix = inverted_name(0)[:-1]
    return {
        name: value
        for name, value in state.items()
        if not name.startswith(prefix) or int(name.removeprefix(prefix)) <= number
    }
