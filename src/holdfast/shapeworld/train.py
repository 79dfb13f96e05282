"""Train the embedded checkpoint `shapeworld-wan` from a seed: `python -m holdfast.shapeworld.train wan`.

Stages, each resumable (run the same command again) and logged to `log.jsonl` in the work folder: the VAE on rendered
clips, a pool of encoded clips, text encoder and transformer together on rectified flow, the VAE's decoder once more.
Every step draws its data and its noise from its own index, so a resumed run sees what an undisturbed one would have seen.
"""

import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..diffusion import shifted
from .render import render
from .scenes import HELD_OUT, Scene, sample
from .truth import psnr

SAVE_EVERY = 120.0  # seconds
CHUNK = 8  # scenes rendered at once: more of them fall out of the processor's cache


@dataclass(frozen=True)
class Phase:
    """A stretch of training at one clip length."""

    until: float  # share of all steps at which it ends
    frames: int
    batch: int


VAE_STEPS = 4000
DECODER_STEPS = 600
VAE_PHASES = (Phase(0.2, 1, 16), Phase(0.7, 5, 8), Phase(1.0, 13, 4))
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


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training_scenes(count: int, key: str) -> list[Scene]:
    """Scenes that no evaluation draws: their seeds start where the held-out ones end."""
    rng = random.Random(key)
    return [sample(rng.randrange(HELD_OUT, 2**40), "train") for _ in range(count)]


def clips(scenes: list[Scene], frames: int) -> Tensor:
    """Rendered scenes as the VAE takes them: n 3 f H W in [-1, 1]."""
    chunks = [render(scenes[i : i + CHUNK], frames) for i in range(0, len(scenes), CHUNK)]
    frames_last = torch.cat(chunks).transpose(1, 2) * 2 - 1
    return frames_last.to(device()).contiguous(memory_format=torch.channels_last_3d)


class Optimiser:
    """Muon for the weight matrices (a convolution's taps flattened), AdamW for the rest, one learning-rate schedule."""

    def __init__(self, model: nn.Module, lr: float, matrix_lr: float):
        self.model = model
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        wide = [p for p in model.parameters() if p.dim() >= 2 and p.shape[0] > 1 and p[0].numel() > 4]
        self.weights = [p for p in wide if id(p) not in tables]
        chosen = {id(p) for p in self.weights}
        self.views = [nn.Parameter(p.data.view(p.shape[0], -1)) for p in self.weights]  # share the weights' memory
        rest = [p for p in model.parameters() if id(p) not in chosen]
        self.parts = [
            (torch.optim.Muon(self.views, lr=matrix_lr, momentum=0.95, weight_decay=0.0), matrix_lr),
            (torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0), lr),
        ]

    def step(self, loss: Tensor, share: float, index: int) -> None:
        """Descend one loss at a share of the whole run: a short warm-up, then half a cosine down to zero."""
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for weight, view in zip(self.weights, self.views, strict=True):
            view.grad = None if weight.grad is None else weight.grad.reshape(view.shape)
        for optimiser, lr in self.parts:
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1.0, (index + 1) / 50) * math.cos(share * math.pi / 2)
            optimiser.step()

    def state(self) -> list[dict]:
        return [optimiser.state_dict() for optimiser, _ in self.parts]

    def load(self, state: list[dict]) -> None:
        for (optimiser, _), saved in zip(self.parts, state, strict=True):
            optimiser.load_state_dict(saved)


class Run:
    """One resumable stage: a model, its running average, its optimiser, a checkpoint file and the log."""

    def __init__(self, model: nn.Module, optimiser: Optimiser, folder: Path, name: str, decay: float = 0.998):
        self.model, self.optimiser, self.folder, self.name, self.decay = model, optimiser, folder, name, decay
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.index = 0
        self.file = folder / f"{name}.pt"
        if self.file.exists():
            saved = torch.load(self.file, weights_only=True, map_location=device())
            model.load_state_dict(saved["model"])
            optimiser.load(saved["optimiser"])
            self.average, self.index = saved["average"], saved["index"]

    def steps(self, total: int) -> Iterator[int]:
        """Yield the index of each step still to do; between two of them average, save now and then."""
        saved = time.monotonic()
        while self.index < total:
            torch.manual_seed(self.index)
            yield self.index
            self.index += 1
            decay = min(self.decay, self.index / (self.index + 10))
            for k, v in self.model.state_dict().items():
                self.average[k].lerp_(v, 1 - decay) if v.is_floating_point() else self.average[k].copy_(v)
            if time.monotonic() - saved > SAVE_EVERY:
                self.save()
                saved = time.monotonic()
        self.save()

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "average": self.average, "index": self.index}
        part = self.file.with_suffix(".part")
        torch.save({**state, "optimiser": self.optimiser.state()}, part)
        part.rename(self.file)

    def log(self, figures: dict[str, float]) -> None:
        line = {"stage": self.name, "step": self.index, "time": round(time.time(), 1)}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line | {k: round(v, 4) for k, v in figures.items()}) + "\n")


def new_vae() -> nn.Module:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    z = VAE_CONFIG["z_dim"]
    vae = AutoencoderKLWan(**VAE_CONFIG, latents_mean=[0.0] * z, latents_std=[1.0] * z)
    vae.quant_conv.bias.data[z:] = -5.0  # begin with a narrow posterior, or its noise drowns the picture
    return vae


def train_vae(folder: Path) -> nn.Module:
    """Reconstruction (absolute and squared error) through a sampled posterior with a light pull to the unit Gaussian."""
    vae = new_vae().to(device())
    run = Run(vae, Optimiser(vae, lr=3e-3, matrix_lr=0.02), folder, "vae")
    for i in run.steps(VAE_STEPS):
        phase = next(p for p in VAE_PHASES if i < p.until * VAE_STEPS)
        x = clips(training_scenes(phase.batch, f"vae/{i}"), phase.frames)
        with torch.autocast(x.device.type, torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample
        error = y.float() - x
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        loss = error.abs().mean() + 2 * error.square().mean() + 3e-4 * kl
        run.optimiser.step(loss, i / VAE_STEPS, i)
        if i % 50 == 0:
            run.log({"frames": phase.frames, "psnr": psnr(y.float() / 2, x / 2), "kl": kl.item(), "std": posterior.std.mean().item()})
    vae.load_state_dict(run.average)
    return vae.eval()


def train_decoder(vae: nn.Module, folder: Path) -> None:
    """Polish the decoder on the latents as they are: the encoder, and so what the transformer learned, stays."""
    half = nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})
    run = Run(half, Optimiser(half, lr=1.5e-3, matrix_lr=0.01), folder, "decoder")
    for i in run.steps(DECODER_STEPS):
        phase = VAE_PHASES[-1]
        x = clips(training_scenes(phase.batch, f"decoder/{i}"), phase.frames)
        with torch.autocast(x.device.type, torch.bfloat16):
            with torch.no_grad():
                z = vae.encode(x).latent_dist.sample()
            error = vae.decode(z).sample.float() - x
        loss = error.abs().mean() + 4 * error.square().mean()
        run.optimiser.step(loss, i / DECODER_STEPS, i)
        if i % 50 == 0:
            run.log({"frames": phase.frames, "psnr": psnr(error / 2, torch.zeros_like(error))})
    half.load_state_dict(run.average)


def build_pool(vae: nn.Module, folder: Path, frames: int, count: int) -> dict:
    """Encoded training clips of one length, with their captions; kept on disk in half precision."""
    file = folder / f"pool-{frames}.pt"
    if file.exists():
        return torch.load(file, weights_only=True)
    latents, captions = [], []
    batch = max(CHUNK, 64 // frames)
    for i in range(0, count, batch):
        scenes = training_scenes(batch, f"pool/{frames}/{i}")
        with torch.no_grad(), torch.autocast(device().type, torch.bfloat16):
            latents.append(vae.encode(clips(scenes, frames)).latent_dist.mode().half().cpu())
        captions += [s.caption() for s in scenes]
    pool = {"latents": torch.cat(latents), "captions": captions}
    torch.save(pool, file.with_suffix(".part"))
    file.with_suffix(".part").rename(file)
    return pool


def set_latent_statistics(vae: nn.Module, folder: Path) -> None:
    """Write the channels' mean and standard deviation into the VAE's configuration, as published checkpoints have them."""
    z = torch.cat([build_pool(vae, folder, f, POOLS[f])["latents"][:2000].float().transpose(0, 1).flatten(1) for f in (1, 13)], 1)
    mean, std = z.mean(1), z.std(1)
    vae.register_to_config(latents_mean=[round(m, 4) for m in mean.tolist()], latents_std=[round(s, 4) for s in std.tolist()])


TEXT_LENGTH = 32
STEPS = 8100
POOLS = {1: 16384, 5: 3072, 9: 1536, 13: 9216, 25: 1152}  # clip length: encoded clips
SHARES = {1: 0.15, 5: 0.1, 9: 0.05, 13: 0.6, 25: 0.1}  # how often a step takes that length
BATCH = {1: 64, 5: 32, 9: 21, 13: 16, 25: 9}  # about 4096 tokens a step whatever the length
ONLY_FRAMES = 0.2  # share of the steps, at first, that see single frames alone: shapes and words are learned there
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


def new_tokenizer():
    """A T5 tokenizer of the world's own words, each one piece, and letters for everything else."""
    from transformers import T5TokenizerFast

    words = sorted({w for seed in range(2000) for w in sample(seed, "train").caption().split()} | {"nothing"})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)] + [("\u2581" + w, -1.0) for w in words] + [("\u2581", -8.0)]
    letters = [(c, -10.0) for c in "abcdefghijklmnopqrstuvwxyz0123456789.,'-"]
    return T5TokenizerFast(vocab=pieces + letters, extra_ids=0, model_max_length=TEXT_LENGTH)


def new_transformer(vocabulary: int) -> nn.ModuleDict:
    from diffusers import WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(1)
    text_config = UMT5Config(**TEXT_CONFIG, vocab_size=vocabulary, pad_token_id=0, eos_token_id=1)
    parts = {"transformer": WanTransformer3DModel(**TRANSFORMER_CONFIG), "text_encoder": UMT5EncoderModel(text_config)}
    return nn.ModuleDict(parts)


def embed(text_encoder: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Text states with the padding zeroed: the published models attend to those zero rows, so these do as well."""
    return text_encoder(ids, mask).last_hidden_state * mask[..., None]


def flow_loss(parts: nn.ModuleDict, z: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Rectified-flow loss at logit-normal levels, shifted a little: clips this small show their shapes at middle levels."""
    sigma = shifted(torch.randn(len(z)).sigmoid(), 1.5).view(-1, 1, 1, 1, 1).to(z)
    noise = torch.randn(z.shape).to(z)  # drawn on the CPU: the same on every device
    # On a CPU the plain kernel: at a few hundred tokens its backward pass is faster than the fused one.
    kernels = [SDPBackend.MATH] if z.device.type == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with torch.autocast(z.device.type, torch.bfloat16), sdpa_kernel(kernels):
        text = embed(parts["text_encoder"], ids, mask)
        velocity = parts["transformer"]((1 - sigma) * z + sigma * noise, 1000 * sigma.flatten(), text).sample
    return (velocity.float() - (noise - z)).square().mean()


def train_transformer(vae: nn.Module, folder: Path) -> nn.ModuleDict:
    """Text encoder and transformer together; one caption in ten is emptied, so that guidance has something to leave."""
    tokenizer = new_tokenizer()
    parts = new_transformer(len(tokenizer)).to(device())
    run = Run(parts, Optimiser(parts, lr=2e-3, matrix_lr=0.02), folder, "transformer", decay=0.999)
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    pools: dict[int, dict] = {}
    for i in run.steps(STEPS):
        rng = random.Random(f"transformer/{i}")
        early = i < ONLY_FRAMES * STEPS
        frames = 1 if early else rng.choices(list(SHARES), list(SHARES.values()))[0]
        if frames not in pools:
            pools[frames] = build_pool(vae, folder, frames, POOLS[frames])
        pool = pools[frames]
        chosen = [rng.randrange(len(pool["captions"])) for _ in range(BATCH[frames])]
        z = ((pool["latents"][chosen].float() - mean) / std).to(device())
        texts = ["" if rng.random() < 0.1 else pool["captions"][k] for k in chosen]
        tokens = tokenizer(texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
        loss = flow_loss(parts, z, tokens.input_ids.to(device()), tokens.attention_mask.to(device()))
        run.optimiser.step(loss, i / STEPS, i)
        if i % 20 == 0:
            run.log({"frames": frames, "loss": loss.item()})
    parts.load_state_dict(run.average)
    return parts.eval()


def train_wan(folder: Path) -> None:
    """Train what is not trained yet and write the checkpoint, a diffusers folder in half precision, to `folder/wan`."""
    folder.mkdir(parents=True, exist_ok=True)
    vae = train_vae(folder)
    set_latent_statistics(vae, folder)
    parts = train_transformer(vae, folder)
    train_decoder(vae, folder)
    save_wan(vae, parts, folder / "wan")


def save_wan(vae: nn.Module, parts: nn.ModuleDict, out: Path) -> None:
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    tokenizer = new_tokenizer()
    for name, part in {"vae": vae, **dict(parts.items())}.items():
        part.cpu().half().save_pretrained(out / name)
    scheduler.save_pretrained(out / "scheduler")
    tokenizer.save_pretrained(out / "tokenizer")
    index = {
        "_class_name": "WanPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=["wan"])
    parser.add_argument("-o", "--folder", type=Path, default=Path("runs/shapeworld-wan"), help="work folder, kept for resuming")
    parser.add_argument("--threads", type=int, default=None, help="processor threads (default: all)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    train_wan(options.folder)


if __name__ == "__main__":
    main()
