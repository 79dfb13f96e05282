"""ModelScope's text-to-video family: a 3D U-Net that predicts noise, over SD's VAE.

Its constants; they need no torch.
"""

from collections.abc import Mapping
from typing import Any

from ..family import DiffusersFamily
from ..placement import UNET_PARTS
from ..spec import BackboneSpec
from ..unet.clip_formats import read_clip_format
from ..unet.footprint import estimate_activations

PARTS = ("unet", "vae", "text_encoder")
CAPABILITIES = frozenset(
    {"text", "text_attention", "spatial_attention", "temporal_attention", "features"}
)
# A method may default to a schedule of rectified flow, which these models do not have.
RECOMMENDED: dict[str, Any] = {"schedule": "native"}
# What suits a small model, chosen on scenes that are neither trained on nor reported (docs/distillation.md; the shift:
# docs/shapeworld.md).
SMALL_RECOMMENDED: dict[str, Any] = RECOMMENDED | {
    "steps": 25,
    "shift": 2.0,
    "source_guidance": 1.0,
    "target_guidance": 4.0,
    "guidance": 2.0,
    "joint_guidance": 2.0,
    "learning_rate": 0.04,
}
SPECS: Mapping[str, BackboneSpec] = {
    "modelscope": BackboneSpec(
        weights="damo-vilab/text-to-video-ms-1.7b",
        download_gb=7,
        fps=8,
        train_pixels=256 * 256,
        train_frames=16,
        capabilities=CAPABILITIES,
        parts=PARTS,
        recommended=RECOMMENDED,
        licence="CC-BY-NC-4.0",
        image_model="sd1.5",
    ),
    "zeroscope": BackboneSpec(
        weights="cerspense/zeroscope_v2_576w",
        download_gb=7,
        fps=8,
        train_pixels=576 * 320,
        train_frames=24,
        capabilities=CAPABILITIES,
        parts=PARTS,
        pickled_parts=("unet", "vae"),
        recommended=RECOMMENDED,
        licence="CC-BY-NC-4.0",
        image_model="sd1.5",
    ),
    "shapeworld-t2v": BackboneSpec(
        weights="shapeworld-t2v",
        download_gb=0,
        fps=8,
        train_pixels=64 * 64,
        train_frames=25,
        capabilities=CAPABILITIES,
        parts=PARTS,
        shared_parts={
            "vae": "shapeworld-sd/vae",
            "text_encoder": "shapeworld-sd/text_encoder",
        },
        recommended=SMALL_RECOMMENDED,
        image_model="shapeworld-sd",
    ),
}


FAMILY = DiffusersFamily(
    specs=SPECS,
    parts=PARTS,
    pipelines=("TextToVideoSDPipeline",),
    adapter="holdfast.models.unet.adapter",
    make_clip_format=read_clip_format,
    streamed=UNET_PARTS,
    activations=estimate_activations,
    decode_saving="frames",
)
