"""The settings that every method has."""

from ..base.schema import Field, ScheduleName, Share, Shift, Steps, Timesteps, settings_class


@settings_class
class SamplingConfig:
    """The base of a method's settings. A method overrides the defaults by its paper's values."""

    steps: Steps = Field(default=50, description="number of steps of the noise schedule")
    strength: Share = Field(
        default=1.0, description="share of the schedule that is run, from its clean end"
    )
    shift: Shift = Field(
        default=None, description="shift of the noise schedule; none: the backbone's own"
    )
    schedule: ScheduleName = Field(
        default="native",
        description="how the noise levels are spaced; native: as the backbone's authors do",
    )
    timesteps: Timesteps = Field(
        default="exact",
        description="timesteps that the network is given: whole numbers, or exactly those of sigma",
    )
