"""The adapter of the Stable Diffusion lineage over diffusers parts.

These models predict noise, over a VAE of single frames and CLIP's text. A 2D U-Net takes the frames of a clip as a
batch of images; a 3D U-Net takes the clip. With `x = a clean + s noise` and `a^2 + s^2 = 1`, the velocity field is that
of `z = x / (a + s)` at the noise level `sigma = s / (a + s)`: one Euler step of it is the DDIM step.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ...base.errors import UserError
from ...base.prompt_diff import token_positions as word_tokens
from ...base.prompt_tokens import locate_tokens
from ...base.prompts import clean_prompt
from ...sampling.field import Branch
from .. import loading
from ..attention.hooks import CONTROLNET, LayerHooks, NetworkCall
from ..base import Backbone, Conditioning, Control, Prompt, note_truncation
from ..checkpoint import Checkpoint
from ..devices import pick_device, pick_dtype, use_channels_last
from ..feature_hooks import output_hooks
from ..lru import get_or_make
from ..noise_schedule import NoiseSchedule
from ..part_loading import PartLoader
from ..placement import DEFAULT, STREAMED, UNET_PARTS, Placements
from ..residency import find_device, prepare_parts
from ..spec import BackboneSpec
from . import control as control_networks
from .clip_formats import make_clip_format
from .clip_norms import GroupNormsOverClip
from .hooks import attention_hooks, feature_blocks

# Text states, and the pictures that a ControlNet reads.
Condition: TypeAlias = tuple[Tensor, Control | None]
VAE_FRAMES = 8  # frames that the VAE processes at once
FRAMES_PER_CALL = 16  # frames that a 2D network processes in one call
DEFAULT_SPEC = BackboneSpec("", 0, fps=8, train_pixels=512 * 512, train_frames=16)


def encode_frames(
    vae: Any,
    frames: Iterable[Tensor],
    device: torch.device,
    eps: Tensor | None = None,
    together: int = VAE_FRAMES,
) -> Tensor:
    """Encode frames to a scaled latent `1 c f h w`, a few at a time.

    It is the posterior's mode, or with eps (`f c h w`) a sample of the posterior.
    """
    source, parts, count = iter(frames), [], 0
    while group := list(islice(source, together)):
        x = torch.stack(group).to(device, torch.float32) * 2 - 1
        posterior = vae.encode(x).latent_dist
        part = posterior.mode()
        if eps is not None:
            part = part + posterior.std * eps[count : count + len(group)].to(part)
        parts.append(part)
        count += len(group)
    latents = torch.cat(parts) * vae.config.scaling_factor
    return latents.transpose(0, 1)[None]


def decode_frames(
    vae: Any, z: Tensor, device: torch.device, together: int = VAE_FRAMES
) -> Iterator[Tensor]:
    """Decode a latent `1 c f h w` to frames `f 3 H W` in [0, 1], a few at a time."""
    for part in z[0].transpose(0, 1).split(together):
        x = part.to(device, torch.float32) / vae.config.scaling_factor
        yield (vae.decode(x).sample / 2 + 0.5).clamp(0, 1)


class PromptEncoder:
    """CLIP's text states as this lineage's pipelines use them: the last ones after the norm, padding not masked."""

    def __init__(self, tokenizer: Any, name: str):
        self.tokenizer, self.name = tokenizer, name
        self.cache: dict[str, Tensor] = {}  # states of cleaned prompts, on the CPU

    def encode(self, encoder: Any, texts: list[str], device: torch.device) -> tuple[Tensor, ...]:
        """Return the states of cleaned prompts, each `1 L d` on the CPU. Note a prompt that is too long."""
        length = self.tokenizer.model_max_length
        for text in texts:
            excess = len(self.tokenizer(text).input_ids) - length
            if excess > 0:
                note_truncation(self.name, length, excess, text)
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            states = encoder(tokens.input_ids.to(device)).last_hidden_state
        return states.cpu().split(1)

    def token_count(self, text: str) -> int:
        """Count the tokens of a text that the model reads, with the marks of its begin and end."""
        return min(len(self.tokenizer(text).input_ids), self.tokenizer.model_max_length)


class LatentDiffusion(Backbone):
    """A model of the lineage, built from its parts. A part that is not needed may be None.

    schedule: its scheduler's configuration; spec: its constants; device: None for the device of the parts.
    """

    def __init__(
        self,
        unet: Any = None,
        vae: Any = None,
        text_encoder: Any = None,
        tokenizer: Any = None,
        schedule: Mapping[str, Any] | None = None,
        spec: BackboneSpec = DEFAULT_SPEC,
        name: str = "sd",
        device: torch.device | None = None,
        placements: Placements = DEFAULT,
    ):
        self.placements, self.streams_blocks = placements, placements.of("unet") in STREAMED
        self.name, self.recommended, self.image_model = name, spec.recommended, spec.image_model
        parts = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
        self.parts = prepare_parts(parts)
        self.device = device or find_device(self.parts)
        self.dtype = unet.dtype if unet else torch.float32
        unet_config, vae_config = (part.config if part else {} for part in (unet, vae))
        self.clip_format = make_clip_format(spec, unet_config, vae_config)
        self.schedule = NoiseSchedule.from_config(schedule or {})
        self.prediction = self.schedule.prediction
        self.prompts = PromptEncoder(tokenizer, name)
        self.network = unet
        self.attention_hooks, self.feature_hooks = make_hooks(unet)
        self.clean_sigma = self.schedule.clean_sigma
        self.capabilities = unet_capabilities(self.attention_hooks)
        # A network without layers over time takes single frames.
        self.takes_images = "temporal_attention" not in self.capabilities
        if unet is not None and self.takes_images:
            assert self.feature_hooks is not None
            self.clip_norms = GroupNormsOverClip([unet], self.feature_hooks)
        for name in ("unet", "vae") if self.takes_images else ():
            if name in self.parts and placements.of(name) not in STREAMED:
                use_channels_last(self.parts[name], self.device)

    def condition(self, prompt: Prompt) -> Conditioning:
        positive, negative = clean_prompt(prompt.text), clean_prompt(prompt.negative)
        states = get_or_make(self.prompts.cache, (positive, negative), self._embed)
        length = self.prompts.token_count(positive)
        tokens = word_tokens(self.prompts.tokenizer, positive, prompt.words)
        words = tuple(token for token in tokens if token < length)
        on_device = [state.to(self.device, self.dtype) for state in states]
        limit = self.prompts.tokenizer.model_max_length
        located = locate_tokens(self.prompts.tokenizer, positive, limit)
        return Conditioning(on_device[0], on_device[1], length, words, tokens=located)

    def _embed(self, texts: list[str]) -> tuple[Tensor, ...]:
        with self.stage("condition"):
            return self.prompts.encode(self.part("text_encoder"), texts, self.device)

    def encode(self, frames: Iterable[Tensor], eps: Tensor | None = None) -> Tensor:
        """Encode frames as AutoencoderKL.encode(...).latent_dist does, scaled, in float32.

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
        with self.stage("decode"):
            together = self.placements.decoded_frames or VAE_FRAMES
            yield from decode_frames(self.part("vae"), z, self.device, together)

    def sigmas(
        self,
        steps: int,
        shift: float | None = None,
        schedule: str = "native",
        shape: Sequence[int] | None = None,
    ) -> list[float]:
        return self.schedule.sigmas(steps, shift, schedule)

    def snap_timestep(self, sigma: float) -> float:
        return self.schedule.snap_timestep(sigma)

    def training_sigmas(self) -> list[float]:
        return self.schedule.training_sigmas()

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
        text = conditioning.for_branch(branch).to(z.device, self.dtype)
        frames = tuple(range(z.shape[2])) if frames is None else tuple(frames)
        levels, condition = (sigma, network_sigma), (text, conditioning.control)
        if self._needs_all_frames():
            return self._velocity_of_call(z, levels, condition, branch, frames)
        parts = []
        for first in range(0, len(frames), FRAMES_PER_CALL):
            some = slice(first, first + FRAMES_PER_CALL)
            parts.append(
                self._velocity_of_call(z[:, :, some], levels, condition, branch, frames[some])
            )
        return torch.cat(parts, 2)

    def _needs_all_frames(self) -> bool:
        """Return whether one call of the network has to see all frames: they are not images, or a rule reads them."""
        has_rules = any(
            h is not None and h.rules for h in (self.attention_hooks, self.feature_hooks)
        )
        normalizes = self.clip_norms is not None and self.clip_norms.is_active
        return not self.takes_images or has_rules or normalizes

    @contextlib.contextmanager
    def use_controlnet(self, network: Any) -> Iterator[None]:
        """Let a ControlNet read the control pictures of conditionings inside the block. Rules reach its layers too.

        Raise UserError for one of another model, and for a model of clips.
        """
        if not self.takes_images:
            raise UserError(f"{self.name} takes no ControlNet", "use a Stable Diffusion model")
        control_networks.check_fits(network, self.part("unet"))
        own = self.stage_parts
        self.parts |= prepare_parts({CONTROLNET: network})
        self.stage_parts = {**own, "denoise": (*own["denoise"], CONTROLNET)}
        if self.device.type != "cpu":
            use_channels_last(network, self.device)
        hooks = make_hooks(nn.ModuleDict({CONTROLNET: network}))
        try:
            with contextlib.ExitStack() as stack:
                for mine, other in zip(
                    (self.attention_hooks, self.feature_hooks), hooks, strict=True
                ):
                    assert mine is not None
                    assert other is not None
                    stack.enter_context(mine.add_layers(other))
                assert isinstance(self.clip_norms, GroupNormsOverClip)
                stack.enter_context(self.clip_norms.add_network(network))
                yield
        finally:
            self.residency.leave(CONTROLNET)
            self.stage_parts = own
            del self.parts[CONTROLNET]

    def _velocity_of_call(
        self,
        z: Tensor,
        levels: tuple[float, float | None],
        condition: Condition,
        branch: str,
        frames: tuple[int, ...],
    ) -> Tensor:
        """Return the velocity by one call of the network.

        levels: sigma, and the network's own one. condition: text states, `1 L d` or of each frame of the clip `f L d`,
        and pictures of control.
        """
        call = NetworkCall(branch, frames, (z.shape[3], z.shape[4]), len(z))
        with self.stage("denoise"), self.use_call(call):
            return self.schedule.velocity(lambda x, t: self._predict(x, t, condition), z, *levels)

    def _predict(self, x: Tensor, timestep: float, condition: Condition) -> Tensor:
        """Return the network's prediction at x, `b c f h w`."""
        text, control = condition
        t = torch.full((1,), timestep, device=x.device, dtype=torch.float32)
        x = x.to(self.dtype)
        # Contiguous: the last bit of a convolution depends on the memory layout, which a resumed run does not know.
        if not self.takes_images:
            each = text.expand(len(x), -1, -1)
            return self.part("unet")(x.contiguous(), t, each).sample.float()
        frames = x.transpose(1, 2).flatten(0, 1).contiguous()
        text, added = self._spread_text(text, frames), {}
        if control is not None:
            network = self.part(CONTROLNET)
            assert self.attention_hooks is not None
            numbers = self.attention_hooks.running_call.frames
            added = control_networks.run(network, control, numbers, (frames, t, text))
        out = self.part("unet")(frames, t, text, **added).sample.float()
        return out.unflatten(0, (len(x), -1)).transpose(1, 2)

    def _spread_text(self, text: Tensor, images: Tensor) -> Tensor:
        """Return the text states of each image of the running call, `(b f) L d`.

        text: `1 L d`, or of each frame of the clip.
        """
        if len(text) == 1:
            return text.expand(len(images), -1, -1)
        assert self.attention_hooks is not None
        frames = list(self.attention_hooks.running_call.frames)
        return text[frames].repeat(len(images) // len(frames), 1, 1)


SPATIAL_CAPABILITIES = frozenset({"text", "text_attention", "spatial_attention", "features"})
IMAGE_CAPABILITIES = frozenset({"clip_norms", "control", "frame_text"})


def unet_capabilities(hooks: LayerHooks | None) -> frozenset[str]:
    """Return what a U-Net offers methods, by its attention layers. hooks: None for a model without its U-Net.

    A network that takes single frames has its group norms over each frame, or over the clip.
    """
    if hooks is None:
        return frozenset({"text"})
    is_temporal = any(layer.axis == "temporal" for layer in hooks.layers)
    return SPATIAL_CAPABILITIES | ({"temporal_attention"} if is_temporal else IMAGE_CAPABILITIES)


def make_hooks(unet: nn.Module | None) -> tuple[LayerHooks | None, LayerHooks | None]:
    """Return the attention and the feature hooks of a U-Net; None without one."""
    if unet is None:
        return None, None
    return attention_hooks(unet), output_hooks(feature_blocks(unet))


def load(
    name: str,
    spec: BackboneSpec,
    checkpoint: Checkpoint,
    device: str,
    dtype: str,
    placements: Placements = DEFAULT,
) -> LatentDiffusion:
    """Load the parts of a checkpoint."""
    from diffusers import (
        AutoencoderKL,  # pyright: ignore[reportPrivateImportUsage]  # exported on use
        UNet2DConditionModel,  # pyright: ignore[reportPrivateImportUsage]
        UNet3DConditionModel,  # pyright: ignore[reportPrivateImportUsage]
    )
    from transformers import CLIPTextModel

    target = pick_device(device)
    loader = PartLoader(target, pick_dtype(dtype, target), placements, UNET_PARTS)
    is_video = "temporal_attention" in spec.capabilities
    network = UNet3DConditionModel if is_video else UNet2DConditionModel
    loading.check_parts(
        checkpoint, {"unet": network, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    )
    _check_widths(checkpoint)
    encoder = loader.load(CLIPTextModel, checkpoint.part("text_encoder"))
    limits = encoder.config.vocab_size, encoder.config.max_position_embeddings
    return LatentDiffusion(
        loader.load(network, checkpoint.part("unet")),
        loading.load_part(AutoencoderKL, checkpoint.part("vae"), torch.float32),
        encoder,
        loading.load_tokenizer(checkpoint, *limits),
        schedule=checkpoint.config("scheduler"),
        spec=spec,
        name=name,
        device=target,
        placements=placements,
    )


def _check_widths(checkpoint: Checkpoint) -> None:
    """Raise UserError if the parts belong to different models."""
    unet, vae, text = (checkpoint.config(part) for part in ("unet", "vae", "text_encoder"))
    channels = unet.get("in_channels"), vae.get("latent_channels")
    loading.require_equal(checkpoint, "latent channels", *channels)
    widths = unet.get("cross_attention_dim"), text.get("hidden_size")
    loading.require_equal(checkpoint, "widths of the text states", *widths)
