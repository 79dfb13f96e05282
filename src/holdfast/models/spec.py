"""What is known of a model before it is loaded. Nothing here needs torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import UserError

# Names of the noise schedules of models that predict noise. `noise_schedule.py` defines them.
NOISE_SCHEDULES = ("native", "ddim")
# Settings that `recommended` may name. The last three belong to score distillation.
SHARED_SETTINGS = {"steps", "shift", "schedule", "source_guidance", "target_guidance"}
SHARED_SETTINGS |= {"guidance", "joint_guidance", "learning_rate"}


@dataclass(frozen=True)
class BackboneSpec:
    """The constants of a backbone: where its weights are, what they are, and what they were trained on."""

    weights: str  # hub id, or the name of an embedded checkpoint; empty: it has none
    download_gb: float  # approximate size of the download; 0 if the weights come with the package
    fps: float  # of the clips that it was trained on
    train_pixels: int  # per frame; 0: it takes any size
    train_frames: int
    capabilities: frozenset[str] = frozenset({"text"})
    # Settings that suit the model and that methods share; they apply where the user gives none.
    recommended: Mapping[str, Any] = field(default_factory=dict)
    measured_steps: tuple[int, ...] = ()  # numbers of steps whose results docs/speed.md compares
    licence: str = "Apache-2.0"
    image_model: str = ""  # name of an image model over the same latents
    parts: tuple[str, ...] = ()  # subfolders of the diffusers folder that are loaded
    pickled_parts: tuple[str, ...] = ()  # parts that are published as .bin files only
    # Hub ids, or names of embedded folders, of ControlNets by what they read: canny, hed, depth.
    controlnets: Mapping[str, str] = field(default_factory=dict)
    # Parts that an embedded checkpoint has in common with another one, which stores them: {"vae": "NAME/vae"}.
    shared_parts: Mapping[str, str] = field(default_factory=dict)


def latent_space(vae: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies a VAE's latents, from its complete configuration. Models with equal ones share latents."""
    names = ("latent_channels", "z_dim", "scaling_factor", "shift_factor")
    names += ("latents_mean", "latents_std")
    return {name: vae[name] for name in names if vae.get(name) is not None}


def check_schedule(schedule: str, known: tuple[str, ...]) -> None:
    """Raise UserError if a model has no noise schedule of that name."""
    if schedule not in known:
        cause = f"this model has no noise schedule {schedule!r}"
        raise UserError(cause, f"use one of {', '.join(known)}")
