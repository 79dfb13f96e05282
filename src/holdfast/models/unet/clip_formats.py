"""The clips that U-Nets over a VAE of single frames take. Nothing here needs torch."""

from collections.abc import Mapping
from typing import Any

from ...media.clip_format import ClipFormat
from ..checkpoint import Checkpoint
from ..spec import NOISE_SCHEDULES, BackboneSpec

UNLIMITED_FRAMES = 10**6


def make_clip_format(
    spec: BackboneSpec,
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    schedules: tuple[str, ...] = NOISE_SCHEDULES,
) -> ClipFormat:
    """Return the clips that a U-Net takes.

    unet, vae: the parts' configurations; an empty one stands for the published models.
    """
    side = 2 ** (len(vae.get("block_out_channels") or (0,) * 4) - 1)
    multiple = side * 2 ** (len(unet.get("block_out_channels") or (0,) * 4) - 1)
    return ClipFormat(
        stride=(1, side, side),
        patch=(1, 1, 1),
        fps=spec.fps,
        train_pixels=spec.train_pixels,
        train_frames=spec.train_frames,
        max_frames=UNLIMITED_FRAMES,
        size_multiple=(multiple, multiple),
        schedules=schedules,
    )


def read_clip_format(
    spec: BackboneSpec, checkpoint: Checkpoint, schedules: tuple[str, ...] = NOISE_SCHEDULES
) -> ClipFormat:
    """Return the clips that the model in a checkpoint takes, from its configurations."""
    unet, vae = (checkpoint.config(part) for part in ("unet", "vae"))
    return make_clip_format(spec, unet, vae, schedules)
