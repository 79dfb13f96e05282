"""Where the negative branch of guidance is evaluated: in an interval of noise levels, and at every n-th step.

Outside the interval (Kynkaanniemi et al., arXiv:2404.07724) the guided velocity is the positive one. At a step that
reuses guidance it is `v+ + (w - 1) d`, where `d = v+ - v-` is the difference of the last step that evaluated both. The
difference is reused and not `v-`, because `v-` holds the noise of its own step. Source and target are treated alike, so
that equal prompts with equal guidance still give the source back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from ..base.errors import UserError
from ..base.schema import Field, Interval, Steps, settings_class
from .field import (
    NEGATIVE,
    POSITIVE,
    Branch,
    EditInputs,
    Evaluation,
    Sampler,
    Side,
    Step,
    VelocityField,
    begin,
)
from .settings import SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor

SIDES: dict[Branch, Side] = {branch: side for side, branch in NEGATIVE.items()}
PREFIX = "guidance."  # of the names of saved differences


@settings_class
class GuidedConfig(SamplingConfig):
    """The settings of a method that evaluates a negative branch at each step."""

    guidance_interval: Interval = Field(
        default=None,
        description="noise levels (sigma, 0 to 1) with guidance: LOW:HIGH, or HIGH for 0:HIGH; the negative prompt is "
        "not evaluated at others; none: all",
    )
    negative_every: Steps = Field(
        default=1,
        description="the negative prompt is evaluated at every n-th step; steps between reuse its guidance",
    )

    def __post_init__(self) -> None:
        low, high = interval_ends(self.guidance_interval)
        if not 0 <= low < high <= 1:
            raise UserError(
                f"guidance_interval is {low:g}:{high:g}",
                "use two noise levels between 0 and 1, the lower one first",
            )


def interval_ends(interval: Interval) -> tuple[float, float]:
    """Return the lowest and the highest noise level of an interval."""
    if interval is None:
        return 0.0, 1.0
    return interval if isinstance(interval, tuple) else (0.0, interval)


@dataclass(frozen=True)
class GuidedSampler(Sampler):
    """A Sampler whose field follows the guidance settings."""

    schedule: GuidanceSchedule

    def state(self) -> dict[str, Tensor]:
        """Return what the next step reuses, for `Step.state`: named differences; empty where nothing is reused."""
        return {f"{PREFIX}{name}": d for name, d in self.schedule.differences.items()}


def begin_guided(
    field: VelocityField, inputs: EditInputs, config: GuidedConfig, resume: Step | None
) -> GuidedSampler:
    """Return what a sampling loop starts with, as `begin` does, with the guidance settings applied."""
    sampler = begin(field, inputs, config)
    schedule = GuidanceSchedule(sampler, config, {} if resume is None else resume.state)
    guided = schedule.wrap(sampler.field) if schedule.is_active else sampler.field
    return GuidedSampler(guided, sampler.sigmas, sampler.first_step, schedule)


class Place(NamedTuple):
    """Which evaluation of a call: the branch, and how many of the same branch stand before it."""

    branch: Branch
    number: int = 0


def _find_places(evaluations: Sequence[Evaluation]) -> dict[Place, Evaluation]:
    """Return the evaluations of a call by their places, in order. A side may have two negative ones."""
    found: dict[Place, Evaluation] = {}
    for evaluation in evaluations:
        number = sum(place.branch == evaluation.branch for place in found)
        found[Place(evaluation.branch, number)] = evaluation
    return found


class GuidanceSchedule:
    """Decides which negative evaluations run, and keeps the differences that the other steps reuse."""

    def __init__(self, sampler: Sampler, config: GuidedConfig, state: Mapping[str, Tensor]):
        self.sigmas, self.first_step = sampler.sigmas, sampler.first_step
        self.low, self.high = interval_ends(config.guidance_interval)
        self.every = config.negative_every
        self.is_active = config.guidance_interval is not None or self.every > 1
        # v+ - v-, b c f h w, by side and by the number of the call within a step
        self.differences = {
            name.removeprefix(PREFIX): d for name, d in state.items() if name.startswith(PREFIX)
        }
        self._sigma, self._calls = -1.0, 0

    def wrap(self, field: VelocityField) -> VelocityField:
        """Return a field that evaluates negative branches by this schedule."""

        def velocities(
            sigma: float, evaluations: Sequence[Evaluation], frames: Sequence[int] | None = None
        ) -> list[Tensor]:
            self._count_call(sigma)
            places = _find_places(evaluations)
            run = [place for place in places if self._is_evaluated(sigma, place)]
            velocities = field.velocities(sigma, [places[place] for place in run], frames)
            found = dict(zip(run, velocities, strict=True))
            return [self._complete(sigma, place, found) for place in places]

        return replace(field, velocities=velocities)

    def _count_call(self, sigma: float) -> None:
        """Count the calls of a step: a method may average over several noises."""
        self._calls = self._calls + 1 if sigma == self._sigma else 0
        self._sigma = sigma

    def _has_guidance(self, sigma: float) -> bool:
        return self.low <= sigma <= self.high

    def _is_evaluated(self, sigma: float, place: Place) -> bool:
        if place.branch not in SIDES:
            return True
        if not self._has_guidance(sigma):
            return False
        is_due = (self._step_at(sigma) - self.first_step) % self.every == 0
        return is_due or self._key(place) not in self.differences

    def _step_at(self, sigma: float) -> int:
        """Return the step of a noise level, which a method may have rounded."""
        steps = range(len(self.sigmas) - 1)
        return min(steps, key=lambda i: abs(self.sigmas[i] - sigma))

    def _key(self, place: Place) -> str:
        second = f".{place.number}" if place.number else ""
        return f"{SIDES[place.branch]}.{self._calls}{second}"

    def _complete(self, sigma: float, place: Place, found: Mapping[Place, Tensor]) -> Tensor:
        """Return the velocity of an evaluation; of a negative one that did not run, what stands in for it."""
        if place.branch not in SIDES:
            return found[place]
        positive = found[Place(POSITIVE[SIDES[place.branch]])]
        if not self._has_guidance(sigma):
            return positive
        if place not in found:
            return positive - self.differences[self._key(place)]
        if self.every > 1:
            self.differences[self._key(place)] = positive - found[place]
        return found[place]
