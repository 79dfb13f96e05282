"""The adapter of Stable Video Diffusion over diffusers parts: EDM's v-prediction, conditioned on an image.

With `x = clean + s noise` the velocity field is that of `z = x / (1 + s)` at the noise level `sigma = s / (1 + s)`. One
Euler step of it is the Euler step of the published sampler.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...base.errors import UserError
from ...sampling.field import Branch
from ...sampling.noise import keyed_noise
from .. import loading
from ..attention.hooks import NetworkCall
from ..base import Backbone, Conditioning, Prompt, replace_stage
from ..checkpoint import Checkpoint
from ..devices import pick_device, pick_dtype
from ..part_loading import PartLoader
from ..placement import DEFAULT, STREAMED, UNET_PARTS, Placements
from ..residency import find_device, prepare_parts
from ..scheduler_settings import check_edm
from ..spec import BackboneSpec, check_schedule
from ..unet.adapter import VAE_FRAMES, encode_frames, make_hooks
from ..unet.clip_formats import make_clip_format
from .spec import (
    CAPABILITIES,
    SCHEDULES,
    SVD,
    edm_from_sigma,
    latent_to_edm,
    sigma_from_edm,
)

DECODED_FRAMES = 8  # at once; the decoder reads neighbouring frames within them
CLIP_SIZE = (224, 224)  # pixels of an image that CLIP takes
MOTION_BUCKET = 127  # 0 (still) to 255
NOISE_STRENGTH = 0.02  # of the noise that is added to the image before it is encoded
DEFAULT_EDM_RANGE = {"sigma_min": 0.002, "sigma_max": 700.0}


class ImageConditioning(NamedTuple):
    """What the network receives about the first frame: one branch of a conditioning."""

    embedding: Tensor  # b 1 d, CLIP's
    latents: Tensor  # b c h w, the VAE's mode, not scaled
    time_ids: Tensor  # b 3: fps - 1, motion bucket, strength of the image's noise


class StableVideo(Backbone):
    """A model of the family, built from its parts. A part that is not needed may be None.

    schedule: its scheduler's configuration; spec: its constants; device: None for the device of the parts. `time_ids`
    holds the three numbers that the network receives next to an image, and may be set.
    """

    def __init__(
        self,
        unet: Any = None,
        vae: Any = None,
        image_encoder: Any = None,
        image_processor: Any = None,
        schedule: Mapping[str, Any] | None = None,
        spec: BackboneSpec = SVD,
        name: str = "svd",
        device: torch.device | None = None,
        placements: Placements = DEFAULT,
    ):
        self.stage_parts = replace_stage("condition", "image_encoder")
        self.placements, self.streams_blocks = placements, placements.of("unet") in STREAMED
        self.name, self.recommended, self.image_model = name, spec.recommended, spec.image_model
        parts = {"unet": unet, "vae": vae, "image_encoder": image_encoder}
        self.parts = prepare_parts(parts)
        self.image_processor = image_processor
        self.device = device or find_device(self.parts)
        self.dtype = unet.dtype if unet else torch.float32
        unet_config, vae_config = (part.config if part else {} for part in (unet, vae))
        self.clip_format = make_clip_format(spec, unet_config, vae_config, SCHEDULES)
        known = check_edm(schedule or {})
        edm_range = [known.get(name) or value for name, value in DEFAULT_EDM_RANGE.items()]
        self.edm_min, self.edm_max = edm_range
        self.time_ids = (spec.fps - 1, MOTION_BUCKET, NOISE_STRENGTH)
        self.network = unet
        self.attention_hooks, self.feature_hooks = make_hooks(unet)
        self.capabilities = CAPABILITIES if unet else frozenset({"image"})

    @torch.no_grad()
    def condition(self, prompt: Prompt) -> Conditioning:
        """Encode the prompt's image; this model reads no text. The negative branch has zeros for its embedding."""
        if prompt.image is None:
            raise UserError(f"{self.name} is conditioned on a first frame, and got none")
        image = prompt.image.to(self.device, torch.float32)[None] * 2 - 1
        with self.stage("condition"):
            embedding = self.part("image_encoder")(self._clip_input(image)).image_embeds[:, None]
        latents = self._image_latents(image, prompt)
        time_ids = torch.tensor([prompt.time_ids or self.time_ids], device=self.device)
        positive = ImageConditioning(embedding.float(), latents, time_ids)
        rest = latents if prompt.negative_image == "latents" else torch.zeros_like(latents)
        negative = ImageConditioning(torch.zeros_like(positive.embedding), rest, time_ids)
        return Conditioning(positive, negative)

    def _image_latents(self, image: Tensor, prompt: Prompt) -> Tensor:
        """Return the latents of an image 1 3 H W in [-1, 1], or the prompt's own: 1 c h w, not scaled, with noise."""
        if prompt.latent is None:
            latents = self._encode_image(image, prompt.noise_target)
        else:
            scale = self.part("vae").config.scaling_factor
            latents = prompt.latent[:, :, 0].to(self.device) / scale
        if prompt.noise_target != "pixels":
            latents = latents + self._noise(latents)
        return latents

    def _encode_image(self, image: Tensor, noise_target: str) -> Tensor:
        """Encode an image 1 3 H W in [-1, 1] to 1 c h w, not scaled. Noise of pixels is added before."""
        with self.stage("encode"):
            if noise_target == "pixels":
                image = image + self._noise(image)
            posterior = self.part("vae").encode(image).latent_dist
        if noise_target != "sample":
            return posterior.mode()
        mean = posterior.mean
        return mean + posterior.std * keyed_noise(mean[:, :, None], 0, 1)[:, :, 0]

    def _noise(self, image: Tensor) -> Tensor:
        """Return the same noise for every image, so that two images that are equal outside a mask stay equal there."""
        *_, strength = self.time_ids
        return strength * keyed_noise(image[:, :, None], seed=0, step=0)[:, :, 0]

    def _clip_input(self, image: Tensor) -> Tensor:
        """Return an image 1 3 H W in [-1, 1] as CLIP takes it, resized as in the model's training."""
        resized = _published_resize()(image, CLIP_SIZE)
        mean, std = (
            torch.tensor(values, device=image.device).view(1, 3, 1, 1)
            for values in (self.image_processor.image_mean, self.image_processor.image_std)
        )
        return ((resized / 2 + 0.5 - mean) / std).to(self.part("image_encoder").dtype)

    def encode(self, frames: Iterable[Tensor], eps: Tensor | None = None) -> Tensor:
        """Encode frames as the VAE's encode(...).latent_dist does, scaled, in float32.

        The result is the mode, or with eps (`f c h w`) a sample.
        """
        with self.stage("encode"):
            together = self.placements.decoded_frames or VAE_FRAMES
            z = encode_frames(self.part("vae"), frames, self.device, eps, together)
        self.clip_format.check_clip(
            z.shape[2], *(n * self.clip_format.stride[1] for n in z.shape[3:])
        )
        return z

    def decode(self, z: Tensor) -> Iterator[Tensor]:
        """Decode a latent. The published decoder reads neighbours in a chunk; one of single frames works too."""
        vae = self.part("vae")
        together = self.placements.decoded_frames or DECODED_FRAMES
        takes_count = "num_frames" in inspect.signature(type(vae).forward).parameters
        with self.stage("decode"):
            for part in z[0].transpose(0, 1).split(together):
                x = part.to(self.device, torch.float32) / vae.config.scaling_factor
                count = {"num_frames": len(x)} if takes_count else {}
                yield (vae.decode(x, **count).sample / 2 + 0.5).clamp(0, 1)

    def sigmas(
        self,
        steps: int,
        shift: float | None = None,
        schedule: str = "native",
        shape: Sequence[int] | None = None,
    ) -> list[float]:
        """Return the levels of Karras' spacing of s with rho 7, then 0. A shift multiplies s."""
        check_schedule(schedule, SCHEDULES)
        ends = self.edm_max ** (1 / 7), self.edm_min ** (1 / 7)
        levels = np.linspace(*ends, steps) ** 7 * (1 if shift is None else shift)
        return [sigma_from_edm(s) for s in np.minimum(levels, self.edm_max).tolist()] + [0.0]

    def snap_timestep(self, sigma: float) -> float:
        """Return sigma: the model's time is continuous."""
        return sigma

    def velocity(
        self,
        z: Tensor,
        sigma: float,
        conditioning: Conditioning,
        *,
        branch: Branch,
        frames: Sequence[int] | None = None,
        network_sigma: float | None = None,
    ) -> Tensor:
        s = edm_from_sigma(sigma)
        s_network = s if network_sigma is None else edm_from_sigma(network_sigma)
        scale = math.hypot(1, s)
        x = latent_to_edm(z, s)
        image = conditioning.for_branch(branch)
        prediction = self._predict(x / scale, s_network, image, branch, frames)
        noise = s / scale**2 * x + prediction / scale
        clean = x / scale**2 - s / scale * prediction
        return noise - clean

    def _predict(
        self,
        x: Tensor,
        s: float,
        image: ImageConditioning,
        branch: str,
        frames: Sequence[int] | None,
    ) -> Tensor:
        """Return the network's `v = (noise - s clean) / sqrt(1 + s^2)` at x of unit size, `b c f h w`.

        The timestep is 0.25 ln s; for a clean latent it is that of the lowest level.
        """
        frames = tuple(range(x.shape[2])) if frames is None else tuple(frames)
        image = ImageConditioning(*(value.to(x.device, self.dtype) for value in image))
        latents = image.latents[:, :, None].expand(len(x), -1, len(frames), -1, -1)
        joined = torch.cat((x.to(self.dtype), latents), 1).transpose(1, 2).contiguous()
        timestep = torch.full((1,), 0.25 * math.log(s or self.edm_min), device=x.device)
        call = NetworkCall(branch, frames, (x.shape[3], x.shape[4]), len(x))
        embedding, time_ids = (
            value.expand(len(x), *value.shape[1:]) for value in (image.embedding, image.time_ids)
        )
        with self.stage("denoise"), self.use_call(call):
            out = self.part("unet")(joined, timestep, embedding, added_time_ids=time_ids).sample
        return out.float().transpose(1, 2)


def _published_resize() -> Callable[[Tensor, tuple[int, int]], Tensor]:
    """Return the pipeline's own resizing. On import, transformers would warn of an image processor that is not used."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion
    finally:
        logging.set_verbosity(level)
    return pipeline_stable_video_diffusion._resize_with_antialiasing


def load(
    name: str,
    spec: BackboneSpec,
    checkpoint: Checkpoint,
    device: str,
    dtype: str,
    placements: Placements = DEFAULT,
) -> StableVideo:
    """Load the parts of a checkpoint."""
    import diffusers

    # diffusers exports it on first use
    from diffusers import UNetSpatioTemporalConditionModel  # pyright: ignore[reportPrivateImportUsage]
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    target = pick_device(device)
    loader = PartLoader(target, pick_dtype(dtype, target), placements, UNET_PARTS)
    network = UNetSpatioTemporalConditionModel
    vae = getattr(diffusers, _vae_class(checkpoint))
    encoder = CLIPVisionModelWithProjection
    loading.check_parts(checkpoint, {"unet": network, "vae": vae, "image_encoder": encoder})
    _check_widths(checkpoint)
    return StableVideo(
        loader.load(network, checkpoint.part("unet")),
        loading.load_part(vae, checkpoint.part("vae"), torch.float32),
        loader.load(encoder, checkpoint.part("image_encoder")),
        loading.load_image_processor(checkpoint, CLIPImageProcessorPil),
        schedule=checkpoint.config("scheduler"),
        spec=spec,
        name=name,
        device=target,
        placements=placements,
    )


def _check_widths(checkpoint: Checkpoint) -> None:
    """Raise UserError if the parts belong to different models."""
    unet, vae, encoder = (checkpoint.config(part) for part in ("unet", "vae", "image_encoder"))
    channels = unet.get("in_channels"), 2 * vae.get("latent_channels", 4)
    loading.require_equal(checkpoint, "latent channels, two for each,", *channels)
    widths = unet.get("cross_attention_dim"), encoder.get("projection_dim")
    loading.require_equal(checkpoint, "widths of the image's embedding", *widths)
    ids = 3 * (unet.get("addition_time_embed_dim") or 256)
    expected = unet.get("projection_class_embeddings_input_dim") or 768
    loading.require_equal(checkpoint, "widths of the embedded time ids", ids, expected)


def _vae_class(checkpoint: Checkpoint) -> str:
    """Return the class of the VAE. The published one decodes over time; the embedded one decodes single frames."""
    known = ("AutoencoderKLTemporalDecoder", "AutoencoderKL")
    name = checkpoint.config("vae").get("_class_name", known[0])
    if name not in known:
        raise UserError(f"{checkpoint.part('vae')} holds a {name}, not a {' or '.join(known)}")
    return name
