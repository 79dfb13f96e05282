"""The autoencoder that the three U-Nets share: frame by frame, stride 8, of the class that SD 1.5 uses."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..truth import psnr
from .loop import Budget, Optimiser, Stage, device, draw_training_scenes, render_clips

BATCH = 24  # frames a step
CLIPS = 6  # from so many scenes: their backdrops repeat anyway
CONFIG = {
    "block_out_channels": (16, 32, 64, 96),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 8,
    "sample_size": 64,
}


def new_vae() -> nn.Module:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(**CONFIG)
    vae.quant_conv.bias.data[
        CONFIG["latent_channels"] :
    ] = -5.0  # a narrow posterior, or its noise drowns the picture
    return vae


def some_frames(key: str) -> Tensor:
    """Frames of a few training scenes as one batch, n 3 H W."""
    x = render_clips(draw_training_scenes(CLIPS, key), BATCH // CLIPS * 3)[:, ::3].flatten(0, 1)
    return x.contiguous(memory_format=torch.channels_last)


def train_vae(folder: Path, budget: Budget) -> nn.Module:
    """Absolute and squared error through a sampled posterior with a light pull to the unit Gaussian."""
    vae = new_vae().to(device())
    run = Stage(vae, Optimiser(vae, lr=3e-3, matrix_lr=0.02), folder, "image-vae")
    for i in run.steps(budget):
        x = some_frames(f"image-vae/{i}")
        with torch.autocast(x.device.type, torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample
        error = y.float() - x
        kl = (
            0.5
            * (
                posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()
            ).mean()
        )
        run.descend(error.abs().mean() + 4 * error.square().mean() + 1e-4 * kl)
        run.log({"psnr": psnr(error / 2, torch.zeros_like(error)), "kl": kl.detach()})
    centre_latents(vae)
    return vae


@torch.no_grad()
def centre_latents(vae: nn.Module, batches: int = 16) -> None:
    """Move the latents' mean to zero inside the two 1x1 convolutions, and write their spread into the configuration."""
    z = torch.cat(
        [vae.encode(some_frames(f"settle/{i}")).latent_dist.mode() for i in range(batches)]
    )
    mean, channels = z.mean((0, 2, 3)), z.shape[1]
    vae.quant_conv.bias[:channels] -= mean
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.register_to_config(scaling_factor=round(1 / (z - mean.view(1, -1, 1, 1)).std().item(), 5))
