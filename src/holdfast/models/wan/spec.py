"""The Wan family: rectified-flow video transformers with a causal VAE and a UMT5 text encoder. What is known without
loading one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...base.errors import UserError
from ...media.clip_format import Grid
from .. import weights as _weights
from ..spec import Model

ADAPTER = "holdfast.models.wan.adapter"
PARTS = ("transformer", "vae", "text_encoder")
SECOND = "transformer_2"
CARRIES = frozenset({"text", "text_attention", "joint_attention", "features"})
# Wan2.2's, as its authors sample. They stand before a scheduler file's: the script that converted the A14B wrote 3.0
# there, which is another grid of levels.
SHIFTS = {"wan2.2-5b": 5.0, "wan2.2-14b": 12.0}
# Of two denoisers: the level from which on it is the first one's turn, where a folder names none.
BOUNDARIES = {"wan2.2-14b": 0.875}
# What the embedded model prefers was chosen on scenes that are neither trained on nor reported (docs/shapeworld.md).
_SMALL = {"steps": 25, "source_guidance": 1.0, "target_guidance": 3.0, "shift": 2.0}
MODELS = {
    "wan2.1-1.3b": Model(
        weights="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        gigabytes=29,
        rate=16,
        area=832 * 480,
        frames=81,
        carries=CARRIES,
        parts=PARTS,
        prefers={"shift": 5.0},
    ),
    "wan2.1-14b": Model(
        weights="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        gigabytes=80,
        rate=16,
        area=832 * 480,
        frames=81,
        carries=CARRIES,
        parts=PARTS,
        prefers={"shift": 5.0},
    ),
    "wan2.2-5b": Model(
        weights="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        gigabytes=34,
        rate=24,
        area=1280 * 704,
        frames=121,
        carries=CARRIES,
        parts=PARTS,
        prefers={"shift": SHIFTS["wan2.2-5b"]},
    ),
    "wan2.2-14b": Model(
        weights="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        gigabytes=126,
        rate=16,
        area=832 * 480,
        frames=81,
        carries=CARRIES,
        parts=(*PARTS, SECOND),
        prefers={"shift": SHIFTS["wan2.2-14b"]},
    ),
    "shapeworld-wan": Model(
        weights="shapeworld-wan",
        gigabytes=0,
        rate=8,
        area=64 * 64,
        frames=25,
        carries=CARRIES,
        parts=PARTS,
        prefers=_SMALL,
    ),
}
PIPELINES = ("WanPipeline",)


def find(name: str, weights: str | None = None) -> Path:
    """The folder of a backbone's weights. Raises ValueError for a wrong folder, Missing for a hub id that is
    not here. A folder of two denoisers fits no backbone of one, nor the other way about.
    """
    folder = _weights.find(MODELS[name], weights, PARTS, PIPELINES)
    two = _names_second(folder)
    if two and name not in BOUNDARIES:
        fitting = ", ".join(BOUNDARIES)
        raise UserError(
            f"{folder} holds two denoisers (the second is {SECOND}), and {name} has one; use {fitting}"
        )
    if name in BOUNDARIES and not two:
        raise UserError(
            f"{folder} holds one denoiser, and {name} has two: it names no {SECOND}; "
            f"use a backbone of one, such as wan2.1-14b"
        )
    return _weights.find(MODELS[name], weights, MODELS[name].parts, PIPELINES) if two else folder


def _names_second(folder: Path) -> bool:
    """Whether a folder says that it has a second denoiser. A model of one may name it as none: [null, null]."""
    named = _weights.index(folder).get(SECOND) or [None]
    return not isinstance(named, list) or named[0] is not None


def boundary(name: str, folder: Path) -> float:
    """The level of a model of two denoisers from which on it is the first one's turn."""
    return _weights.index(folder).get("boundary_ratio") or BOUNDARIES[name]


def grid(name: str, folder: Path) -> Grid:
    """The clips that the model in a folder takes, from its configuration alone."""
    parts = [_weights.config(folder, part) for part in ("transformer", "vae")]
    patch = parts[0].get("patch_size")
    if patch is not None and not (isinstance(patch, list) and len(patch) == 3):
        raise UserError(f"{folder / 'transformer'} has a patch_size that is not three numbers")
    return grid_of(MODELS[name], *parts)


def grid_of(model: Model, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> Grid:
    """From the parts' configurations; an empty one stands for Wan2.1's."""
    time = vae.get("scale_factor_temporal") or 4
    side = vae.get("scale_factor_spatial") or 8
    patch = tuple(transformer.get("patch_size") or (1, 2, 2))
    reach = (transformer.get("rope_max_seq_len") or 1024) * patch[0]  # latent frames
    return Grid(
        stride=(time, side, side),
        patch=patch,
        rate=model.rate,
        area=model.area,
        frames=model.frames,
        most_frames=(reach - 1) * time + 1,
        multiple=(side * patch[1], side * patch[2]),
        step=time,
        levels=("own", "wan", "euler"),
    )
