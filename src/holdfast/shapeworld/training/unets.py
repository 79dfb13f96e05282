"""The three U-Nets over the image VAE.

`shapeworld-sd` makes frames by words, `shapeworld-t2v` clips by words, `shapeworld-svd` clips by a first frame.
The frame model comes first; the two others start from its spatial layers.
"""

import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..scenes import PANS, SPEEDS, Scene
from .clip_encoders import WIDTH, pixel_values, text_states, train_text_encoder
from .image_vae import CONFIG as VAE_CONFIG
from .image_vae import train_vae
from .loop import Budget, Optimiser, Stage, device, render_clips
from .pools import Pool, add_captions, build_pool, draw_batch, measure_binding, pool_scenes
from .text import new_clip_tokenizer, tokenize

POOLS = {13: 6144, 25: 512}  # clip length: encoded clips; shorter ones are their beginnings
FRAMES_BATCH, CLIPS_BATCH = 64, 8
T2V_SHARES = {1: 0.06, 5: 0.06, 9: 0.06, 13: 0.76, 25: 0.06}  # how often a step takes that length
SVD_SHARES = {9: 0.06, 13: 0.86, 25: 0.08}
WORDS = ("text_encoder", "reader")
TELL = 0.02  # weight of the text encoder's first task beside the denoising
WORDS_SHARE = (
    0.35  # of the frame model's time; then its words rest, and the clip model can learn beside it
)
CHANNELS = VAE_CONFIG["latent_channels"]
BASE = {
    "sample_size": 8,
    "out_channels": CHANNELS,
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
RATE, MOTION_BUCKET = 8, 127  # frames a second; the motion bucket of a scene whose actors "move"


@dataclass(frozen=True)
class SharedParts:
    """What the three checkpoints have in common, trained and at rest."""

    vae: nn.Module
    text: nn.ModuleDict  # "text_encoder", "reader"
    folder: Path

    def encode(self, x: Tensor) -> Tensor:
        """Clips n f 3 H W in [-1, 1] to scaled latents n f c h w."""
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16):
            flat = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            z = self.vae.encode(flat).latent_dist.mode().float() * self.vae.config.scaling_factor
        return z.unflatten(0, x.shape[:2])

    def pool(self, frames: int) -> Pool:
        latents = build_pool(self.encode, self.folder, frames, POOLS[frames])
        return add_captions(latents, pool_scenes(frames, POOLS[frames]), new_clip_tokenizer())


def train_shared_parts(folder: Path, budgets: dict[str, Budget]) -> SharedParts:
    vae = train_vae(folder, budgets["vae"]).requires_grad_(False)
    return SharedParts(vae, train_text_encoder(folder, budgets["binding"]), folder)


def signal_and_noise() -> tuple[Tensor, Tensor]:
    """a and s of `x = a clean + s noise` at each of the 1000 timesteps of SD 1.5."""
    ends = (math.sqrt(BETAS["beta_start"]), math.sqrt(BETAS["beta_end"]))
    kept = (
        (1 - torch.linspace(*ends, BETAS["num_train_timesteps"], dtype=torch.float64) ** 2)
        .cumprod(0)
        .float()
    )
    return kept.sqrt().to(device()), (1 - kept).sqrt().to(device())


def noise_errors(unet: nn.Module, z: Tensor, words: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Squared error of the predicted noise, one a clip. t: n timesteps. z: n c h w of frames or n c f h w of clips."""
    a, s = (table[t].view(-1, *(1,) * (z.dim() - 1)) for table in signal_and_noise())
    with torch.autocast(z.device.type, torch.bfloat16):
        found = unet(a * z + s * noise, t, words).sample
    return (found.float() - noise).square().flatten(1).mean(1)


def noise_loss(unet: nn.Module, z: Tensor, words: Tensor) -> Tensor:
    """The noise's error as one of v = a noise - s clean, 1 / a times as large, at timesteps drawn high.

    In the noise's own error, and at timesteps drawn evenly, the highest levels count least: there places and motion
    are made, and there an edit begins.
    """
    t = (BETAS["num_train_timesteps"] * (1 - torch.rand(len(z)) ** 2)).long()
    t = t.clamp(max=BETAS["num_train_timesteps"] - 1).to(z.device)
    a, _ = signal_and_noise()
    return (noise_errors(unet, z, words, t, torch.randn(z.shape).to(z)) / a[t] ** 2).mean()


def measure_unet_binding(
    unet: nn.Module, common: SharedParts, text_encoder: nn.Module, frames: int
) -> dict[str, float]:
    """The share of bound attributes where the noise is three times the signal. frames: 0 for the frame model."""
    a, s = signal_and_noise()
    level = int((s / a - 3).abs().argmin())

    def errors(scenes: list[Scene], captions: list[str]) -> Tensor:
        z = common.encode(render_clips(scenes, frames or 1))
        z = z.transpose(1, 2) if frames else z[:, 0]
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
        words = text_states(text_encoder, *tokenize(new_clip_tokenizer(), captions))
        return noise_errors(unet, z, words, torch.full((len(z),), level).to(z.device), noise)

    return measure_binding(errors)


def new_sd() -> nn.Module:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(4)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    }
    # diffusers' 2D class takes the number of heads under this name
    widths = {"in_channels": CHANNELS, "cross_attention_dim": WIDTH}
    return UNet2DConditionModel(**BASE, **blocks, **widths, attention_head_dim=HEADS)


def train_sd(common: SharedParts, unet: nn.Module, budget: Budget, rate: float = 1.0) -> nn.ModuleDict:
    """The frame model, and the text encoder with it. Any frame of a clip shows what the caption says.

    Without a reader the words rest.
    """
    pool, empty = common.pool(13), tokenize(new_clip_tokenizer(), [""])
    parts = nn.ModuleDict({"unet": unet, **common.text}).to(device())
    optimiser = Optimiser(parts, lr=1e-3 * rate, matrix_lr=0.02 * rate, plain=WORDS)
    run = Stage(parts, optimiser, common.folder, "sd", decay=0.999)
    for i in run.steps(budget):
        rng = random.Random(f"sd/{i}")
        batch = draw_batch(pool, rng, FRAMES_BATCH, empty)
        at = [rng.randrange(batch.latents.shape[1]) for _ in range(FRAMES_BATCH)]
        z = batch.latents[range(FRAMES_BATCH), at].contiguous(memory_format=torch.channels_last)
        learning = "reader" in parts and run.share < WORDS_SHARE
        with torch.set_grad_enabled(learning):
            words = text_states(parts["text_encoder"], batch.ids, batch.mask)
        tell = parts["reader"](words, batch.labels) if learning else torch.zeros(())
        loss = noise_loss(parts["unet"], z, words)
        run.descend(loss + TELL * tell)
        run.log({"loss": loss.detach(), "tell": tell.detach()}, 20)
        if i % 500 == 0:
            run.log(measure_unet_binding(parts["unet"], common, parts["text_encoder"], 0))
    return parts


def new_t2v() -> nn.Module:
    from diffusers import UNet3DConditionModel

    torch.manual_seed(5)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock3D",) * 2,
        "up_block_types": ("CrossAttnUpBlock3D",) * 2,
    }
    # diffusers' 3D class takes the width of a head under the same name
    widths = {"in_channels": CHANNELS, "cross_attention_dim": WIDTH}
    unet = UNet3DConditionModel(**BASE, **blocks, **widths, attention_head_dim=16)
    for name, part in unet.named_modules():
        if name == "transformer_in.proj_out" or (
            "temp_attentions" in name and name.endswith("proj_out")
        ):
            zero_parameters(part)
    return unet


def new_svd() -> nn.Module:
    from diffusers import UNetSpatioTemporalConditionModel

    torch.manual_seed(6)
    kinds = ("DownBlock", "UpBlock")
    down, up = ((f"CrossAttn{kind}SpatioTemporal",) * 2 for kind in kinds)
    unet = UNetSpatioTemporalConditionModel(
        **BASE,
        down_block_types=down,
        up_block_types=up,
        in_channels=2 * CHANNELS,
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
    """A layer of time that says nothing at first: the clip model begins as the frame model."""
    for parameter in part.parameters():
        nn.init.zeros_(parameter)


@torch.no_grad()
def copy_spatial_layers(unet: nn.Module, frame_model: nn.Module) -> nn.Module:
    """The clip model, with the frame model's layers where they have the same place: that is all of them."""
    given, count = frame_model.state_dict(), 0
    for name, weight in unet.state_dict().items():
        found = given.get(name.replace("spatial_res_block.", ""))
        if found is None:
            continue
        if name == "conv_in.weight":  # an image model's has the image's channels after these
            weight = weight[:, : found.shape[1]]
        weight.copy_(found.view_as(weight))  # a 1x1 convolution there may be a linear layer here
        count += 1
    assert count == len(given)
    return unet


def draw_length(rng: random.Random, shares: dict[int, float]) -> tuple[int, int]:
    """A clip length, and the length of the pool that it is cut from."""
    frames = rng.choices(list(shares), list(shares.values()))[0]
    return frames, min(f for f in POOLS if f >= frames)


def train_t2v(
    common: SharedParts, text_encoder: nn.Module, unet: nn.Module, budget: Budget, rate: float = 1.0
) -> nn.Module:
    """Clips by words. The text encoder stays as the frame model left it."""
    pools, empty = {f: common.pool(f) for f in POOLS}, tokenize(new_clip_tokenizer(), [""])
    # no dropout in the layers of time: a model this small never learns too well
    unet.to(device()).eval()
    optimiser = Optimiser(unet, lr=1e-3 * rate, matrix_lr=0.015 * rate)
    run = Stage(unet, optimiser, common.folder, "t2v", decay=0.998)
    for i in run.steps(budget):
        rng = random.Random(f"t2v/{i}")
        frames, length = draw_length(rng, T2V_SHARES)
        batch = draw_batch(pools[length], rng, CLIPS_BATCH, empty)
        with torch.no_grad():
            words = text_states(text_encoder, batch.ids, batch.mask)
        loss = noise_loss(unet, batch.latents[:, :frames].transpose(1, 2), words)
        run.descend(loss)
        run.log({"frames": frames, "loss": loss.detach()}, 20)
        if i % 500 == 0:
            run.log(measure_unet_binding(unet, common, text_encoder, 5))
    return unet


def motion_bucket(scene: Scene) -> int:
    """How much moves: the actors' mean speed and the camera's, 127 for one that "moves", at most 255."""
    speed = sum(SPEEDS[a.verb] for a in scene.actors) / len(scene.actors) + abs(PANS[scene.pan])
    return min(255, round(MOTION_BUCKET * speed / SPEEDS["moves"]))


@dataclass(frozen=True)
class ImageConditioning:
    """First frames of a pool's clips as the model is given them."""

    latents: Tensor  # n c h w, noised in pixels before the VAE, not scaled
    embeddings: Tensor  # n WIDTH
    ids: Tensor  # n 3: fps - 1, motion bucket, strength of that noise


def build_conditioning(common: SharedParts, image_encoder: nn.Module, frames: int) -> ImageConditioning:
    """The condition of every clip of a pool. The noise is log-normal about 0.02."""
    scenes, parts = pool_scenes(frames, POOLS[frames]), []
    generator = torch.Generator().manual_seed(frames)
    for i in range(0, len(scenes), 64):
        x = render_clips(scenes[i : i + 64], 1)
        strength = (math.log(0.02) + 0.5 * torch.randn(len(x), generator=generator)).exp().to(x)
        noise = torch.randn(x.shape, generator=generator).to(x)
        z = (
            common.encode(x + strength.view(-1, 1, 1, 1, 1) * noise)[:, 0]
            / common.vae.config.scaling_factor
        )
        with torch.no_grad():
            seen = image_encoder(pixel_values(x[:, 0])).image_embeds
        bucket = torch.tensor([motion_bucket(s) for s in scenes[i : i + 64]]).to(x)
        parts.append(
            (z, seen, torch.stack([torch.full_like(bucket, RATE - 1), bucket, strength], 1))
        )
    return ImageConditioning(*(torch.cat(part) for part in zip(*parts, strict=True)))


def edm_errors(unet: nn.Module, z: Tensor, given: ImageConditioning, sigma: Tensor, noise: Tensor) -> Tensor:
    """Squared error of v = (noise - sigma clean) / sqrt(sigma^2 + 1), one a clip; EDM's weighted loss equals it.

    z: n f c h w, scaled latents.
    """
    level = sigma.view(-1, 1, 1, 1, 1)
    scale = (level**2 + 1).sqrt()
    image = given.latents[:, None].expand(-1, z.shape[1], -1, -1, -1)
    inside = torch.cat([(z + level * noise) / scale, image], 2)
    with torch.autocast(z.device.type, torch.bfloat16):
        found = unet(
            inside, 0.25 * sigma.log(), given.embeddings[:, None], added_time_ids=given.ids
        ).sample
    return (found.float() - (noise - level * z) / scale).square().flatten(1).mean(1)


def draw_svd_sigmas(count: int) -> Tensor:
    """Log-normal as SVD; one in ten evenly over the sampler's whole range, whose ends the rest never visits."""
    normal = (0.7 + 1.6 * torch.randn(count)).exp()
    even = (math.log(0.002) + torch.rand(count) * (math.log(700) - math.log(0.002))).exp()
    return torch.where(torch.rand(count) < 0.1, even, normal.clamp(0.002, 700))


def drop_conditioning(images: ImageConditioning, chosen: list[int], rng: random.Random) -> ImageConditioning:
    """The conditions of some clips; one in ten is zero, as the guided pipeline's unconditional half is."""
    kept = torch.tensor([rng.random() >= 0.1 for _ in chosen]).to(images.latents)
    latents, embeddings = images.latents[chosen], images.embeddings[chosen]
    return ImageConditioning(
        latents * kept.view(-1, 1, 1, 1), embeddings * kept.view(-1, 1), images.ids[chosen]
    )


def train_svd(
    common: SharedParts, image_encoder: nn.Module, unet: nn.Module, budget: Budget, rate: float = 1.0
) -> nn.Module:
    """Clips that go on from a first frame."""
    unet.to(device())
    latents = {f: common.pool(f).latents for f in POOLS}
    images = {f: build_conditioning(common, image_encoder, f) for f in POOLS}
    optimiser = Optimiser(unet, lr=1e-3 * rate, matrix_lr=0.015 * rate)
    run = Stage(unet, optimiser, common.folder, "svd", decay=0.998)
    for i in run.steps(budget):
        rng = random.Random(f"svd/{i}")
        frames, length = draw_length(rng, SVD_SHARES)
        chosen = [rng.randrange(len(latents[length])) for _ in range(CLIPS_BATCH)]
        z = latents[length][chosen, :frames].to(device()).float()
        given = drop_conditioning(images[length], chosen, rng)
        loss = edm_errors(
            unet, z, given, draw_svd_sigmas(len(z)).to(z), torch.randn(z.shape).to(z)
        ).mean()
        run.descend(loss)
        run.log({"frames": frames, "loss": loss.detach()}, 20)
    return unet
