"""Train the three U-Nets over the image VAE.

`shapeworld-sd` makes frames from text, `shapeworld-t2v` clips from text, and `shapeworld-svd` clips from a first frame.
The frame model is trained first; the two others start from its spatial layers.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..scenes import PANS, RATE, SPEEDS, Scene
from .autoencoders import encode_posterior
from .clip_encoders import WIDTH, pixel_values, text_states, train_text_encoder
from .image_vae import LATENT_CHANNELS, train_vae
from .loop import Budget, Optimiser, Stage, device, render_clips
from .pools import Pool, add_captions, build_pool, draw_batch, measure_binding, pool_scenes
from .text import new_clip_tokenizer, tokenize

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

POOLS = {13: 6144, 25: 512}  # clip length: encoded clips; shorter clips are cut from their start
FRAMES_BATCH, CLIPS_BATCH = 64, 8
T2V_SHARES = {1: 0.06, 5: 0.06, 9: 0.06, 13: 0.76, 25: 0.06}  # how often a step uses that length
SVD_SHARES = {9: 0.06, 13: 0.86, 25: 0.08}
TEXT_PARTS = ("text_encoder", "reader")
LABEL_WEIGHT = 0.02  # of the text encoder's first task, relative to the denoising loss
TEXT_SHARE = 0.35  # of the frame model's time; then the text encoder is frozen
BASE: dict[str, Any] = {
    "sample_size": 8,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": (64, 96),
    "layers_per_block": 1,
}
HEADS = (4, 6)  # of 16 channels each
BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
MOTION_BUCKET = 127  # of a scene whose actors "move"


@dataclass(frozen=True)
class SharedParts:
    """What the three checkpoints have in common, after its training."""

    vae: "AutoencoderKL"
    text: nn.ModuleDict  # "text_encoder", "reader"
    folder: Path

    @property
    def scaling_factor(self) -> float:
        """The factor that scales the VAE's latents to a standard deviation of 1."""
        return self.vae.config["scaling_factor"]

    def encode(self, x: Tensor) -> Tensor:
        """Encode clips n f 3 H W in [-1, 1] to scaled latents n f c h w."""
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16):
            flat = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            z = encode_posterior(self.vae, flat).mode().float() * self.scaling_factor
        return z.unflatten(0, x.shape[:2])

    def pool(self, frames: int) -> Pool:
        """Return the pool of clips of this length, encoded once."""
        latents = build_pool(self.encode, self.folder, frames, POOLS[frames])
        return add_captions(latents, pool_scenes(frames, POOLS[frames]), new_clip_tokenizer())


def train_shared_parts(folder: Path, budgets: dict[str, Budget]) -> SharedParts:
    """Train the VAE and the text encoder that the three checkpoints share."""
    vae = train_vae(folder, budgets["vae"])
    vae.requires_grad_(False)
    return SharedParts(vae, train_text_encoder(folder, budgets["binding"]), folder)


def signal_and_noise() -> tuple[Tensor, Tensor]:
    """Return a and s of `x = a clean + s noise` at each of the 1000 timesteps of SD 1.5."""
    ends = (math.sqrt(BETAS["beta_start"]), math.sqrt(BETAS["beta_end"]))
    roots = torch.linspace(*ends, BETAS["num_train_timesteps"], dtype=torch.float64)
    alphas = (1 - roots**2).cumprod(0).float()
    return alphas.sqrt().to(device()), (1 - alphas).sqrt().to(device())


def noise_errors(
    unet: Callable[..., Any], z: Tensor, words: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """Return the squared error of the predicted noise, one per clip.

    t: n timesteps. z: n c h w for frames or n c f h w for clips.
    """
    a, s = (table[t].view(-1, *(1,) * (z.dim() - 1)) for table in signal_and_noise())
    with torch.autocast(z.device.type, torch.bfloat16):
        prediction = unet(a * z + s * noise, t, words).sample
    return (prediction.float() - noise).square().flatten(1).mean(1)


def noise_loss(unet: Callable[..., Any], z: Tensor, words: Tensor) -> Tensor:
    """Return the error of v = a noise - s clean, which is 1 / a times that of the noise, at mostly high timesteps.

    With the noise's own error and uniform timesteps, the highest noise levels would count least. At these levels the
    model decides positions and motion, and there an edit starts.
    """
    t = (BETAS["num_train_timesteps"] * (1 - torch.rand(len(z)) ** 2)).long()
    t = t.clamp(max=BETAS["num_train_timesteps"] - 1).to(z.device)
    a, _ = signal_and_noise()
    return (noise_errors(unet, z, words, t, torch.randn(z.shape).to(z)) / a[t] ** 2).mean()


def measure_unet_binding(
    unet: nn.Module, common: SharedParts, text_encoder: nn.Module, frames: int
) -> dict[str, float]:
    """Return the share of bound attributes where the noise is three times the signal. frames: 0 for the frame model."""
    a, s = signal_and_noise()
    timestep = int((s / a - 3).abs().argmin())

    def errors(scenes: list[Scene], captions: list[str]) -> Tensor:
        z = common.encode(render_clips(scenes, frames or 1))
        z = z.transpose(1, 2) if frames else z[:, 0]
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
        words = text_states(text_encoder, *tokenize(new_clip_tokenizer(), captions))
        return noise_errors(unet, z, words, torch.full((len(z),), timestep).to(z.device), noise)

    return measure_binding(errors)


def new_sd() -> nn.Module:
    """Return the untrained U-Net of the frame model."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    torch.manual_seed(4)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    }
    # diffusers' 2D class takes the number of heads under this name
    widths: dict[str, Any] = {"in_channels": LATENT_CHANNELS, "cross_attention_dim": WIDTH}
    widths["attention_head_dim"] = HEADS
    return UNet2DConditionModel(**BASE, **blocks, **widths)


def train_sd(
    common: SharedParts, unet: nn.Module, budget: Budget, rate: float = 1.0
) -> nn.ModuleDict:
    """Train the frame model and the text encoder, on any frame of a clip.

    Without a reader, the text encoder is frozen.
    """
    pool, empty = common.pool(13), tokenize(new_clip_tokenizer(), [""])
    parts = nn.ModuleDict({"unet": unet, **common.text}).to(device())
    optimiser = Optimiser(parts, lr=1e-3 * rate, matrix_lr=0.02 * rate, adamw_only=TEXT_PARTS)
    stage = Stage(parts, optimiser, common.folder, "sd", decay=0.999)
    for i in stage.steps(budget):
        rng = random.Random(f"sd/{i}")
        batch = draw_batch(pool, rng, FRAMES_BATCH, empty)
        frames = [rng.randrange(batch.latents.shape[1]) for _ in range(FRAMES_BATCH)]
        z = batch.latents[range(FRAMES_BATCH), frames].contiguous(memory_format=torch.channels_last)
        trains_text = "reader" in parts and stage.share < TEXT_SHARE
        with torch.set_grad_enabled(trains_text):
            words = text_states(parts["text_encoder"], batch.ids, batch.mask)
        label_loss = torch.zeros(())
        if trains_text:
            label_loss = parts["reader"](words, batch.labels)
        loss = noise_loss(parts["unet"], z, words)
        stage.descend(loss + LABEL_WEIGHT * label_loss)
        stage.log({"loss": loss.detach(), "tell": label_loss.detach()}, 20)
        if i % 500 == 0:
            stage.log(measure_unet_binding(parts["unet"], common, parts["text_encoder"], 0))
    return parts


def new_t2v() -> nn.Module:
    """Return the U-Net of the text-to-video model, whose temporal layers do nothing at first."""
    from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel

    torch.manual_seed(5)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock3D",) * 2,
        "up_block_types": ("CrossAttnUpBlock3D",) * 2,
    }
    # diffusers' 3D class takes the width of a head under the same name
    widths: dict[str, Any] = {"in_channels": LATENT_CHANNELS, "cross_attention_dim": WIDTH}
    unet = UNet3DConditionModel(**BASE, **blocks, **widths, attention_head_dim=16)
    for name, part in unet.named_modules():
        if name == "transformer_in.proj_out" or (
            "temp_attentions" in name and name.endswith("proj_out")
        ):
            zero_parameters(part)
    return unet


def new_svd() -> nn.Module:
    """Return the U-Net of the image-to-video model, whose temporal layers do nothing at first."""
    from diffusers.models.unets.unet_spatio_temporal_condition import (
        UNetSpatioTemporalConditionModel,
    )

    torch.manual_seed(6)
    kinds = ("DownBlock", "UpBlock")
    down, up = ((f"CrossAttn{kind}SpatioTemporal",) * 2 for kind in kinds)
    unet = UNetSpatioTemporalConditionModel(
        **BASE,
        down_block_types=down,
        up_block_types=up,
        in_channels=2 * LATENT_CHANNELS,
        num_attention_heads=HEADS,
        cross_attention_dim=WIDTH,
        addition_time_embed_dim=64,
        projection_class_embeddings_input_dim=3 * 64,
        num_frames=13,
    )
    ends = ("to_out.0", "net.2")
    for name, part in unet.named_modules():
        if name.endswith(("temporal_res_block.conv2", "time_pos_embed.linear_2")) or (
            "temporal_transformer_blocks" in name and name.endswith(ends)
        ):
            zero_parameters(part)
    return unet


def zero_parameters(part: nn.Module) -> None:
    """Zero a temporal layer's output, so that the clip model starts as the frame model."""
    for parameter in part.parameters():
        nn.init.zeros_(parameter)


@torch.no_grad()
def copy_spatial_layers(unet: nn.Module, frame_model: nn.Module) -> nn.Module:
    """Copy all layers of the frame model to the same places of the clip model, and return the clip model."""
    source, count = frame_model.state_dict(), 0
    for name, weight in unet.state_dict().items():
        copied = source.get(name.replace("spatial_res_block.", ""))
        if copied is None:
            continue
        if (
            name == "conv_in.weight"
        ):  # the image-to-video model has the image's channels after these
            weight = weight[:, : copied.shape[1]]
        weight.copy_(copied.view_as(weight))  # a 1x1 convolution may be a linear layer here
        count += 1
    assert count == len(source)
    return unet


def draw_length(rng: random.Random, shares: dict[int, float]) -> tuple[int, int]:
    """Draw a clip length, and return it with the length of the pool that it is cut from."""
    frames = rng.choices(list(shares), list(shares.values()))[0]
    return frames, min(f for f in POOLS if f >= frames)


def train_t2v(
    common: SharedParts, text_encoder: nn.Module, unet: nn.Module, budget: Budget, rate: float = 1.0
) -> nn.Module:
    """Train the text-to-video model. The text encoder of the frame model is frozen."""
    pools, empty = {f: common.pool(f) for f in POOLS}, tokenize(new_clip_tokenizer(), [""])
    # no dropout in the temporal layers: a model this small does not overfit
    unet.to(device()).eval()
    optimiser = Optimiser(unet, lr=1e-3 * rate, matrix_lr=0.015 * rate)
    stage = Stage(unet, optimiser, common.folder, "t2v", decay=0.998)
    for i in stage.steps(budget):
        rng = random.Random(f"t2v/{i}")
        frames, length = draw_length(rng, T2V_SHARES)
        batch = draw_batch(pools[length], rng, CLIPS_BATCH, empty)
        with torch.no_grad():
            words = text_states(text_encoder, batch.ids, batch.mask)
        loss = noise_loss(unet, batch.latents[:, :frames].transpose(1, 2), words)
        stage.descend(loss)
        stage.log({"frames": frames, "loss": loss.detach()}, 20)
        if i % 500 == 0:
            stage.log(measure_unet_binding(unet, common, text_encoder, 5))
    return unet


def motion_bucket(scene: Scene) -> int:
    """Return the motion bucket: the actors' mean speed and the camera's, 127 for an actor that "moves", at most 255."""
    speed = sum(SPEEDS[a.verb] for a in scene.actors) / len(scene.actors) + abs(PANS[scene.pan])
    return min(255, round(MOTION_BUCKET * speed / SPEEDS["moves"]))


@dataclass(frozen=True)
class ImageConditioning:
    """The first frames of a pool's clips as the model's conditioning."""

    latents: Tensor  # n c h w, with noise added to the pixels before the VAE, not scaled
    embeddings: Tensor  # n WIDTH
    ids: Tensor  # n 3: frames per second - 1, motion bucket, strength of that noise


def build_conditioning(
    common: SharedParts, image_encoder: nn.Module, frames: int
) -> ImageConditioning:
    """Return the conditioning of every clip of a pool. Its noise strength is log-normal around 0.02."""
    scenes, parts = pool_scenes(frames, POOLS[frames]), []
    generator = torch.Generator().manual_seed(frames)
    for i in range(0, len(scenes), 64):
        x = render_clips(scenes[i : i + 64], 1)
        strength = (math.log(0.02) + 0.5 * torch.randn(len(x), generator=generator)).exp().to(x)
        noise = torch.randn(x.shape, generator=generator).to(x)
        noisy = x + strength.view(-1, 1, 1, 1, 1) * noise
        z = common.encode(noisy)[:, 0] / common.scaling_factor
        with torch.no_grad():
            embeddings = image_encoder(pixel_values(x[:, 0])).image_embeds
        bucket = torch.tensor([motion_bucket(s) for s in scenes[i : i + 64]]).to(x)
        ids = torch.stack([torch.full_like(bucket, RATE - 1), bucket, strength], 1)
        parts.append((z, embeddings, ids))
    return ImageConditioning(*(torch.cat(part) for part in zip(*parts, strict=True)))


def edm_errors(
    unet: nn.Module, z: Tensor, conditioning: ImageConditioning, sigma: Tensor, noise: Tensor
) -> Tensor:
    """Return the squared error of v = (noise - sigma clean) / sqrt(sigma^2 + 1), one per clip.

    This equals EDM's weighted loss.

    z: n f c h w, scaled latents.
    """
    level = sigma.view(-1, 1, 1, 1, 1)
    scale = (level**2 + 1).sqrt()
    image = conditioning.latents[:, None].expand(-1, z.shape[1], -1, -1, -1)
    inputs = torch.cat([(z + level * noise) / scale, image], 2)
    embeddings, ids = conditioning.embeddings[:, None], conditioning.ids
    with torch.autocast(z.device.type, torch.bfloat16):
        prediction = unet(inputs, 0.25 * sigma.log(), embeddings, added_time_ids=ids).sample
    return (prediction.float() - (noise - level * z) / scale).square().flatten(1).mean(1)


def draw_svd_sigmas(count: int) -> Tensor:
    """Draw noise levels: log-normal as in SVD, and one in ten uniform over the sampler's whole range, in log sigma."""
    normal = (0.7 + 1.6 * torch.randn(count)).exp()
    even = (math.log(0.002) + torch.rand(count) * (math.log(700) - math.log(0.002))).exp()
    return torch.where(torch.rand(count) < 0.1, even, normal.clamp(0.002, 700))


def drop_conditioning(
    images: ImageConditioning, chosen: list[int], rng: random.Random
) -> ImageConditioning:
    """Return the conditioning of some clips. One in ten is zero, as in the pipeline's unconditional branch."""
    keep = torch.tensor([rng.random() >= 0.1 for _ in chosen]).to(images.latents)
    latents, embeddings = images.latents[chosen], images.embeddings[chosen]
    return ImageConditioning(
        latents * keep.view(-1, 1, 1, 1), embeddings * keep.view(-1, 1), images.ids[chosen]
    )


def train_svd(
    common: SharedParts,
    image_encoder: nn.Module,
    unet: nn.Module,
    budget: Budget,
    rate: float = 1.0,
) -> nn.Module:
    """Train the image-to-video model: clips that start with a given first frame."""
    unet.to(device())
    latents = {f: common.pool(f).latents for f in POOLS}
    images = {f: build_conditioning(common, image_encoder, f) for f in POOLS}
    optimiser = Optimiser(unet, lr=1e-3 * rate, matrix_lr=0.015 * rate)
    stage = Stage(unet, optimiser, common.folder, "svd", decay=0.998)
    for i in stage.steps(budget):
        rng = random.Random(f"svd/{i}")
        frames, length = draw_length(rng, SVD_SHARES)
        chosen = [rng.randrange(len(latents[length])) for _ in range(CLIPS_BATCH)]
        z = latents[length][chosen, :frames].to(device()).float()
        conditioning = drop_conditioning(images[length], chosen, rng)
        sigmas = draw_svd_sigmas(len(z)).to(z)
        noise = torch.randn(z.shape).to(z)
        loss = edm_errors(unet, z, conditioning, sigmas, noise).mean()
        stage.descend(loss)
        stage.log({"frames": frames, "loss": loss.detach()}, 20)
    return unet
