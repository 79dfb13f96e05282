"""The adapter of the Stable Diffusion lineage over diffusers parts: noise prediction over a VAE of single frames,
CLIP's text.

A 2D U-Net takes the frames of a clip as a batch of images, a 3D U-Net takes the clip. With `x = a clean + s noise` and
`a^2 + s^2 = 1` the velocity field is that of `z = x / (a + s)` at level `sigma = s / (a + s)`: one Euler step of it is
the DDIM step.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...base.notices import note
from ...base.prompt_diff import tokens as word_tokens
from ...base.prompts import clean_prompt
from .. import feature_hooks, weights
from .. import parts as _parts
from ..attention.hooks import Call, Door
from ..base import Backbone, Condition, Prompt, device_of, placed
from ..recent import recall
from ..schedule import Schedule
from ..spec import LEVELS_OF_NOISE, Model, unet_grid
from .hooks import door_of, residual_blocks

CHUNK = 8  # frames that the VAE holds at once
TOGETHER = 16  # frames that a 2D network sees in one call


def encode_frames(
    vae, frames: Iterable[Tensor], device: torch.device, eps: Tensor | None = None
) -> Tensor:
    """Frames to a latent 1 c f h w, a few at a time: the posterior's mode, or with eps (f c h
    w) a sample of it; scaled.
    """
    source, parts, count = iter(frames), [], 0
    while group := list(islice(source, CHUNK)):
        x = torch.stack(group).to(device, torch.float32) * 2 - 1
        posterior = vae.encode(x).latent_dist
        part = posterior.mode()
        if eps is not None:
            part = part + posterior.std * eps[count : count + len(group)].to(part)
        parts.append(part)
        count += len(group)
    latents = torch.cat(parts) * vae.config.scaling_factor
    return latents.transpose(0, 1)[None]


def decode_frames(vae, z: Tensor, device: torch.device) -> Iterator[Tensor]:
    """A latent 1 c f h w to frames f 3 H W in [0, 1], a few at a time."""
    for part in z[0].transpose(0, 1).split(CHUNK):
        x = part.to(device, torch.float32) / vae.config.scaling_factor
        yield (vae.decode(x).sample / 2 + 0.5).clamp(0, 1)


class Texts:
    """CLIP's text states as the pipelines of this lineage take them: the last ones after the norm, no mask at the
    padding.
    """

    def __init__(self, tokenizer, name: str):
        self.tokenizer, self.name = tokenizer, name
        self.known: dict[str, Tensor] = {}  # states of cleaned prompts, kept on the CPU

    def encode(self, encoder, texts: list[str], device: torch.device) -> tuple[Tensor, ...]:
        """Return the states of cleaned prompts, each 1 L d on the CPU."""
        length = self.tokenizer.model_max_length
        for text in texts:
            over = len(self.tokenizer(text).input_ids) - length
            if over > 0:
                shown = text[:40]
                note(
                    f"{self.name} takes {length} tokens; the last {over} of {shown!r}... are not seen"
                )
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            states = encoder(tokens.input_ids.to(device)).last_hidden_state
        return states.cpu().split(1)

    def length(self, text: str) -> int:
        """Tokens of a text with its two marks, as far as they are seen."""
        return min(len(self.tokenizer(text).input_ids), self.tokenizer.model_max_length)


class LatentDiffusion(Backbone):
    """A model of the lineage, built from its parts. A part that is not needed may be None.

    schedule: its scheduler's configuration; model: its card; device: None for where the parts are.
    """

    def __init__(
        self,
        unet=None,
        vae=None,
        text_encoder=None,
        tokenizer=None,
        schedule: Mapping[str, Any] | None = None,
        model=None,
        name="sd",
        device=None,
    ):
        model = model or Model("", 0, rate=8, area=512 * 512, frames=16)
        self.name, self.prefers, self.guide = name, model.prefers, model.guide
        parts = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
        self.parts = placed(parts, device)
        self.device = device or device_of(self.parts)
        self.dtype = unet.dtype if unet else torch.float32
        configs = [part.config if part else {} for part in (unet, vae)]
        self.grid = unet_grid(model, *configs, LEVELS_OF_NOISE)
        self.schedule = Schedule.of(schedule or {})
        self.texts = Texts(tokenizer, name)
        self.network = unet
        self.door = door_of(unet) if unet else None
        self.features = feature_hooks.door_of(residual_blocks(unet)) if unet else None
        self.carries = carried(self.door)
        # a network without layers over time takes single frames
        self.images = "temporal_attention" not in self.carries

    def condition(self, prompt: Prompt) -> Condition:
        cleaned, against = clean_prompt(prompt.text), clean_prompt(prompt.negative)
        halves = recall(self.texts.known, (cleaned, against), self._embed)
        length = self.texts.length(cleaned)
        words = word_tokens(self.texts.tokenizer, cleaned, prompt.words)
        seen = tuple(word for word in words if word < length)
        return Condition(*(half.to(self.device) for half in halves), length, seen)

    def _embed(self, texts: list[str]) -> tuple[Tensor, ...]:
        with self.on("text_encoder"):
            return self.texts.encode(self.part("text_encoder"), texts, self.device)

    def encode(self, frames: Iterable[Tensor], eps: Tensor | None = None) -> Tensor:
        """As AutoencoderKL.encode(...).latent_dist, scaled: its mode, or with eps (f c h w) a sample. In float32."""
        with self.on("vae"):
            z = encode_frames(self.part("vae"), frames, self.device, eps)
        self.grid.check(z.shape[2], *(n * self.grid.stride[1] for n in z.shape[3:]))
        return z

    def decode(self, z: Tensor) -> Iterator[Tensor]:
        with self.on("vae"):
            yield from decode_frames(self.part("vae"), z, self.device)

    def levels(
        self,
        steps: int,
        shift: float | None = None,
        grid: str = "own",
        shape: Sequence[int] | None = None,
    ) -> list[float]:
        return self.schedule.levels(steps, shift, grid)

    def whole(self, sigma: float) -> float:
        return self.schedule.whole(sigma)

    def velocity(
        self,
        z: Tensor,
        sigma: float,
        condition: Condition,
        *,
        branch: str,
        frames: Sequence[int] | None = None,
    ) -> Tensor:
        text = condition.half(branch).to(z.device, self.dtype)
        frames = tuple(range(z.shape[2])) if frames is None else tuple(frames)
        if not self.images:
            return self._called(z, sigma, text, branch, frames)
        parts = []
        for first in range(0, len(frames), TOGETHER):
            some = slice(first, first + TOGETHER)
            parts.append(self._called(z[:, :, some], sigma, text, branch, frames[some]))
        return torch.cat(parts, 2)

    def _called(
        self, z: Tensor, sigma: float, text: Tensor, branch: str, frames: tuple[int, ...]
    ) -> Tensor:
        """The velocity by one call of the network."""
        call = Call(branch, frames, z.shape[3:], len(z))
        with self.door.calling(call), self.features.calling(call):
            return self.schedule.velocity(lambda x, t: self._predicted(x, t, text), z, sigma)

    def _predicted(self, x: Tensor, timestep: float, text: Tensor) -> Tensor:
        """What the network says of x, b c f h w."""
        t = torch.tensor([timestep], device=x.device, dtype=torch.float32)
        x = x.to(self.dtype)
        # Contiguous: a convolution's last bit depends on how its input lies, which a resumed run does not remember.
        if not self.images:
            each = text.expand(len(x), -1, -1)
            return self.part("unet")(x.contiguous(), t, each).sample.float()
        frames = x.transpose(1, 2).flatten(0, 1).contiguous()
        out = self.part("unet")(frames, t, text.expand(len(frames), -1, -1)).sample.float()
        return out.unflatten(0, (len(x), -1)).transpose(1, 2)


SPATIAL = frozenset({"text", "text_attention", "spatial_attention", "features"})


def carried(door: Door | None) -> frozenset[str]:
    """What a U-Net offers methods, by its layers."""
    if door is None:
        return frozenset({"text"})
    temporal = any(site.axis == "temporal" for site in door.sites)
    return SPATIAL | {"temporal_attention"} if temporal else SPATIAL


def load(name: str, model: Model, folder: Path, device: str, dtype: str) -> LatentDiffusion:
    """Load the parts that lie in a folder."""
    import diffusers
    from transformers import CLIPTextModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # a second of bars for weights that load in a tenth of it
    where = weights.pick_device(device)
    kind = weights.pick_dtype(dtype, where)
    clips = "temporal_attention" in model.carries
    network = diffusers.UNet3DConditionModel if clips else diffusers.UNet2DConditionModel
    vae = diffusers.AutoencoderKL
    classes = {"unet": network, "vae": vae, "text_encoder": CLIPTextModel}
    _parts.check(folder, classes)
    unet, latents, texts = (weights.config(folder, part) for part in classes)
    _parts.agree(folder, "latent channels", unet.get("in_channels"), latents.get("latent_channels"))
    width = texts.get("hidden_size")
    _parts.agree(folder, "widths of a text", unet.get("cross_attention_dim"), width)
    encoder = _parts.load(CLIPTextModel, folder / "text_encoder", kind)
    known = encoder.config.vocab_size, encoder.config.max_position_embeddings
    return LatentDiffusion(
        _parts.load(network, folder / "unet", kind),
        _parts.load(vae, folder / "vae", torch.float32),
        encoder,
        _parts.tokenizer(folder, *known),
        schedule=weights.config(folder, "scheduler"),
        model=model,
        name=name,
        device=where,
    )
