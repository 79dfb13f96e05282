"""The adapter of the Wan family over diffusers parts.

Text, posterior, timestep scale and noise levels follow the authors' own code where diffusers' pipeline differs.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ...base.errors import UserError
from ...base.prompt_diff import token_positions as word_tokens
from ...base.prompts import clean_prompt
from ...sampling.field import (
    Branch,
    Evaluation,
    evaluate_in_turn,
    full_costs,
)
from ...sampling.schedules import flow_sigmas
from .. import loading
from ..attention.hooks import LayerHooks, NetworkCall
from ..base import Backbone, Conditioning, Prompt, note_truncation, replace_stage
from ..checkpoint import Checkpoint
from ..devices import pick_device, pick_dtype
from ..lru import get_or_make
from ..part_loading import PartLoader
from ..placement import DEFAULT, STREAMED, Placements
from ..residency import find_device, prepare_parts
from ..scheduler_settings import read_flow_shift
from ..spec import BackboneSpec
from . import packed
from . import spec as constants
from .experts import FIRST, ExpertPair, LazyModule
from .hooks import attention_hooks, feature_hooks, remount
from .spec import SECOND
from .tiling import decode_tiles

ROUNDING = 1e-6  # of a timestep
MAX_TEXT_TOKENS = 512  # with the padding, which the model attends to
DEFAULT_SPEC = constants.SPECS["wan2.1-1.3b"]


class Wan(Backbone):
    """A model of the Wan family, built from its parts. A part that is not needed may be None.

    transformer: the denoiser, or an ExpertPair; of a pair only the one in use is on the device. shift: the model's own,
    of its noise levels; spec: its constants; device: None for the device of the parts.
    """

    def __init__(
        self,
        transformer: Any = None,
        vae: Any = None,
        text_encoder: Any = None,
        tokenizer: Any = None,
        shift: float = 3.0,
        spec: BackboneSpec = DEFAULT_SPEC,
        name: str = "wan",
        device: torch.device | None = None,
        placements: Placements = DEFAULT,
    ):
        self.name, self.shift, self.recommended = name, shift, spec.recommended
        self.placements = placements
        self.streams_blocks = placements.of(FIRST) in STREAMED
        is_pair = isinstance(transformer, ExpertPair)
        self.experts = transformer if is_pair else ExpertPair(transformer)
        self.expert_boundary = self.experts.boundary
        self._add_parts(vae, text_encoder)
        self.tokenizer = tokenizer
        self.device = device or find_device(self.parts)
        first = self.experts.first
        self.dtype = first.dtype if first else torch.float32
        configs = [part.config if part else {} for part in (first, vae)]
        self.clip_format = constants.make_clip_format(spec, *configs)
        self.attention_hooks, self.feature_hooks = self._make_hooks()
        self.capabilities = constants.CAPABILITIES if first else frozenset({"text"})
        self._states: dict[str, Tensor] = {}  # text states of cleaned prompts, on the CPU

    def _add_parts(self, vae: Any, text_encoder: Any) -> None:
        """Set the parts. A pair has no denoiser in use before its first evaluation."""
        denoisers = {FIRST: self.experts.first, SECOND: self.experts.second}
        self._lazy = {name: d for name, d in denoisers.items() if isinstance(d, LazyModule)}
        loaded = {name: d for name, d in denoisers.items() if name not in self._lazy}
        self.parts = prepare_parts(loaded | {"vae": vae, "text_encoder": text_encoder})
        self._in_use = None if self.experts.second or self._lazy else FIRST
        self.can_split_tokens = self._in_use == FIRST and not self.streams_blocks
        self.stage_parts = replace_stage("denoise", self._in_use)

    def _make_hooks(self) -> tuple[LayerHooks | None, LayerHooks | None]:
        if not self.experts.first:
            return None, None
        blocks = self.experts.first.config["num_layers"]
        network = self._current_network
        return attention_hooks(blocks, network), feature_hooks(blocks, network)

    @property
    def transformer(self) -> Any:
        return self.part(FIRST)

    @property
    def vae(self) -> Any:
        return self.part("vae")

    def part(self, name: str) -> Any:
        """Return a part. A denoiser that is not loaded is loaded now. Raise UserError for a part that is absent."""
        if name in self._lazy:
            self.parts |= prepare_parts({name: self._lazy[name].load()})
            del self._lazy[name]
            self.prepare_denoiser(self.parts[name])
        return super().part(name)

    def _current_network(self) -> nn.Module | None:
        """Return the denoiser in use; None before the first evaluation of a pair."""
        return self.parts.get(self._in_use) if self._in_use else None

    def _denoiser_at(self, sigma: float) -> nn.Module:
        """Return the denoiser of a noise level, on the device. Move the other one to the CPU, and active rules here."""
        name = self.experts.part_at(sigma)
        denoiser = self.part(name)
        if name != self._in_use:
            self.residency.leave(SECOND if name == FIRST else FIRST)
            self._in_use, self.stage_parts = name, replace_stage("denoise", name)
            for hooks in (self.attention_hooks, self.feature_hooks):
                if hooks:
                    remount(hooks)
        self.residency.begin([name], self.device)
        return denoiser

    def condition(self, prompt: Prompt) -> Conditioning:
        if self.tokenizer is None:
            raise UserError(f"{self.name} was built without its tokenizer, which this needs")
        texts = clean_prompt(prompt.text), clean_prompt(prompt.negative)
        states = get_or_make(self._states, texts, lambda new: self._embed(new).cpu().split(1))
        positive, negative = (state.to(self.device, self.dtype) for state in states)
        length = min(len(self.tokenizer(texts[0]).input_ids), positive.shape[1])
        tokens = word_tokens(self.tokenizer, texts[0], prompt.words)
        words = tuple(token for token in tokens if token < length)
        return Conditioning(positive, negative, length, words)

    def _embed(self, texts: list[str]) -> Tensor:
        """Return the text states of cleaned prompts, `n L d`: zero at the padding, which the model attends to."""
        length = min(MAX_TEXT_TOKENS, self.tokenizer.model_max_length)
        for text in texts:
            excess = len(self.tokenizer.tokenize(text)) + 1 - length
            if excess > 0:
                note_truncation(self.name, length, excess, text)
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        mask = tokens.attention_mask.to(self.device)
        with self.stage("condition"), torch.no_grad():
            encoder = self.part("text_encoder")
            states = encoder(tokens.input_ids.to(self.device), mask).last_hidden_state
        return states * mask[..., None].to(states)

    def encode(self, frames: Iterable[Tensor], eps: Tensor | None = None) -> Tensor:
        """Encode frames as AutoencoderKLWan.encode(...).latent_dist does, normalised, in float32.

        The frames are processed a group at a time. The result is the mode, or with eps (`f c h w`) a sample.
        """
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        with self.stage("encode"):
            moments = torch.cat(list(self._encode_groups(iter(frames))), dim=2)
            posterior = DiagonalGaussianDistribution(self.vae.quant_conv(moments))
        z = posterior.mode()
        if eps is not None:
            z = z + posterior.std * eps.transpose(0, 1).to(z)
        mean, std = self._statistics()
        return (z - mean) / std

    def _encode_groups(self, frames: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield the encoder's output of each group of frames: one frame first, then as many as a latent frame holds."""
        cache, count = self._cache(self.vae.encoder), 0
        while group := list(islice(frames, self.clip_format.stride[0] if count else 1)):
            x = torch.stack(group).to(self.device, torch.float32)
            count += len(group)
            self.clip_format.check_clip(count, *x.shape[-2:])
            x = self._patchify(x.transpose(0, 1)[None] * 2 - 1)
            yield self.vae.encoder(x, feat_cache=cache, feat_idx=[0])

    def decode(self, z: Tensor) -> Iterator[Tensor]:
        mean, std = self._statistics()
        with self.stage("decode"):
            x = self.vae.post_quant_conv(z.to(self.device, torch.float32) * std + mean)
            side = self.placements.tile // self.clip_format.stride[1]
            if side and side < max(x.shape[-2:]):
                yield from decode_tiles(self._decode_frames, x, side, self.clip_format.stride[1])
            else:
                yield from self._decode_frames(x)

    def _decode_frames(self, x: Tensor) -> Iterator[Tensor]:
        """Decode what the VAE's first layer makes of a latent, a latent frame at a time."""
        cache = self._cache(self.vae.decoder)
        for i in range(x.shape[2]):
            frame = x[:, :, i : i + 1]
            y = self.vae.decoder(frame, feat_cache=cache, feat_idx=[0], first_chunk=i == 0)
            yield (self._unpatchify(y)[0].transpose(0, 1) / 2 + 0.5).clamp(0, 1)

    def _cache(self, part: nn.Module) -> list[Tensor | None]:
        """Return an empty cache of what each causal convolution keeps from one chunk for the next."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

        return [None] * sum(isinstance(m, WanCausalConv3d) for m in part.modules())

    def _patchify(self, x: Tensor) -> Tensor:
        from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

        return patchify(x, self.vae.config.patch_size or 1)

    def _unpatchify(self, x: Tensor) -> Tensor:
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        return unpatchify(x, self.vae.config.patch_size or 1)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation of the latent's channels, each `1 c 1 1 1`."""
        config = self.vae.config
        values = torch.tensor([config.latents_mean, config.latents_std], device=self.device)
        mean, std = values.view(2, 1, -1, 1, 1, 1)
        return mean, std

    def sigmas(
        self,
        steps: int,
        shift: float | None = None,
        schedule: str = "native",
        shape: Sequence[int] | None = None,
    ) -> list[float]:
        shift = self.shift if shift is None else shift
        return flow_sigmas(schedule, steps, shift, native="wan").tolist()

    def snap_timestep(self, sigma: float) -> float:
        """Return the noise level of sigma's timestep rounded down, as the authors of Wan do. Timesteps are thousandths.

        Their noisiest level is a float32, 1e-8 above 0.999. A level that is a thousandth never rounds to the one below.
        """
        return int(1000 * sigma + ROUNDING) / 1000

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
        sigma = sigma if network_sigma is None else network_sigma
        network = self._denoiser_at(sigma)
        with self.use_call(_network_call(z, frames, branch)):
            return self._run(network, sigma, [Evaluation(z, conditioning, branch)])

    def velocities(
        self, sigma: float, evaluations: Sequence[Evaluation], frames: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the velocity of each evaluation.

        Those with a region share one pass with their source; others run one after another. A denoiser that is streamed
        always runs one pass for all, so that each block is fetched once.
        """
        if self._can_pack(evaluations):
            network, hooks = self._denoiser_at(sigma), self.attention_hooks
            assert hooks is not None
            call = _network_call(evaluations[0].z, frames, "")
            run = partial(self._run, network, sigma)
            saves_memory = self.streams_blocks
            return packed.evaluate_row(run, network, hooks, call, evaluations, saves_memory)
        return evaluate_in_turn(self.velocity, sigma, evaluations, frames)

    def _can_pack(self, evaluations: Sequence[Evaluation]) -> bool:
        is_wanted = self.streams_blocks or any(e.region is not None for e in evaluations)
        reads_blocks = self.feature_hooks is not None and self.feature_hooks.rules
        if reads_blocks or self.splits_tokens or any(e.network_sigma for e in evaluations):
            return False
        return len(evaluations) > 1 and is_wanted and len(evaluations[0].z) == 1

    def _run(self, network: nn.Module, sigma: float, evaluations: Sequence[Evaluation]) -> Tensor:
        """Run the network on a batch of evaluations at one noise level and return their velocities, n c f h w."""
        z = torch.cat([e.z for e in evaluations]).to(self.dtype)
        texts = [e.conditioning.for_branch(e.branch) for e in evaluations]
        text = torch.cat([text.to(z.device, self.dtype) for text in texts])
        timestep = torch.full((1,), 1000 * sigma, device=z.device, dtype=torch.float32)
        return network(z, timestep, text, return_dict=False)[0].float()

    def costs(self, evaluations: Sequence[Evaluation]) -> list[float]:
        """Return what each evaluation of one call costs, in evaluations of the whole latent: its share of tokens."""
        if not self._can_pack(evaluations):
            return full_costs(evaluations)
        return packed.token_shares(evaluations, self.experts.first.config["patch_size"])

    def kept_layer_bytes(self, z: Tensor) -> int:
        config = self.experts.first.config
        tokens = z[0, 0].numel() // math.prod(config["patch_size"])
        width = config["num_attention_heads"] * config["attention_head_dim"]
        return 2 * config["num_layers"] * tokens * width * self.dtype.itemsize


def _network_call(z: Tensor, frames: Sequence[int] | None, branch: str) -> NetworkCall:
    frames = tuple(range(z.shape[2])) if frames is None else tuple(frames)
    return NetworkCall(branch, frames, (z.shape[3], z.shape[4]))


def load(
    name: str,
    spec: BackboneSpec,
    checkpoint: Checkpoint,
    device: str,
    dtype: str,
    placements: Placements = DEFAULT,
) -> Wan:
    """Load the parts of a checkpoint. Two denoisers are loaded when they are needed first."""
    from diffusers import (
        AutoencoderKLWan,  # pyright: ignore[reportPrivateImportUsage]  # exported on use
        WanTransformer3DModel,  # pyright: ignore[reportPrivateImportUsage]
    )
    from transformers import UMT5EncoderModel

    target = pick_device(device)
    loader = PartLoader(target, pick_dtype(dtype, target), placements, constants.STREAMED_PARTS)
    shift = constants.SHIFTS.get(name) or read_flow_shift(checkpoint.config("scheduler"))
    denoisers = (FIRST, SECOND) if name in constants.BOUNDARIES else (FIRST,)
    classes = dict.fromkeys(denoisers, WanTransformer3DModel)
    others = {"vae": AutoencoderKLWan, "text_encoder": UMT5EncoderModel}
    loading.check_parts(checkpoint, classes | others)
    _check_widths(checkpoint, denoisers)
    transformer = _load_denoisers(name, checkpoint, denoisers, loader)
    encoder = loader.load(UMT5EncoderModel, checkpoint.part("text_encoder"))
    return Wan(
        transformer,
        loading.load_part(AutoencoderKLWan, checkpoint.part("vae"), torch.float32),
        encoder,
        loading.load_tokenizer(checkpoint, encoder.config.vocab_size),
        shift=shift,
        spec=spec,
        name=name,
        device=target,
        placements=placements,
    )


def _load_denoisers(
    name: str, checkpoint: Checkpoint, denoisers: Sequence[str], loader: PartLoader
) -> Any:
    """Load the one denoiser, or return a pair that is loaded later."""
    # diffusers exports it on first use
    from diffusers import WanTransformer3DModel  # pyright: ignore[reportPrivateImportUsage]

    if len(denoisers) == 1:
        return loader.load(WanTransformer3DModel, checkpoint.part(FIRST))
    pair = [
        LazyModule(
            checkpoint.config(part),
            loader.dtype,
            partial(loader.load, WanTransformer3DModel, checkpoint.part(part)),
        )
        for part in denoisers
    ]
    return ExpertPair(*pair, boundary=constants.read_boundary(name, checkpoint))


def _check_widths(checkpoint: Checkpoint, denoisers: Sequence[str]) -> None:
    """Raise UserError if the parts belong to different models."""
    vae, text = (checkpoint.config(part) for part in ("vae", "text_encoder"))
    for part in denoisers:
        network = checkpoint.config(part)
        channels = network.get("in_channels"), vae.get("z_dim")
        loading.require_equal(checkpoint, "latent channels", *channels)
        widths = network.get("text_dim"), text.get("d_model")
        loading.require_equal(checkpoint, "widths of the text states", *widths)
