"""What is known of a model before any of it is loaded; nothing here needs torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..media.clip_format import Grid


@dataclass(frozen=True)
class Model:
    """A backbone by name: where its weights are, what it is, and what it was trained on."""

    weights: str  # hub id, or the name of an embedded checkpoint
    gigabytes: float  # size of the download, about; 0 where the weights come with the package
    rate: float
    area: int
    frames: int
    carries: frozenset[str] = frozenset({"text"})
    # Shared settings that suit it (steps, guidance, shift, grid of levels), where the user gives none; never a
    # method's own.
    prefers: Mapping[str, Any] = field(default_factory=dict)
    licence: str = "Apache-2.0"
    guide: str = ""  # an image model over the same latents, for methods that take a second field
    parts: tuple[str, ...] = ()  # folders that are loaded from a diffusers folder
    pickled: tuple[
        str, ...
    ] = ()  # parts that are published as .bin alone, and have to be converted


LEVELS_OF_NOISE = ("own", "ddim")  # grids of levels, by name: of models that predict noise


# What `prefers` may name: of the walk down the levels, and (the last three) of descents by score distillation.
SHARED = {"steps", "shift", "grid", "source_guidance", "target_guidance"}
SHARED |= {"guidance", "joint_guidance", "rate"}


def space_of(vae: Mapping[str, Any]) -> dict[str, Any]:
    """What a VAE's complete configuration says of its latents: two models over the same ones have it in common."""
    names = ("latent_channels", "z_dim", "scaling_factor", "shift_factor")
    names += ("latents_mean", "latents_std")
    return {name: vae[name] for name in names if vae.get(name) is not None}


def unet_grid(
    model: Model, unet: Mapping[str, Any], vae: Mapping[str, Any], levels: tuple[str, ...]
) -> Grid:
    """The clips of a U-Net over a VAE of single frames, from their configurations; an empty
    one stands for the published.
    """
    side = 2 ** (len(vae.get("block_out_channels") or (0,) * 4) - 1)
    multiple = side * 2 ** (len(unet.get("block_out_channels") or (0,) * 4) - 1)
    return Grid(
        stride=(1, side, side),
        patch=(1, 1, 1),
        rate=model.rate,
        area=model.area,
        frames=model.frames,
        most_frames=10**6,
        multiple=(multiple, multiple),
        levels=levels,
    )
