"""Stable Video Diffusion: a video U-Net steered by its first frame. What is known without loading one."""

from dataclasses import replace
from pathlib import Path

from ...base.errors import UserError
from ...media.clip_format import Grid
from .. import weights as _weights
from ..spec import Model, unet_grid

ADAPTER = "holdfast.models.svd.adapter"
PARTS = ("unet", "vae", "image_encoder")
CARRIES = frozenset({"image", "spatial_attention", "temporal_attention", "features"})
# Its guidance rises over the frames: the first one is given, so that there is nothing to lead it to.
PREFERS = {"grid": "own", "steps": 25, "source_guidance": 1.0, "target_guidance": (1.0, 3.0)}
LICENCE = "Stability AI Community"
SVD = Model(
    weights="stabilityai/stable-video-diffusion-img2vid",
    gigabytes=9,
    rate=7,
    area=1024 * 576,
    frames=14,
    carries=CARRIES,
    parts=PARTS,
    prefers=PREFERS,
    licence=LICENCE,
    guide="sd1.5",
)
MODELS = {
    "svd": SVD,
    "svd-xt": replace(SVD, weights="stabilityai/stable-video-diffusion-img2vid-xt", frames=25),
    "shapeworld-svd": Model(
        weights="shapeworld-svd",
        gigabytes=0,
        rate=8,
        area=64 * 64,
        frames=25,
        carries=CARRIES,
        parts=PARTS,
        prefers=PREFERS | {"target_guidance": (1.0, 2.0)},
        guide="shapeworld-sd",
    ),
}
LEVELS = ("own", "karras")  # its grids of noise levels, by name


def find(name: str, weights: str | None = None) -> Path:
    """The folder of a backbone's weights. Raises ValueError for a wrong folder, Missing for a hub id that is
    not here.
    """
    return _weights.find(MODELS[name], weights, PARTS, ("StableVideoDiffusionPipeline",))


def grid(name: str, folder: Path) -> Grid:
    """The clips that the model in a folder takes, from its configuration alone."""
    unet, vae = (_weights.config(folder, part) for part in ("unet", "vae"))
    return unet_grid(MODELS[name], unet, vae, LEVELS)


def level(s: float) -> float:
    """sigma of the field, in [0, 1), where `x = clean + s noise` holds s times the noise: s / (1 + s)."""
    return s / (1 + s)


def spread(sigma: float) -> float:
    """The inverse of `level`. Raises ValueError for pure noise, which is no level of such a model."""
    if sigma >= 1:
        raise UserError("pure noise says nothing to this model: its levels lie below 1")
    return sigma / (1 - sigma)


def to_field(x, s: float):
    """The model's `x = clean + s noise` as the field's latent, `z = x / (1 + s)`."""
    return x / (1 + s)


def to_model(z, s: float):
    """The inverse of `to_field`."""
    return z * (1 + s)
