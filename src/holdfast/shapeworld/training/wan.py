"""`shapeworld-wan`: a causal video VAE, then text encoder and transformer on rectified flow."""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...sampling.maths import shift_sigmas
from ..scenes import Scene
from ..truth import psnr
from .loop import (
    CONTINUED_RATE,
    Budget,
    Optimiser,
    Stage,
    device,
    draw_training_scenes,
    render_clips,
)
from .pools import Batch, Pool, add_captions, build_pool, draw_batch, measure_binding, pool_scenes
from .saving import load_networks, save_folder
from .text import AttributeReader, new_t5_tokenizer, tokenize, train_binding

PIPELINE = "WanPipeline"
SHARES_OF_TIME = {"vae": 0.19, "binding": 0.01, "transformer": 0.7, "polish": 0.1}
SHARES_ON = {"transformer": 0.75, "polish": 0.25}  # where a written checkpoint is trained on
POOLS = {1: 8192, 5: 2048, 9: 1024, 13: 8192, 25: 1024}  # clip length: encoded clips
SHARES = {1: 0.15, 5: 0.1, 9: 0.05, 13: 0.6, 25: 0.1}  # how often a step takes that length
BATCH = {1: 64, 5: 32, 9: 21, 13: 16, 25: 9}  # about 4096 tokens a step whatever the length
ONLY_FRAMES = 0.2  # share of the steps, at first, that see single frames alone: shapes and words are learned there
HELD = 0.2  # weight of how far the latents move, squared, in their standard deviations, while the VAE is polished
WORDS = ("text_encoder", "reader")
TELL = 0.02  # weight of the text encoder's first task beside the flow
VAE_CONFIG = {
    "base_dim": 16,
    "z_dim": 32,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 8,
}
TRANSFORMER_CONFIG = {
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
TEXT_CONFIG = {
    "d_model": 128,
    "d_kv": 32,
    "num_heads": 4,
    "d_ff": 256,
    "num_layers": 2,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
}


@dataclass(frozen=True)
class Phase:
    """A stretch of the VAE's training at one clip length."""

    until: float  # share of the budget at which it ends
    frames: int
    batch: int


VAE_PHASES = (Phase(0.2, 1, 16), Phase(0.7, 5, 8), Phase(1.0, 13, 4))


def new_vae() -> nn.Module:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    z = VAE_CONFIG["z_dim"]
    vae = AutoencoderKLWan(**VAE_CONFIG, latents_mean=[0.0] * z, latents_std=[1.0] * z)
    vae.quant_conv.bias.data[z:] = -5.0  # a narrow posterior, or its noise drowns the picture
    return vae


def video(scenes: list[Scene], frames: int) -> Tensor:
    """Clips as the VAE takes them, n 3 f H W."""
    return render_clips(scenes, frames).transpose(1, 2).contiguous(memory_format=torch.channels_last_3d)


def train_vae(folder: Path, budget: Budget) -> nn.Module:
    """Absolute and squared error through a sampled posterior with a light pull to the unit Gaussian."""
    vae = new_vae().to(device())
    run = Stage(vae, Optimiser(vae, lr=3e-3, matrix_lr=0.02), folder, "vae")
    for i in run.steps(budget):
        phase = next(p for p in VAE_PHASES if run.share < p.until)
        x = video(draw_training_scenes(phase.batch, f"vae/{i}"), phase.frames)
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
        run.descend(error.abs().mean() + 2 * error.square().mean() + 3e-4 * kl)
        run.log(
            {
                "frames": phase.frames,
                "psnr": psnr(error / 2, torch.zeros_like(error)),
                "kl": kl.detach(),
            }
        )
    return vae


def polish_vae(vae: nn.Module, folder: Path, budget: Budget) -> None:
    """Train the VAE further, its latents held to those that the transformer learned: they move by a few hundredths of
    their spread, which it does not notice.
    """
    before = copy.deepcopy(vae).eval().requires_grad_(False)
    _, std = latent_statistics(vae)
    vae.train().requires_grad_(True)
    run = Stage(vae, Optimiser(vae, lr=1e-3, matrix_lr=0.006), folder, "polish")
    phase = VAE_PHASES[-1]
    for i in run.steps(budget):
        x = video(draw_training_scenes(phase.batch, f"polish/{i}"), phase.frames)
        with torch.autocast(x.device.type, torch.bfloat16):
            with torch.no_grad():
                held = before.encode(x).latent_dist.mode().float()
            posterior = vae.encode(x).latent_dist
            spread = torch.rand(len(x), 1, 1, 1, 1).to(x) * posterior.std.detach()
            z = posterior.mean + spread * torch.randn(held.shape).to(x)
            error = vae.decode(z).sample.float() - x
        moved = ((posterior.mean.float() - held) / std).square().mean()
        run.descend(error.abs().mean() + 4 * error.square().mean() + HELD * moved)
        figures = {"psnr": psnr(error / 2, torch.zeros_like(error)), "moved": moved.detach().sqrt()}
        run.log(figures)


def clip_encoder(vae: nn.Module) -> Callable[[Tensor], Tensor]:
    """Clips n f 3 H W to latents n c f h w, not normalised."""

    def encode(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return vae.encode(
                x.transpose(1, 2).contiguous(memory_format=torch.channels_last_3d)
            ).latent_dist.mode()

    return encode


def set_latent_statistics(vae: nn.Module, folder: Path) -> None:
    """Write the channels' mean and standard deviation into the VAE's configuration, as in published checkpoints."""
    pools = [build_pool(clip_encoder(vae), folder, f, POOLS[f])[:2000] for f in (1, 13)]
    z = torch.cat([p.float().transpose(0, 1).flatten(1) for p in pools], 1)
    mean, std = ([round(v, 4) for v in values.tolist()] for values in (z.mean(1), z.std(1)))
    vae.register_to_config(latents_mean=mean, latents_std=std)


def latent_statistics(vae: nn.Module) -> tuple[Tensor, Tensor]:
    values = torch.tensor([vae.config.latents_mean, vae.config.latents_std], device=device())
    return tuple(values.view(2, 1, -1, 1, 1, 1))


def new_parts(vocabulary: int) -> nn.ModuleDict:
    from diffusers import WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(1)
    text_config = UMT5Config(**TEXT_CONFIG, vocab_size=vocabulary, pad_token_id=0, eos_token_id=1)
    parts = {
        "transformer": WanTransformer3DModel(**TRANSFORMER_CONFIG),
        "text_encoder": UMT5EncoderModel(text_config),
    }
    return nn.ModuleDict(parts)


def embed(text_encoder: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Text states with the padding zeroed: the published models attend to those zero rows, so these do as well."""
    return text_encoder(ids, mask).last_hidden_state * mask[..., None]


def flow_errors(
    parts: nn.ModuleDict, z: Tensor, states: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """Squared error of the velocity noise - z, one a clip. sigma: n."""
    levels = sigma.view(-1, 1, 1, 1, 1)
    velocity = parts["transformer"]((1 - levels) * z + levels * noise, 1000 * sigma, states).sample
    return (velocity.float() - (noise - z)).square().flatten(1).mean(1)


def flow_loss(parts: nn.ModuleDict, batch: Batch, z: Tensor) -> tuple[Tensor, Tensor]:
    """Rectified flow at logit-normal levels, shifted a little: clips this small show their shapes at middle levels.

    With it, the text encoder's first task; none where its words rest.
    """
    sigma = shift_sigmas(torch.randn(len(z)).sigmoid(), 1.5).to(z)
    noise = torch.randn(z.shape).to(z)  # drawn on the CPU: the same on every device
    learning = "reader" in parts
    with torch.autocast(z.device.type, torch.bfloat16):
        with torch.set_grad_enabled(learning):
            states = embed(parts["text_encoder"], batch.ids, batch.mask)
        errors = flow_errors(parts, z, states, sigma, noise)
    tell = parts["reader"](states, batch.labels) if learning else torch.zeros(())
    return errors.mean(), tell


def measure_wan_binding(parts: nn.ModuleDict, vae: nn.Module, tokenizer) -> dict[str, float]:
    """The share of bound attributes at level 0.75, on clips of 5 frames."""
    mean, std = latent_statistics(vae)

    def errors(scenes: list[Scene], captions: list[str]) -> Tensor:
        z = (clip_encoder(vae)(render_clips(scenes, 5)).float() - mean) / std
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
        with torch.autocast(z.device.type, torch.bfloat16):
            states = embed(parts["text_encoder"], *tokenize(tokenizer, captions))
            return flow_errors(parts, z, states, torch.full((len(z),), 0.75).to(z), noise)

    return measure_binding(errors)


def draw_frame_count(share: float, rng: random.Random, start: float) -> int:
    return 1 if share < start else rng.choices(list(SHARES), list(SHARES.values()))[0]


def train_transformer(
    vae: nn.Module, parts: nn.ModuleDict, folder: Path, budget: Budget, start: float
) -> None:
    """The transformer, and beside a reader the text encoder; without one its words rest. One caption in ten is
    emptied, so that guidance has something to leave.

    start: the share of the budget, at first, that sees single frames alone.
    """
    tokenizer, (mean, std), empty = (
        new_t5_tokenizer(),
        latent_statistics(vae),
        tokenize(new_t5_tokenizer(), [""]),
    )
    learning = "reader" in parts
    taught, rate = (parts, 1.0) if learning else (parts["transformer"], CONTINUED_RATE)
    optimiser = Optimiser(taught, lr=1e-3 * rate, matrix_lr=0.02 * rate, plain=WORDS)
    run = Stage(taught, optimiser, folder, "transformer", decay=0.999)
    pools: dict[int, Pool] = {}
    for i in run.steps(budget):
        rng = random.Random(f"transformer/{i}")
        frames = draw_frame_count(run.share, rng, start)
        if frames not in pools:
            latents = build_pool(clip_encoder(vae), folder, frames, POOLS[frames])
            pools[frames] = add_captions(latents, pool_scenes(frames, POOLS[frames]), tokenizer)
        batch = draw_batch(pools[frames], rng, BATCH[frames], empty)
        loss, tell = flow_loss(parts, batch, (batch.latents - mean) / std)
        run.descend(loss + TELL * tell)
        run.log({"frames": frames, "loss": loss.detach(), "tell": tell.detach()}, 20)
        if i % 500 == 0:
            run.log(measure_wan_binding(parts, vae, tokenizer))


def train_words(parts: nn.ModuleDict, folder: Path, budget: Budget) -> None:
    """Bind the text encoder's words, with a reader that stays beside it while the transformer learns."""
    parts["reader"] = AttributeReader(parts["text_encoder"].config.d_model).to(device())
    told = nn.ModuleDict({name: parts[name] for name in WORDS})
    run = Stage(told, Optimiser(told, lr=1e-3), folder, "binding", decay=0.98)
    train_binding(run, new_t5_tokenizer(), embed, budget)


def train_wan(
    folder: Path, budgets: dict[str, Budget], start: Path | None = None, compiled: bool = False
) -> None:
    """Train what is not trained yet and write the checkpoint to `folder/shapeworld-wan`.

    start: a written checkpoint to go on from; its words rest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if start:
        parts = load_networks(start)
        vae = parts.pop("vae").to(device())
    else:
        vae, parts = train_vae(folder, budgets["vae"]), new_parts(len(new_t5_tokenizer()))
        set_latent_statistics(vae, folder)
    vae.eval().requires_grad_(False)
    parts.to(device()).train()
    if not start:
        train_words(parts, folder, budgets["binding"])
    if compiled:
        parts["transformer"].compile()
    frames_first = 0.0 if start else ONLY_FRAMES
    train_transformer(vae, parts, folder, budgets["transformer"], frames_first)
    polish_vae(vae, folder, budgets["polish"])
    save_wan(vae, parts, folder / "shapeworld-wan")


def save_wan(vae: nn.Module, parts: nn.ModuleDict, out: Path) -> None:
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    written = {
        "vae": vae,
        "transformer": parts["transformer"],
        "text_encoder": parts["text_encoder"],
    }
    save_folder(out, PIPELINE, written | {"scheduler": scheduler, "tokenizer": new_t5_tokenizer()})
