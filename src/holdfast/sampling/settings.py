"""The settings that every method has, and one that several have."""

from typing import Any

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


def region_field() -> Any:
    """Return the setting `region` of a method that holds the latent outside its mask."""
    return Field(
        default="mask",
        description="where the target is evaluated. mask: inside the mask alone, with the source's keys and values "
        "outside (Wan models only). off: everywhere",
    )
