"""Train the autoencoder that the three U-Nets share: frame by frame, stride 8, of the class that SD 1.5 uses."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..truth import psnr
from .autoencoders import decode_latents, encode_posterior, get_bias
from .loop import Budget, Optimiser, Stage, draw_training_scenes, render_clips, to_device

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

BATCH = 24  # frames per step
CLIPS = 6  # scenes that a step's frames come from
LATENT_CHANNELS = 16
CONFIG: dict[str, Any] = {
    "block_out_channels": (16, 32, 64, 96),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": LATENT_CHANNELS,
    "norm_num_groups": 8,
    "sample_size": 64,
}


def new_vae() -> "AutoencoderKL":
    """Return an untrained VAE."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(**CONFIG)
    # A narrow posterior: with a wider one, its noise hides the picture.
    get_bias(vae.quant_conv).data[LATENT_CHANNELS:] = -5.0
    return vae


def draw_frames(key: str) -> Tensor:
    """Draw frames of a few training scenes as one batch, n 3 H W."""
    x = render_clips(draw_training_scenes(CLIPS, key), BATCH // CLIPS * 3)[:, ::3].flatten(0, 1)
    return x.contiguous(memory_format=torch.channels_last)


def train_vae(folder: Path, budget: Budget) -> "AutoencoderKL":
    """Train with absolute and squared error through a sampled posterior, and a small KL term to the unit Gaussian."""
    vae = to_device(new_vae())
    stage = Stage(vae, Optimiser(vae, lr=3e-3, matrix_lr=0.02), folder, "image-vae")
    for i in stage.steps(budget):
        x = draw_frames(f"image-vae/{i}")
        with torch.autocast(x.device.type, torch.bfloat16):
            posterior = encode_posterior(vae, x)
            y = decode_latents(vae, posterior.sample())
        error = y.float() - x
        mean, variance = posterior.mean.float(), posterior.var.float()
        kl = 0.5 * (mean**2 + variance - 1 - posterior.logvar.float()).mean()
        stage.descend(error.abs().mean() + 4 * error.square().mean() + 1e-4 * kl)
        stage.log({"psnr": psnr(error / 2, torch.zeros_like(error)), "kl": kl.detach()})
    centre_latents(vae)
    return vae


@torch.no_grad()
def centre_latents(vae: "AutoencoderKL", batches: int = 16) -> None:
    """Shift the latents' mean to zero in the two 1x1 convolutions, and write their scale to the configuration."""
    frames = (draw_frames(f"settle/{i}") for i in range(batches))
    z = torch.cat([encode_posterior(vae, x).mode() for x in frames])
    mean, channels = z.mean((0, 2, 3)), z.shape[1]
    get_bias(vae.quant_conv)[:channels].sub_(mean)
    assert vae.post_quant_conv is not None
    get_bias(vae.post_quant_conv).add_(vae.post_quant_conv.weight[:, :, 0, 0] @ mean)
    vae.register_to_config(scaling_factor=round(1 / (z - mean.view(1, -1, 1, 1)).std().item(), 5))
