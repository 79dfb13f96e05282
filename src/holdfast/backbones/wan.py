"""The Wan family: a rectified-flow video transformer with a causal VAE and a UMT5 text encoder, over diffusers parts.

Text, posterior, timestep scale and noise levels follow the authors' own code, where diffusers' pipeline differs.
"""

import html
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..diffusion import shifted
from ..registry import Missing
from ..words import tokens as word_tokens
from ._wan_attention import door_of
from .base import Backbone, Condition, Grid, Model

# What the embedded model prefers was chosen on scenes that are neither trained on nor reported (docs/shapeworld.md).
_SMALL = {"steps": 25, "strength": 0.8, "source_guidance": 1.0, "target_guidance": 3.0, "shift": 1.0}
MODELS = {
    "wan2.1-1.3b": Model("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 29, 16, 832 * 480, 81, {"shift": 5.0}),
    "wan2.1-14b": Model("Wan-AI/Wan2.1-T2V-14B-Diffusers", 80, 16, 832 * 480, 81, {"shift": 5.0}),
    "shapeworld-wan": Model("shapeworld-wan", 0, 8, 64 * 64, 25, _SMALL),
}
TEXT_LENGTH = 512  # tokens, padding included: the model attends to the padding
CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"


class Wan(Backbone):
    """One of the Wan family, built from its parts. A part that is not needed may be None."""

    def __init__(self, transformer=None, vae=None, text_encoder=None, tokenizer=None, shift=3.0, model=None, name="wan"):
        model = model or MODELS["wan2.1-1.3b"]
        self.name, self.shift, self.prefers = name, shift, model.prefers
        self.transformer, self.vae, self.text_encoder, self.tokenizer = transformer, vae, text_encoder, tokenizer
        for part in (transformer, vae, text_encoder):
            if part is not None:
                part.eval().requires_grad_(False)
        self.device = next((p.device for p in (transformer, vae) if p is not None), torch.device("cpu"))
        stride = (vae.config.scale_factor_temporal, *(vae.config.scale_factor_spatial,) * 2) if vae else (4, 8, 8)
        patch = tuple(transformer.config.patch_size) if transformer else (1, 2, 2)
        reach = transformer.config.rope_max_seq_len * patch[0] if transformer else 1024  # latent frames
        self.grid = Grid(stride, patch, model.rate, model.area, model.frames, (reach - 1) * stride[0] + 1)
        self.dtype = transformer.dtype if transformer else torch.float32
        self._texts: dict[str, Tensor] = {}  # encoded once, kept on the CPU
        self.door = door_of(transformer) if transformer else None
        self.carries = frozenset({"text", "text_attention", "joint_attention"} if transformer else {"text"})

    def condition(self, text: str = "", negative: str = "", words: Sequence[int] = ()) -> Condition:
        new = [t for t in dict.fromkeys((text, negative)) if t not in self._texts]
        if new:
            self._texts |= zip(new, self._embed(new).cpu().split(1), strict=True)
        positive, negative = (self._texts[t].to(self.device) for t in (text, negative))
        length = min(len(self.tokenizer(clean(text)).input_ids), positive.shape[1])
        chosen = tuple(t for t in word_tokens(self.tokenizer, clean(text), words) if t < length)
        return Condition(positive, negative, length, chosen)

    def _embed(self, texts: list[str]) -> Tensor:
        """Text states, zero at the padding, which the model attends to all the same: n L d."""
        length = min(TEXT_LENGTH, self.tokenizer.model_max_length)
        texts = [clean(t) for t in texts]
        for text in texts:
            if (over := len(self.tokenizer.tokenize(text)) + 1 - length) > 0:
                warnings.warn(f"{self.name} takes {length} tokens; the last {over} of {text[:40]!r}... are not seen", stacklevel=3)
        tokens = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        self.text_encoder.to(self.device)
        try:
            with torch.no_grad():
                states = self.text_encoder(tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device))
        finally:
            self.text_encoder.to("cpu")  # the denoiser needs the room
        return states.last_hidden_state * tokens.attention_mask[..., None].to(states.last_hidden_state)

    def encode(self, frames: Iterable[Tensor]) -> Tensor:
        """As AutoencoderKLWan.encode(...).latent_dist.mode(), normalised, a group of frames at a time, in float32."""
        source, cache, parts, count = iter(frames), self._cache(self.vae.encoder), [], 0
        while group := list(islice(source, 1 if not parts else self.grid.stride[0])):
            x = torch.stack(group).to(self.device, torch.float32)
            count += len(group)
            self.grid.check(count, *x.shape[-2:])
            with torch.no_grad():
                x = self._patched(x.transpose(0, 1)[None] * 2 - 1)
                parts.append(self.vae.encoder(x, feat_cache=cache, feat_idx=[0]))
        with torch.no_grad():
            mode = self.vae.quant_conv(torch.cat(parts, dim=2)).chunk(2, dim=1)[0]
        mean, std = self._statistics()
        return (mode - mean) / std

    def decode(self, z: Tensor) -> Iterator[Tensor]:
        mean, std = self._statistics()
        with torch.no_grad():
            x = self.vae.post_quant_conv(z.to(self.device, torch.float32) * std + mean)
        cache = self._cache(self.vae.decoder)
        for i in range(x.shape[2]):
            with torch.no_grad():
                y = self.vae.decoder(x[:, :, i : i + 1], feat_cache=cache, feat_idx=[0], first_chunk=i == 0)
            yield (self._unpatched(y)[0].transpose(0, 1) / 2 + 0.5).clamp(0, 1)

    def _cache(self, part: torch.nn.Module) -> list:
        """Room for what each causal convolution keeps from one chunk for the next."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

        return [None] * sum(isinstance(m, WanCausalConv3d) for m in part.modules())

    def _patched(self, x: Tensor) -> Tensor:
        from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

        return patchify(x, self.vae.config.patch_size or 1)

    def _unpatched(self, x: Tensor) -> Tensor:
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        return unpatchify(x, self.vae.config.patch_size or 1)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        values = torch.tensor([config.latents_mean, config.latents_std], device=self.device).view(2, 1, -1, 1, 1, 1)
        return values[0], values[1]

    def levels(self, steps: int, shift: float | None = None) -> list[float]:
        """The authors' grid: evenly from 0.999 down to 0 before the shift."""
        even = torch.from_numpy(np.linspace(0.999, 0.0, steps + 1))
        return shifted(even, self.shift if shift is None else shift).tolist()

    def velocity(self, z: Tensor, sigma: float, condition: Condition, *, branch: str) -> Tensor:
        text = condition.positive if branch.endswith("+") else condition.negative
        timestep = torch.tensor([int(1000 * sigma)], device=z.device)  # whole thousandths, cut off, as the authors pass them
        self.door.branch = branch
        self.door.grid = tuple(n // p for n, p in zip(z.shape[2:], self.grid.patch, strict=True))
        with torch.no_grad():
            return self.transformer(z.to(self.dtype), timestep, text.to(z.device, self.dtype), return_dict=False)[0].float()


def clean(text: str) -> str:
    """Prompt cleaning as the authors do it: repaired encoding, HTML entities resolved twice, single spaces."""
    import ftfy

    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(text)))).strip()


def find(name: str, weights: str | None) -> Path:
    """The folder of a backbone's weights. Raises ValueError for a wrong folder, Missing for a hub id that is not here."""
    model = MODELS[name]
    place = Path(weights) if weights else CHECKPOINTS / model.weights
    if place.is_dir():
        if not (place / "model_index.json").is_file():
            raise ValueError(f"{place} is not a diffusers folder: it has no model_index.json")
        kind = json.loads((place / "model_index.json").read_text()).get("_class_name")
        if kind != "WanPipeline":
            raise ValueError(f"{place} holds a {kind}; {name} takes a WanPipeline")
        return place
    hub_id = weights or model.weights
    if not model.gigabytes and not weights:
        raise Missing(f"the embedded checkpoint {name} is not in this installation; install the package again")
    return _cached(hub_id, "" if weights else f" (about {model.gigabytes:.0f} GB)")


def _cached(hub_id: str, size: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    command = f"hf download {hub_id}"
    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True))
        parts = ("transformer", "vae", "text_encoder")
        absent = [p for p in parts if not list((folder / p).glob("*.safetensors"))]
        if absent:
            raise Missing(f"the download of {hub_id} is not complete (no {', '.join(absent)}); go on with: {command}")
        return folder
    except HFValidationError as error:
        raise ValueError(f"{hub_id!r} is neither a folder nor a hub id") from error
    except LocalEntryNotFoundError as error:
        raise Missing(f"the weights {hub_id}{size} are not on this machine; get them with: {command}") from error


def load(name: str, weights: str | None = None, device: str = "auto", dtype: str = "auto") -> Wan:
    """Load the parts of one of MODELS. Only safetensors are read. The VAE stays in float32."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import AutoTokenizer, UMT5EncoderModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # a second of bars for weights that load in a tenth of it
    folder = find(name, weights)
    where = pick_device(device)
    kind = pick_dtype(dtype, where)
    options = {"use_safetensors": True, "local_files_only": True}
    transformer = WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=kind, **options)
    vae = AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32, **options)
    text_encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=kind, **options)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    shift = scheduler.get("flow_shift", scheduler.get("shift", 3.0))
    return Wan(transformer.to(where), vae.to(where), text_encoder, tokenizer, shift, MODELS[name], name)


def pick_device(device: str) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu")


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]
