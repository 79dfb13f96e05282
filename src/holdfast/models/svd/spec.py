"""Stable Video Diffusion: a video U-Net that is conditioned on the first frame. Its constants; they need no torch."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...base.errors import UserError
from ..family import DiffusersFamily
from ..placement import UNET_PARTS
from ..spec import BackboneSpec
from ..unet.clip_formats import read_clip_format
from ..unet.footprint import estimate_activations

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("unet", "vae", "image_encoder")
CAPABILITIES = frozenset({"image", "spatial_attention", "temporal_attention", "features"})
SCHEDULES = ("native", "karras")
# The guidance rises over the frames. The first one is given, so there is nothing to guide it to.
RECOMMENDED: dict[str, Any] = {
    "schedule": "native",
    "steps": 25,
    "source_guidance": 1.0,
    "target_guidance": (1.0, 3.0),
}
SVD = BackboneSpec(
    weights="stabilityai/stable-video-diffusion-img2vid",
    download_gb=9,
    fps=7,
    train_pixels=1024 * 576,
    train_frames=14,
    capabilities=CAPABILITIES,
    parts=PARTS,
    recommended=RECOMMENDED,
    licence="Stability AI Community",
    image_model="sd1.5",
)
SPECS: Mapping[str, BackboneSpec] = {
    "svd": SVD,
    "svd-xt": replace(
        SVD, weights="stabilityai/stable-video-diffusion-img2vid-xt", train_frames=25
    ),
    "shapeworld-svd": BackboneSpec(
        weights="shapeworld-svd",
        download_gb=0,
        fps=8,
        train_pixels=64 * 64,
        train_frames=25,
        capabilities=CAPABILITIES,
        parts=PARTS,
        shared_parts={"vae": "shapeworld-sd/vae"},
        recommended=RECOMMENDED | {"target_guidance": (1.0, 2.0)},
        image_model="shapeworld-sd",
    ),
}


FAMILY = DiffusersFamily(
    specs=SPECS,
    parts=PARTS,
    pipelines=("StableVideoDiffusionPipeline",),
    adapter="holdfast.models.svd.adapter",
    make_clip_format=partial(read_clip_format, schedules=SCHEDULES),
    streamed=UNET_PARTS,
    activations=estimate_activations,
    decode_saving="frames",
)

# An EDM model works on `x = clean + s noise`, with s from 0 to hundreds. The velocity field is that of
# `z = x / (1 + s)` at sigma = s / (1 + s).


def sigma_from_edm(s: float) -> float:
    """Return the noise level sigma, in [0, 1), of an EDM noise level s."""
    return s / (1 + s)


def edm_from_sigma(sigma: float) -> float:
    """Return the EDM noise level s of sigma. Raise UserError for pure noise, which has none."""
    if sigma >= 1:
        raise UserError("this model predicts nothing from pure noise: its noise levels are below 1")
    return sigma / (1 - sigma)


def latent_from_edm(x: "Tensor", s: float) -> "Tensor":
    """Return the field's latent `z = x / (1 + s)` of the model's `x = clean + s noise`."""
    return x / (1 + s)


def latent_to_edm(z: "Tensor", s: float) -> "Tensor":
    """Return the model's x of the field's latent z: the inverse of `latent_from_edm`."""
    return z * (1 + s)
