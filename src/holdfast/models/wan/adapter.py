"""The adapter of the Wan family over diffusers parts.

Text, posterior, timestep scale and noise levels follow the authors' own code, where diffusers' pipeline differs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...base.errors import UserError
from ...base.notices import note
from ...base.prompt_diff import tokens as word_tokens
from ...base.prompts import clean_prompt
from ...sampling.maths import flow_sigmas as level_grid
from .. import parts as _parts
from .. import weights
from ..attention.hooks import Call
from ..base import Backbone, Condition, Prompt, device_of, placed
from ..recent import recall
from ..scheduler_settings import flow_shift
from ..spec import Model
from . import spec
from .hooks import door_of, features_of, remounted

ROUNDING = 1e-6  # of a timestep
TEXT_LENGTH = 512  # tokens, padding included: the model attends to the padding
FAMILY = "wan2.1-1.3b"  # whose card stands in where none is given


@dataclass(frozen=True)
class Later:
    """A denoiser that is loaded when its turn comes, with what is asked of it before."""

    config: Mapping[str, Any]
    dtype: torch.dtype
    load: Callable[[], nn.Module]


@dataclass(frozen=True)
class Experts:
    """Denoisers of one structure that share the levels: from `boundary` on it is the first one's turn, below it the
    second's.
    """

    first: nn.Module | Later | None
    second: nn.Module | Later | None = None
    boundary: float = 0.0

    def turn(self, sigma: float) -> str:
        """Whose turn it is at a level, by the name of the part; as diffusers' pipeline compares timesteps."""
        return "transformer" if 1000 * sigma >= 1000 * self.boundary else spec.SECOND


class Wan(Backbone):
    """One of the Wan family, built from its parts. A part that is not needed may be None.

    transformer: the denoiser, or Experts: of two only the one whose turn it is is on the device. shift: the model's
    own, of its grid of levels; model: its card; device: None for where the parts are.
    """

    def __init__(
        self,
        transformer=None,
        vae=None,
        text_encoder=None,
        tokenizer=None,
        shift=3.0,
        model=None,
        name="wan",
        device=None,
    ):
        model = model or spec.MODELS[FAMILY]
        self.name, self.shift, self.prefers = name, shift, model.prefers
        self.experts = transformer if isinstance(transformer, Experts) else Experts(transformer)
        first, second = self.experts.first, self.experts.second
        denoisers = {"transformer": first, spec.SECOND: second}
        self._later = {name: d for name, d in denoisers.items() if isinstance(d, Later)}
        loaded = {name: d for name, d in denoisers.items() if name not in self._later}
        parts = {"vae": vae, "text_encoder": text_encoder}
        waits = second or self._later
        self.parts = placed(loaded, None if waits else device) | placed(parts, device)
        self._in_use = None if waits else "transformer"  # whose turn it is
        self.tokenizer = tokenizer
        self.device = device or device_of(self.parts)
        self.dtype = first.dtype if first else torch.float32
        configs = [part.config if part else {} for part in (first, vae)]
        self.grid = spec.grid_of(model, *configs)
        self.door = self.features = None
        self.carries = frozenset({"text"})
        if first:
            blocks = first.config["num_layers"]
            self.door = door_of(blocks, self._network)
            self.features = features_of(blocks, self._network)
            self.carries = spec.CARRIES
        self._texts: dict[str, Tensor] = {}  # states of cleaned prompts, kept on the CPU

    @property
    def transformer(self):
        return self.part("transformer")

    @property
    def vae(self):
        return self.part("vae")

    def part(self, name: str) -> Any:
        """As a backbone's; a denoiser that waits is loaded now."""
        if name in self._later:
            self.parts |= placed({name: self._later[name].load()}, None)
            del self._later[name]
        return super().part(name)

    def _network(self) -> nn.Module | None:
        """The denoiser whose turn it is; None: it is none's yet."""
        return self.parts.get(self._in_use)

    def _turn_to(self, sigma: float) -> nn.Module:
        """The denoiser of a level, on the device. The other one rests; rules in force ask in this one."""
        name = self.experts.turn(sigma)
        if name != self._in_use:
            other = spec.SECOND if name == "transformer" else "transformer"
            if other in self.parts:
                self.parts[other].to("cpu")
            self.part(name).to(self.device)
            self._in_use = name
            for door in (self.door, self.features):
                remounted(door)
        return self.part(name)

    def condition(self, prompt: Prompt) -> Condition:
        if self.tokenizer is None:
            raise UserError(f"{self.name} was built without its tokenizer, which this needs")
        cleaned, against = clean_prompt(prompt.text), clean_prompt(prompt.negative)
        states = recall(
            self._texts, (cleaned, against), lambda new: self._embed(new).cpu().split(1)
        )
        positive, negative = (state.to(self.device) for state in states)
        length = min(len(self.tokenizer(cleaned).input_ids), positive.shape[1])
        words = word_tokens(self.tokenizer, cleaned, prompt.words)
        return Condition(positive, negative, length, tuple(w for w in words if w < length))

    def _embed(self, texts: list[str]) -> Tensor:
        """Text states of cleaned prompts, zero at the padding, which the model attends to all the same: n L d."""
        length = min(TEXT_LENGTH, self.tokenizer.model_max_length)
        for text in texts:
            over = len(self.tokenizer.tokenize(text)) + 1 - length
            if over > 0:
                note(
                    f"{self.name} takes {length} tokens; the last {over} of {text[:40]!r}... are not seen"
                )
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        mask = tokens.attention_mask.to(self.device)
        with self.on("text_encoder"), torch.no_grad():
            encoder = self.part("text_encoder")
            states = encoder(tokens.input_ids.to(self.device), mask).last_hidden_state
        return states * mask[..., None].to(states)

    def encode(self, frames: Iterable[Tensor], eps: Tensor | None = None) -> Tensor:
        """As AutoencoderKLWan.encode(...).latent_dist, normalised, a group of frames at a time, in float32."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        with self.on("vae"):
            source, cache = iter(frames), self._cache(self.vae.encoder)
            moments, count = [], 0
            while group := list(islice(source, self.grid.stride[0] if count else 1)):
                x = torch.stack(group).to(self.device, torch.float32)
                count += len(group)
                self.grid.check(count, *x.shape[-2:])
                x = self._patched(x.transpose(0, 1)[None] * 2 - 1)
                moments.append(self.vae.encoder(x, feat_cache=cache, feat_idx=[0]))
            posterior = DiagonalGaussianDistribution(self.vae.quant_conv(torch.cat(moments, dim=2)))
        z = posterior.mode()
        if eps is not None:
            z = z + posterior.std * eps.transpose(0, 1).to(z)
        mean, std = self._statistics()
        return (z - mean) / std

    def decode(self, z: Tensor) -> Iterator[Tensor]:
        mean, std = self._statistics()
        with self.on("vae"):
            x = self.vae.post_quant_conv(z.to(self.device, torch.float32) * std + mean)
            cache = self._cache(self.vae.decoder)
            for i in range(x.shape[2]):
                frame = x[:, :, i : i + 1]
                y = self.vae.decoder(frame, feat_cache=cache, feat_idx=[0], first_chunk=i == 0)
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
        """Mean and standard deviation of the latent's channels, each 1 c 1 1 1."""
        config = self.vae.config
        values = torch.tensor([config.latents_mean, config.latents_std], device=self.device)
        mean, std = values.view(2, 1, -1, 1, 1, 1)
        return mean, std

    def levels(
        self,
        steps: int,
        shift: float | None = None,
        grid: str = "own",
        shape: Sequence[int] | None = None,
    ) -> list[float]:
        return level_grid(grid, steps, self.shift if shift is None else shift, own="wan").tolist()

    def whole(self, sigma: float) -> float:
        """Timesteps are thousandths; the authors of Wan cut them.

        Their noisiest level is a float32, 1e-8 above 0.999: a level that is a thousandth is never cut to the one below.
        """
        return int(1000 * sigma + ROUNDING) / 1000

    def velocity(
        self,
        z: Tensor,
        sigma: float,
        condition: Condition,
        *,
        branch: str,
        frames: Sequence[int] | None = None,
    ) -> Tensor:
        transformer = self._turn_to(sigma)
        text = condition.half(branch).to(z.device, self.dtype)
        timestep = torch.tensor([1000 * sigma], device=z.device, dtype=torch.float32)
        frames = tuple(range(z.shape[2])) if frames is None else tuple(frames)
        call = Call(branch, frames, z.shape[3:])
        with self.door.calling(call), self.features.calling(call):
            return transformer(z.to(self.dtype), timestep, text, return_dict=False)[0].float()


def load(name: str, model: Model, folder: Path, device: str, dtype: str) -> Wan:
    """Load the parts that lie in a folder."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5EncoderModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # a second of bars for weights that load in a tenth of it
    where = weights.pick_device(device)
    kind = weights.pick_dtype(dtype, where)
    scheduler = weights.config(folder, "scheduler")
    vae, encoder = AutoencoderKLWan, UMT5EncoderModel
    denoisers = ("transformer", spec.SECOND) if name in spec.BOUNDARIES else ("transformer",)
    classes = dict.fromkeys(denoisers, WanTransformer3DModel)
    _parts.check(folder, classes | {"vae": vae, "text_encoder": encoder})
    _agree(folder, denoisers)
    network = partial(_parts.load, WanTransformer3DModel, kind=kind)
    if name in spec.BOUNDARIES:
        waiting = [
            Later(weights.config(folder, part), kind, partial(network, folder / part))
            for part in denoisers
        ]
        denoiser = Experts(*waiting, spec.boundary(name, folder))
    else:
        denoiser = network(folder / "transformer")
    texts = _parts.load(encoder, folder / "text_encoder", kind)
    return Wan(
        denoiser,
        _parts.load(vae, folder / "vae", torch.float32),
        texts,
        _parts.tokenizer(folder, texts.config.vocab_size),
        shift=spec.SHIFTS.get(name) or flow_shift(scheduler),
        model=model,
        name=name,
        device=where,
    )


def _agree(folder: Path, denoisers: Sequence[str]) -> None:
    """Raises ValueError where the parts are of different models."""
    vae, texts = (weights.config(folder, part) for part in ("vae", "text_encoder"))
    for part in denoisers:
        network = weights.config(folder, part)
        _parts.agree(folder, "latent channels", network.get("in_channels"), vae.get("z_dim"))
        _parts.agree(folder, "widths of a text", network.get("text_dim"), texts.get("d_model"))
