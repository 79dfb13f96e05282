"""The settings that every method has."""

from dataclasses import dataclass

from ..base.schema import ScheduleName, Share, Shift, Steps, Timesteps, check, setting


@dataclass(frozen=True)
class SamplingConfig:
    """The base of a method's settings. A method overrides the defaults by its paper's values."""

    steps: Steps = setting(50, "number of steps of the noise schedule")
    strength: Share = setting(1.0, "share of the schedule that is run, from its clean end")
    shift: Shift = setting(None, "shift of the noise schedule; none: the backbone's own")
    schedule: ScheduleName = setting(
        "native", "how the noise levels are spaced; native: as the backbone's authors do"
    )
    timesteps: Timesteps = setting(
        "exact", "timesteps that the network is given: whole numbers, or exactly those of sigma"
    )

    __post_init__ = check
