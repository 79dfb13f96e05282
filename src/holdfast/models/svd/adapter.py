"""The adapter of Stable Video Diffusion over diffusers parts: EDM's v-prediction, steered by an image.

With `x = clean + s noise` the velocity field is that of `z = x / (1 + s)` at level `sigma = s / (1 + s)`: one Euler
step of it is the Euler step of the published sampler.
"""

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...base.errors import UserError
from ...sampling import maths
from .. import feature_hooks, weights
from .. import parts as _parts
from ..attention.hooks import Call
from ..base import Backbone, Condition, Prompt, device_of, placed
from ..scheduler_settings import check_edm
from ..spec import Model, unet_grid
from ..unet.adapter import encode_frames
from ..unet.hooks import door_of, residual_blocks
from . import spec

CHUNK = 8  # frames that the decoder, which looks at neighbours, is given at once
FAMILY = "svd"  # whose card stands in where none is given
EYE = (224, 224)  # pixels that CLIP's vision takes
MOTION = 127  # the bucket that is told: 0 (still) to 255
AUGMENT = 0.02  # how much noise the image is given before it is encoded
LAST = {"sigma_min": 0.002, "sigma_max": 700.0}


class Seen(NamedTuple):
    """One half of a condition: what the model is given about its first frame."""

    embedding: Tensor  # b 1 d, CLIP's
    latents: Tensor  # b c h w, the VAE's mode, not scaled
    ids: Tensor  # b 3: rate - 1, motion bucket, strength of the noise in the image


class StableVideo(Backbone):
    """One of the family, built from its parts. A part that is not needed may be None.

    schedule: its scheduler's configuration; model: its card; device: None for where the parts are. `ids` holds the
    three numbers that it is told beside an image, and may be set.
    """

    def __init__(
        self,
        unet=None,
        vae=None,
        image_encoder=None,
        image_processor=None,
        schedule: Mapping[str, Any] | None = None,
        model: Model | None = None,
        name="svd",
        device=None,
    ):
        model = model or spec.MODELS[FAMILY]
        self.name, self.prefers, self.guide = name, model.prefers, model.guide
        parts = {"unet": unet, "vae": vae, "image_encoder": image_encoder}
        self.parts = placed(parts, device)
        self.image_processor = image_processor
        self.device = device or device_of(self.parts)
        self.dtype = unet.dtype if unet else torch.float32
        configs = [part.config if part else {} for part in (unet, vae)]
        self.grid = unet_grid(model, *configs, spec.LEVELS)
        known = check_edm(schedule or {})
        self.least, self.most = (known.get(name) or value for name, value in LAST.items())
        self.ids = (model.rate - 1, MOTION, AUGMENT)
        self.network = unet
        self.door = door_of(unet) if unet else None
        self.features = feature_hooks.door_of(residual_blocks(unet)) if unet else None
        self.carries = spec.CARRIES if unet else frozenset({"image"})

    @torch.no_grad()
    def condition(self, prompt: Prompt) -> Condition:
        """From the prompt's image; words say nothing to this model. The negative half has seen nothing."""
        if prompt.image is None:
            raise UserError(f"{self.name} is steered by its first frame, and was given none")
        image = prompt.image.to(self.device, torch.float32)[None] * 2 - 1
        with self.on("image_encoder"):
            embedding = self.part("image_encoder")(self._looked_at(image)).image_embeds[:, None]
        known = prompt.latent
        latents = self._latents(image, prompt.noise) if known is None else self._unscaled(known)
        if prompt.noise != "pixels":
            latents = latents + self._noise(latents)
        ids = torch.tensor([prompt.ids or self.ids], device=self.device)
        seen = Seen(embedding.float(), latents, ids)
        nothing = Seen(torch.zeros_like(seen.embedding), torch.zeros_like(latents), ids)
        return Condition(seen, nothing)

    def _latents(self, image: Tensor, noise: str) -> Tensor:
        """An image 1 3 H W in [-1, 1] encoded: 1 c h w, not scaled. With a little noise, if that goes into pixels."""
        with self.on("vae"):
            if noise == "pixels":
                image = image + self._noise(image)
            found = self.part("vae").encode(image).latent_dist
        if noise != "sample":
            return found.mode()
        return found.mean + found.std * maths.keyed_noise(found.mean[:, :, None], 0, 1)[:, :, 0]

    def _noise(self, image: Tensor) -> Tensor:
        """One draw for every image, so that two that are equal outside an edit stay so."""
        *_, augment = self.ids
        return augment * maths.keyed_noise(image[:, :, None], seed=0, step=0)[:, :, 0]

    def _unscaled(self, latent: Tensor) -> Tensor:
        return latent[:, :, 0].to(self.device) / self.part("vae").config.scaling_factor

    def _looked_at(self, image: Tensor) -> Tensor:
        """An image 1 3 H W in [-1, 1] as CLIP takes it, by the resizing that the model was trained with."""
        small = _published_resize()(image, EYE)
        mean, std = (
            torch.tensor(values, device=image.device).view(1, 3, 1, 1)
            for values in (self.image_processor.image_mean, self.image_processor.image_std)
        )
        return ((small / 2 + 0.5 - mean) / std).to(self.part("image_encoder").dtype)

    def encode(self, frames: Iterable[Tensor], eps: Tensor | None = None) -> Tensor:
        """As the VAE's encode(...).latent_dist, scaled: its mode, or with eps (f c h w) a sample. In float32."""
        with self.on("vae"):
            z = encode_frames(self.part("vae"), frames, self.device, eps)
        self.grid.check(z.shape[2], *(n * self.grid.stride[1] for n in z.shape[3:]))
        return z

    def decode(self, z: Tensor) -> Iterator[Tensor]:
        """The published decoder looks at neighbours in time, within a chunk; one of single frames serves as well."""
        vae = self.part("vae")
        over_time = "num_frames" in inspect.signature(type(vae).forward).parameters
        with self.on("vae"):
            for part in z[0].transpose(0, 1).split(CHUNK):
                x = part.to(self.device, torch.float32) / vae.config.scaling_factor
                told = {"num_frames": len(x)} if over_time else {}
                yield (vae.decode(x, **told).sample / 2 + 0.5).clamp(0, 1)

    def levels(
        self,
        steps: int,
        shift: float | None = None,
        grid: str = "own",
        shape: Sequence[int] | None = None,
    ) -> list[float]:
        """Karras' spacing of s with rho 7, then 0; a shift multiplies s."""
        if grid not in spec.LEVELS:
            known = ", ".join(spec.LEVELS)
            raise UserError(f"this model has no grid of levels called {grid!r}; there are: {known}")
        ends = self.most ** (1 / 7), self.least ** (1 / 7)
        spreads = np.linspace(*ends, steps) ** 7 * (1 if shift is None else shift)
        return [spec.level(s) for s in np.minimum(spreads, self.most).tolist()] + [0.0]

    def whole(self, sigma: float) -> float:
        """The model's time is continuous: every level is told exactly."""
        return sigma

    def velocity(
        self,
        z: Tensor,
        sigma: float,
        condition: Condition,
        *,
        branch: str,
        frames: Sequence[int] | None = None,
    ) -> Tensor:
        s = spec.spread(sigma)
        scale = math.hypot(1, s)
        x = spec.to_model(z, s)
        found = self._predicted(x / scale, s, condition.half(branch), branch, frames)
        noise = s / scale**2 * x + found / scale
        clean = x / scale**2 - s / scale * found
        return noise - clean

    def _predicted(
        self, x: Tensor, s: float, half: Seen, branch: str, frames: Sequence[int] | None
    ) -> Tensor:
        """v = (noise - s clean) / sqrt(1 + s^2) as the network says of x of unit size, b c f h w. Told 0.25 ln s; of a
        clean latent, that of the lowest level.
        """
        frames = tuple(range(x.shape[2])) if frames is None else tuple(frames)
        half = Seen(*(part.to(x.device, self.dtype) for part in half))
        image = half.latents[:, :, None].expand(len(x), -1, len(frames), -1, -1)
        joined = torch.cat((x.to(self.dtype), image), 1).transpose(1, 2).contiguous()
        told = torch.tensor([0.25 * math.log(s or self.least)], device=x.device)
        call = Call(branch, frames, x.shape[3:], len(x))
        embedding, ids = (part.expand(len(x), *part.shape[1:]) for part in (half[0], half[2]))
        with self.door.calling(call), self.features.calling(call):
            out = self.part("unet")(joined, told, embedding, added_time_ids=ids).sample
        return out.float().transpose(1, 2)


def _published_resize():
    """The pipeline's own; on importing it transformers would remark on an image processor that nothing here uses."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion
    finally:
        logging.set_verbosity(level)
    return pipeline_stable_video_diffusion._resize_with_antialiasing


def load(name: str, model: Model, folder: Path, device: str, dtype: str) -> StableVideo:
    """Load the parts that lie in a folder."""
    import diffusers
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection
    from transformers.utils import logging

    logging.disable_progress_bar()  # a second of bars for weights that load in a tenth of it
    where = weights.pick_device(device)
    kind = weights.pick_dtype(dtype, where)
    network = diffusers.UNetSpatioTemporalConditionModel
    vae = getattr(diffusers, _vae_class(folder))
    encoder = CLIPVisionModelWithProjection
    classes = {"unet": network, "vae": vae, "image_encoder": encoder}
    _parts.check(folder, classes)
    unet, latents, looks = (weights.config(folder, part) for part in classes)
    channels = unet.get("in_channels"), 2 * latents.get("latent_channels", 4)
    _parts.agree(folder, "latent channels, two for each,", *channels)
    widths = unet.get("cross_attention_dim"), looks.get("projection_dim")
    _parts.agree(folder, "widths of an image's embedding", *widths)
    ids = 3 * (unet.get("addition_time_embed_dim") or 256)
    told = unet.get("projection_class_embeddings_input_dim") or 768
    _parts.agree(folder, "widths of the numbers beside an image", ids, told)
    return StableVideo(
        _parts.load(network, folder / "unet", kind),
        _parts.load(vae, folder / "vae", torch.float32),
        _parts.load(encoder, folder / "image_encoder", kind),
        _parts.processor(folder, CLIPImageProcessorPil),
        schedule=weights.config(folder, "scheduler"),
        model=model,
        name=name,
        device=where,
    )


def _vae_class(folder: Path) -> str:
    """The published decoder goes over time; the embedded model shares the one of single frames."""
    known = ("AutoencoderKLTemporalDecoder", "AutoencoderKL")
    kind = weights.config(folder, "vae").get("_class_name", known[0])
    if kind not in known:
        raise UserError(f"{folder / 'vae'} holds a {kind}, not a {' or '.join(known)}")
    return kind
