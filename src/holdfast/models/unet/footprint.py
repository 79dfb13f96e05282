"""The memory of a U-Net's activations, from shapes: an estimate that was not compared with published weights."""

from ..checkpoint import Checkpoint
from ..footprint import Activations, ClipShape
from ..placement import Placements

CODED_FRAMES = 8  # that the VAE processes at once
FRAMES_PER_CALL = 16  # of a network of single frames
# Floats per pixel and base channel of the VAE, from a run without memory at 1024x576 (11.3 and 18.0 GB).
ENCODE_FLOATS, DECODE_FLOATS = 4.7, 7.5
NETWORK_WIDTHS = (
    24  # states of the first level's width that are alive at once, skip connections included
)
CONDITION_BYTES = 200 * 10**6


def estimate_activations(
    checkpoint: Checkpoint, shape: ClipShape, item: int, placements: Placements
) -> Activations:
    """Return the activations of a clip's window."""
    vae, network = checkpoint.config("vae"), checkpoint.config("unet")
    channels = (vae.get("block_out_channels") or [128])[0]
    frames = min(shape.frames, placements.decoded_frames or CODED_FRAMES)
    pixels = 4 * frames * shape.height * shape.width * channels
    is_video = network.get("_class_name") != "UNet2DConditionModel"
    together = shape.frames if is_video else min(shape.frames, FRAMES_PER_CALL)
    cells = together * shape.height * shape.width // 64
    width = (network.get("block_out_channels") or [320])[0]
    return Activations(
        encode=round(pixels * ENCODE_FLOATS),
        condition=CONDITION_BYTES,
        denoise=item * cells * width * NETWORK_WIDTHS,
        decode=round(pixels * DECODE_FLOATS),
    )
