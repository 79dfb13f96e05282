"""Train `shapeworld-wan`: a causal video VAE, then the text encoder and a transformer on rectified flow."""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ...sampling.schedules import shift_sigmas
from ..scenes import Scene
from ..truth import psnr
from .autoencoders import decode_latents, encode_posterior, get_bias
from .loop import (
    CONTINUED_RATE,
    Budget,
    Optimiser,
    Stage,
    device,
    draw_training_scenes,
    render_clips,
    to_device,
)
from .pools import Batch, Pool, add_captions, build_pool, draw_batch, measure_binding, pool_scenes
from .saving import load_networks, save_folder
from .text import AttributeReader, new_t5_tokenizer, tokenize, train_binding

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

PIPELINE = "WanPipeline"
SHARES_OF_TIME = {"vae": 0.19, "binding": 0.01, "transformer": 0.7, "polish": 0.1}
CONTINUED_SHARES = {
    "transformer": 0.75,
    "polish": 0.25,
}  # when training continues from a checkpoint
POOLS = {1: 8192, 5: 2048, 9: 1024, 13: 8192, 25: 1024}  # clip length: encoded clips
SHARES = {1: 0.15, 5: 0.1, 9: 0.05, 13: 0.6, 25: 0.1}  # how often a step uses that length
BATCH = {1: 64, 5: 32, 9: 21, 13: 16, 25: 9}  # about 4096 tokens per step
FRAMES_SHARE = (
    0.2  # of the time, at the start: only single frames, from which shapes and words are learned
)
SHIFT_WEIGHT = (
    0.2  # of the squared shift of the latents, in standard deviations, while the VAE is polished
)
TEXT_PARTS = ("text_encoder", "reader")
LABEL_WEIGHT = 0.02  # of the text encoder's first task, relative to the flow loss
LATENT_CHANNELS = 32
VAE_CONFIG: dict[str, Any] = {
    "base_dim": 16,
    "z_dim": LATENT_CHANNELS,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 8,
}
TRANSFORMER_CONFIG: dict[str, Any] = {
    "patch_size": (1, 1, 1),
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "in_channels": 32,
    "out_channels": 32,
    "text_dim": 128,
    "freq_dim": 128,
    "ffn_dim": 768,
    "num_layers": 5,
    "rope_max_seq_len": 256,
}
TEXT_WIDTH = 128
TEXT_CONFIG: dict[str, Any] = {
    "d_model": TEXT_WIDTH,
    "d_kv": 32,
    "num_heads": 4,
    "d_ff": 256,
    "num_layers": 2,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
}


@dataclass(frozen=True)
class Phase:
    """A phase of the VAE's training at one clip length."""

    until: float  # share of the budget at which it ends
    frames: int
    batch: int


VAE_PHASES = (Phase(0.2, 1, 16), Phase(0.7, 5, 8), Phase(1.0, 13, 4))


def new_vae() -> "AutoencoderKLWan":
    """Return an untrained VAE."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    torch.manual_seed(0)
    count = LATENT_CHANNELS
    vae = AutoencoderKLWan(**VAE_CONFIG, latents_mean=[0.0] * count, latents_std=[1.0] * count)
    # A narrow posterior: with a wider one, its noise hides the picture.
    get_bias(vae.quant_conv).data[count:] = -5.0
    return vae


def render_video(scenes: list[Scene], frames: int) -> Tensor:
    """Render clips as the VAE takes them, n 3 f H W."""
    return (
        render_clips(scenes, frames)
        .transpose(1, 2)
        .contiguous(memory_format=torch.channels_last_3d)
    )


def train_vae(folder: Path, budget: Budget) -> "AutoencoderKLWan":
    """Train with absolute and squared error through a sampled posterior, and a small KL term to the unit Gaussian."""
    vae = to_device(new_vae())
    stage = Stage(vae, Optimiser(vae, lr=3e-3, matrix_lr=0.02), folder, "vae")
    for i in stage.steps(budget):
        phase = next(p for p in VAE_PHASES if stage.share < p.until)
        x = render_video(draw_training_scenes(phase.batch, f"vae/{i}"), phase.frames)
        with torch.autocast(x.device.type, torch.bfloat16):
            posterior = encode_posterior(vae, x)
            y = decode_latents(vae, posterior.sample())
        error = y.float() - x
        mean, variance = posterior.mean.float(), posterior.var.float()
        kl = 0.5 * (mean**2 + variance - 1 - posterior.logvar.float()).mean()
        stage.descend(error.abs().mean() + 2 * error.square().mean() + 3e-4 * kl)
        quality = psnr(error / 2, torch.zeros_like(error))
        stage.log({"frames": phase.frames, "psnr": quality, "kl": kl.detach()})
    return vae


def polish_vae(vae: "AutoencoderKLWan", folder: Path, budget: Budget) -> None:
    """Train the VAE further, with its latents close to those that the transformer was trained on.

    They move by a few hundredths of their standard deviation, which the transformer tolerates.
    """
    before = copy.deepcopy(vae).eval()
    before.requires_grad_(False)
    _, std = latent_statistics(vae)
    vae.train().requires_grad_(True)
    stage = Stage(vae, Optimiser(vae, lr=1e-3, matrix_lr=0.006), folder, "polish")
    phase = VAE_PHASES[-1]
    for i in stage.steps(budget):
        x = render_video(draw_training_scenes(phase.batch, f"polish/{i}"), phase.frames)
        with torch.autocast(x.device.type, torch.bfloat16):
            with torch.no_grad():
                target = encode_posterior(before, x).mode().float()
            posterior = encode_posterior(vae, x)
            spread = torch.rand(len(x), 1, 1, 1, 1).to(x) * posterior.std.detach()
            z = posterior.mean + spread * torch.randn(target.shape).to(x)
            error = decode_latents(vae, z).float() - x
        shift = ((posterior.mean.float() - target) / std).square().mean()
        stage.descend(error.abs().mean() + 4 * error.square().mean() + SHIFT_WEIGHT * shift)
        quality = psnr(error / 2, torch.zeros_like(error))
        stage.log({"psnr": quality, "moved": shift.detach().sqrt()})


def clip_encoder(vae: "AutoencoderKLWan") -> Callable[[Tensor], Tensor]:
    """Return a function from clips n f 3 H W to latents n c f h w, not normalised."""

    def encode(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            video = x.transpose(1, 2).contiguous(memory_format=torch.channels_last_3d)
            return encode_posterior(vae, video).mode()

    return encode


def set_latent_statistics(vae: "AutoencoderKLWan", folder: Path) -> None:
    """Write each channel's mean and standard deviation to the VAE's configuration, as in published checkpoints."""
    pools = [build_pool(clip_encoder(vae), folder, f, POOLS[f])[:2000] for f in (1, 13)]
    z = torch.cat([p.float().transpose(0, 1).flatten(1) for p in pools], 1)
    mean, std = ([round(v, 4) for v in values.tolist()] for values in (z.mean(1), z.std(1)))
    vae.register_to_config(latents_mean=mean, latents_std=std)


def latent_statistics(vae: "AutoencoderKLWan") -> tuple[Tensor, Tensor]:
    """Return each channel's mean and standard deviation, 1 c 1 1 1."""
    config = vae.config
    values = torch.tensor([config["latents_mean"], config["latents_std"]], device=device())
    mean, std = values.view(2, 1, -1, 1, 1, 1)
    return mean, std


def new_parts(vocabulary: int) -> nn.ModuleDict:
    """Return the untrained transformer and text encoder, for this number of words."""
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(1)
    text_config = UMT5Config(**TEXT_CONFIG, vocab_size=vocabulary, pad_token_id=0, eos_token_id=1)
    parts = {
        "transformer": WanTransformer3DModel(**TRANSFORMER_CONFIG),
        "text_encoder": UMT5EncoderModel(text_config),
    }
    return nn.ModuleDict(parts)


def embed(text_encoder: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Return text states with zeroed padding. Published models attend to these zero rows, and so does this one."""
    return text_encoder(ids, mask).last_hidden_state * mask[..., None]


def flow_errors(
    parts: nn.ModuleDict, z: Tensor, states: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """Return the squared error of the velocity noise - z, one per clip. sigma: n."""
    level = sigma.view(-1, 1, 1, 1, 1)
    velocity = parts["transformer"]((1 - level) * z + level * noise, 1000 * sigma, states).sample
    return (velocity.float() - (noise - z)).square().flatten(1).mean(1)


def flow_loss(parts: nn.ModuleDict, batch: Batch, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rectified-flow loss, and the loss of the text encoder's first task, 0 if it is frozen.

    The noise levels are logit-normal with a small shift, because clips this small show their shapes at middle levels.
    """
    sigma = shift_sigmas(torch.randn(len(z)).sigmoid(), 1.5).to(z)
    noise = torch.randn(z.shape).to(z)  # drawn on the CPU: the same on every device
    trains_text = "reader" in parts
    with torch.autocast(z.device.type, torch.bfloat16):
        with torch.set_grad_enabled(trains_text):
            states = embed(parts["text_encoder"], batch.ids, batch.mask)
        errors = flow_errors(parts, z, states, sigma, noise)
    label_loss = parts["reader"](states, batch.labels) if trains_text else torch.zeros(())
    return errors.mean(), label_loss


def measure_wan_binding(
    parts: nn.ModuleDict, vae: "AutoencoderKLWan", tokenizer
) -> dict[str, float]:
    """Return the share of bound attributes at noise level 0.75, on clips of 5 frames."""
    mean, std = latent_statistics(vae)

    def errors(scenes: list[Scene], captions: list[str]) -> Tensor:
        z = (clip_encoder(vae)(render_clips(scenes, 5)).float() - mean) / std
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
        with torch.autocast(z.device.type, torch.bfloat16):
            states = embed(parts["text_encoder"], *tokenize(tokenizer, captions))
            return flow_errors(parts, z, states, torch.full((len(z),), 0.75).to(z), noise)

    return measure_binding(errors)


def draw_frame_count(share: float, rng: random.Random, start: float) -> int:
    """Draw a clip length; it is 1 while the used share of the budget is below `start`."""
    return 1 if share < start else rng.choices(list(SHARES), list(SHARES.values()))[0]


def train_transformer(
    vae: "AutoencoderKLWan", parts: nn.ModuleDict, folder: Path, budget: Budget, start: float
) -> None:
    """Train the transformer, and the text encoder if there is a reader; without one it is frozen.

    One caption in ten is empty, so that guidance has an unconditional prediction. start: the share of the budget, at
    the start, that uses only single frames.
    """
    tokenizer = new_t5_tokenizer()
    mean, std = latent_statistics(vae)
    empty = tokenize(tokenizer, [""])
    trains_text = "reader" in parts
    trained, rate = (parts, 1.0) if trains_text else (parts["transformer"], CONTINUED_RATE)
    optimiser = Optimiser(trained, lr=1e-3 * rate, matrix_lr=0.02 * rate, adamw_only=TEXT_PARTS)
    stage = Stage(trained, optimiser, folder, "transformer", decay=0.999)
    pools: dict[int, Pool] = {}
    for i in stage.steps(budget):
        rng = random.Random(f"transformer/{i}")
        frames = draw_frame_count(stage.share, rng, start)
        if frames not in pools:
            latents = build_pool(clip_encoder(vae), folder, frames, POOLS[frames])
            pools[frames] = add_captions(latents, pool_scenes(frames, POOLS[frames]), tokenizer)
        batch = draw_batch(pools[frames], rng, BATCH[frames], empty)
        loss, label_loss = flow_loss(parts, batch, (batch.latents - mean) / std)
        stage.descend(loss + LABEL_WEIGHT * label_loss)
        stage.log({"frames": frames, "loss": loss.detach(), "tell": label_loss.detach()}, 20)
        if i % 500 == 0:
            stage.log(measure_wan_binding(parts, vae, tokenizer))


def train_text_encoder(parts: nn.ModuleDict, folder: Path, budget: Budget) -> None:
    """Train the text encoder to bind its words, with a reader that is also used while the transformer is trained."""
    parts["reader"] = AttributeReader(TEXT_WIDTH).to(device())
    trained = nn.ModuleDict({name: parts[name] for name in TEXT_PARTS})
    stage = Stage(trained, Optimiser(trained, lr=1e-3), folder, "binding", decay=0.98)
    train_binding(stage, new_t5_tokenizer(), embed, budget)


def train_wan(
    folder: Path, budgets: dict[str, Budget], start: Path | None = None, compiled: bool = False
) -> None:
    """Train the unfinished stages and write the checkpoint to `folder/shapeworld-wan`.

    start: a checkpoint to continue from, with its text encoder frozen. compiled: compile the transformer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if start:
        parts = load_networks(start)
        vae = to_device(cast("AutoencoderKLWan", parts.pop("vae")))
    else:
        vae, parts = train_vae(folder, budgets["vae"]), new_parts(len(new_t5_tokenizer()))
        set_latent_statistics(vae, folder)
    vae.eval()
    vae.requires_grad_(False)
    parts.to(device()).train()
    if not start:
        train_text_encoder(parts, folder, budgets["binding"])
    if compiled:
        parts["transformer"].compile()
    frames_first = 0.0 if start else FRAMES_SHARE
    train_transformer(vae, parts, folder, budgets["transformer"], frames_first)
    polish_vae(vae, folder, budgets["polish"])
    save_wan(vae, parts, folder / "shapeworld-wan")


def save_wan(vae: "AutoencoderKLWan", parts: nn.ModuleDict, out: Path) -> None:
    """Write the checkpoint as Wan's pipeline class loads it."""
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    components = {
        "vae": vae,
        "transformer": parts["transformer"],
        "text_encoder": parts["text_encoder"],
        "scheduler": scheduler,
        "tokenizer": new_t5_tokenizer(),
    }
    save_folder(out, PIPELINE, components)
