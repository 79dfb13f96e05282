"""ModelScope's text-to-video family: a 3D U-Net that predicts noise, over SD's VAE. What is
known without loading one.
"""

from pathlib import Path

from ...media.clip_format import Grid
from .. import weights as _weights
from ..spec import LEVELS_OF_NOISE, Model, unet_grid

ADAPTER = "holdfast.models.unet.adapter"
PARTS = ("unet", "vae", "text_encoder")
CARRIES = frozenset(
    {"text", "text_attention", "spatial_attention", "temporal_attention", "features"}
)
PREFERS = {"grid": "own"}  # rectified flow's grids, which a method may name, are not theirs
# What suits a small model, chosen on scenes that are neither trained on nor reported (docs/distillation.md; the shift:
# docs/shapeworld.md).
SMALL = {"steps": 25, "shift": 2.0, "source_guidance": 1.0, "target_guidance": 4.0}
SMALL |= {"guidance": 2.0, "joint_guidance": 2.0, "rate": 0.04}
MODELS = {
    "modelscope": Model(
        weights="damo-vilab/text-to-video-ms-1.7b",
        gigabytes=7,
        rate=8,
        area=256 * 256,
        frames=16,
        carries=CARRIES,
        parts=PARTS,
        prefers=PREFERS,
        licence="CC-BY-NC-4.0",
        guide="sd1.5",
    ),
    "zeroscope": Model(
        weights="cerspense/zeroscope_v2_576w",
        gigabytes=7,
        rate=8,
        area=576 * 320,
        frames=24,
        carries=CARRIES,
        parts=PARTS,
        pickled=("unet", "vae"),
        prefers=PREFERS,
        licence="CC-BY-NC-4.0",
        guide="sd1.5",
    ),
    "shapeworld-t2v": Model(
        weights="shapeworld-t2v",
        gigabytes=0,
        rate=8,
        area=64 * 64,
        frames=25,
        carries=CARRIES,
        parts=PARTS,
        prefers=PREFERS | SMALL,
        guide="shapeworld-sd",
    ),
}


def find(name: str, weights: str | None = None) -> Path:
    """The folder of a backbone's weights. Raises ValueError for a wrong folder,
    Missing for a hub id not here.
    """
    return _weights.find(MODELS[name], weights, PARTS, ("TextToVideoSDPipeline",))


def grid(name: str, folder: Path) -> Grid:
    """The clips that the model in a folder takes, from its configuration alone."""
    unet, vae = (_weights.config(folder, part) for part in ("unet", "vae"))
    return unet_grid(MODELS[name], unet, vae, LEVELS_OF_NOISE)
