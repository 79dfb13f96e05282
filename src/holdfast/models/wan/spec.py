"""The Wan family: rectified-flow video transformers with a causal VAE and a UMT5 text encoder.

Its constants; they need no torch.
"""

from collections.abc import Mapping
from typing import Any

from ...base.errors import UserError
from ...media.clip_format import ClipFormat
from ..checkpoint import Checkpoint
from ..family import DiffusersFamily
from ..placement import StreamedPart
from ..spec import BackboneSpec
from .footprint import estimate_activations

PARTS = ("transformer", "vae", "text_encoder")
SECOND = "transformer_2"  # the part of a second denoiser
CAPABILITIES = frozenset({"text", "text_attention", "joint_attention", "features", "regions"})
SCHEDULES = ("native", "wan", "euler")
BLOCKS = StreamedPart(("blocks",))
STREAMED_PARTS = {
    "transformer": BLOCKS,
    SECOND: BLOCKS,
    "text_encoder": StreamedPart(("encoder.block",), embedding="shared.weight"),
}
# The shifts with which the authors sample Wan2.2. They take precedence over a scheduler file: the script that converted
# the A14B wrote 3.0 there, which gives other noise levels.
SHIFTS = {"wan2.2-5b": 5.0, "wan2.2-14b": 12.0}
# Models of two denoisers: the noise level above which the first one is used, if a folder names none.
BOUNDARIES = {"wan2.2-14b": 0.875}
# What suits the embedded model was chosen on scenes that are neither trained on nor reported (docs/shapeworld.md).
# With a mask 15 steps are as good by most methods; without one, or by FlowAlign, they are not (docs/speed.md).
SMALL_RECOMMENDED = {
    "steps": 25,
    "source_guidance": 1.0,
    "target_guidance": 3.0,
    "shift": 2.0,
}
SPECS: Mapping[str, BackboneSpec] = {
    "wan2.1-1.3b": BackboneSpec(
        weights="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        download_gb=29,
        fps=16,
        train_pixels=832 * 480,
        train_frames=81,
        capabilities=CAPABILITIES,
        parts=PARTS,
        recommended={"shift": 5.0},
    ),
    "wan2.1-14b": BackboneSpec(
        weights="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        download_gb=80,
        fps=16,
        train_pixels=832 * 480,
        train_frames=81,
        capabilities=CAPABILITIES,
        parts=PARTS,
        recommended={"shift": 5.0},
    ),
    "wan2.2-5b": BackboneSpec(
        weights="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        download_gb=34,
        fps=24,
        train_pixels=1280 * 704,
        train_frames=121,
        capabilities=CAPABILITIES,
        parts=PARTS,
        recommended={"shift": SHIFTS["wan2.2-5b"]},
    ),
    "wan2.2-14b": BackboneSpec(
        weights="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        download_gb=126,
        fps=16,
        train_pixels=832 * 480,
        train_frames=81,
        capabilities=CAPABILITIES,
        parts=(*PARTS, SECOND),
        recommended={"shift": SHIFTS["wan2.2-14b"]},
    ),
    "shapeworld-wan": BackboneSpec(
        weights="shapeworld-wan",
        download_gb=0,
        fps=8,
        train_pixels=64 * 64,
        train_frames=25,
        capabilities=CAPABILITIES,
        parts=PARTS,
        recommended=SMALL_RECOMMENDED,
        measured_steps=(25, 15, 10, 6),
    ),
}


def check_denoisers(name: str, checkpoint: Checkpoint) -> None:
    """Raise UserError if a checkpoint has two denoisers and the backbone one, or the other way round."""
    has_second = _names_second(checkpoint)
    if has_second and name not in BOUNDARIES:
        cause = f"{checkpoint} holds two denoisers (the second is {SECOND}), and {name} has one"
        raise UserError(cause, f"use {' or '.join(BOUNDARIES)}")
    if name in BOUNDARIES and not has_second:
        cause = f"{checkpoint} holds one denoiser (it names no {SECOND}), and {name} has two"
        raise UserError(cause, "use a backbone of one, such as wan2.1-14b")


def _names_second(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint names a second denoiser. A model of one may name it as none: [null, null]."""
    entry = checkpoint.index().get(SECOND) or [None]
    return not isinstance(entry, list) or entry[0] is not None


def read_boundary(name: str, checkpoint: Checkpoint) -> float:
    """Return the noise level above which a model of two denoisers uses the first one."""
    return checkpoint.index().get("boundary_ratio") or BOUNDARIES[name]


def read_clip_format(spec: BackboneSpec, checkpoint: Checkpoint) -> ClipFormat:
    """Return the clips that the model in a checkpoint takes, from its configurations."""
    transformer, vae = (checkpoint.config(part) for part in ("transformer", "vae"))
    patch = transformer.get("patch_size")
    if patch is not None and not (isinstance(patch, list) and len(patch) == 3):
        part = checkpoint.part("transformer")
        raise UserError(f"{part} has a patch_size that is not three numbers")
    return make_clip_format(spec, transformer, vae)


def make_clip_format(
    spec: BackboneSpec, transformer: Mapping[str, Any], vae: Mapping[str, Any]
) -> ClipFormat:
    """Return the clips that a model takes, from its parts' configurations; an empty one stands for Wan2.1's."""
    time = vae.get("scale_factor_temporal") or 4
    side = vae.get("scale_factor_spatial") or 8
    patch_t, patch_h, patch_w = transformer.get("patch_size") or (1, 2, 2)
    max_latent_frames = (transformer.get("rope_max_seq_len") or 1024) * patch_t
    return ClipFormat(
        stride=(time, side, side),
        patch=(patch_t, patch_h, patch_w),
        fps=spec.fps,
        train_pixels=spec.train_pixels,
        train_frames=spec.train_frames,
        max_frames=(max_latent_frames - 1) * time + 1,
        size_multiple=(side * patch_h, side * patch_w),
        frame_step=time,
        schedules=SCHEDULES,
    )


FAMILY = DiffusersFamily(
    specs=SPECS,
    parts=PARTS,
    pipelines=("WanPipeline",),
    adapter="holdfast.models.wan.adapter",
    make_clip_format=read_clip_format,
    check=check_denoisers,
    streamed=STREAMED_PARTS,
    activations=estimate_activations,
    decode_saving="tiles",
)
