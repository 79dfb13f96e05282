"""The facts about a method that the rest of the program needs before it runs."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OFF_VALUES = (0, False, "off", "none")  # of a setting that switches a part of a method off


@dataclass(frozen=True)
class MethodInfo:
    """What a method needs of a backbone, and what its settings do. Each method's module has one as METHOD."""

    # capabilities of a backbone; none: the velocity field alone
    requires: frozenset[str] = frozenset()
    # the settings that adapters fitted to the clip depend on; none: it fits no adapters
    fits_adapters: tuple[str, ...] = ()
    # further ones, where a clip has several segments
    fits_segment_adapters: tuple[str, ...] = ()
    # whether adapters are fitted under the source prompt, so that they depend on it
    fits_to_prompt: bool = False
    # how a clip is edited that is too long for the model: overlapping windows, or one segment after another
    long_clips: Literal["windows", "segments"] = "windows"
    # settings without effect unless another one is on ("NAME") or has a value ("NAME=VALUE")
    unused_unless: Mapping[str, str] = field(default_factory=dict)
    # False: the seed has no effect; the name of a setting: it has one only while that setting is on
    draws_noise: bool | str = True
    # the setting that weighs an image model, for a method that uses one; 0 is off
    image_model_weight: str = ""
    # the setting that counts iterations of one evaluation with a gradient each, for a method without other gradients
    gradient_iterations: str = ""
    # says of a method's settings how segments see each other, for the plan
    describe_segments: Callable[[Any], str] | None = None
    # whether each of several masks keeps to its own words; otherwise all words count inside all masks
    words_per_mask: bool = False
    # whether it calls `observe` (sampling/observing.py), so that `edit --explain` has something to draw
    explains: bool = False
    # what result tables add to the name of a method that leaves a part out without a mask
    unmasked_suffix: str = ""

    def missing(self, capabilities: Collection[str]) -> set[str]:
        """Return what the method requires and a backbone with these capabilities does not have.

        A backbone whose latents are pixels has no velocity, which all methods need but those that require pixels.
        """
        missing = set(self.requires) - set(capabilities)
        if "pixels" in capabilities and "pixels" not in self.requires:
            missing.add("velocity")
        return missing

    def uses_image_model(self, config: Any) -> bool:
        """Return whether a method with these settings uses an image model."""
        return bool(self.image_model_weight and getattr(config, self.image_model_weight))

    def uses_seed(self, config: Any) -> bool:
        """Return whether a method with these settings draws noise."""
        name = self.draws_noise
        return getattr(config, name) not in OFF_VALUES if isinstance(name, str) else name

    def list_adapter_settings(self, segments: int) -> tuple[str, ...]:
        """Return the settings that the adapters of a clip of so many segments depend on; none: it fits no adapters."""
        return self.fits_adapters + (self.fits_segment_adapters if segments > 1 else ())

    def unused_settings(self, config: Any) -> dict[str, str]:
        """Return the settings without effect, with the setting that makes them so, as "NAME is VALUE"."""
        unused = {}
        for name, needed in self.unused_unless.items():
            other, _, value = needed.partition("=")
            now = getattr(config, other)
            is_used = now == value if value else now not in OFF_VALUES
            if not is_used:
                unused[name] = f"{other} is {now}"
        return unused
