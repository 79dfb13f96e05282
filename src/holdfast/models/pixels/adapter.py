"""A backbone without a model: encoding stacks the frames of a clip, and decoding takes them apart again."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from ...base.errors import UserError
from ...media.clip_format import ClipFormat
from ...sampling.field import Branch
from ..base import Backbone, Conditioning, Prompt
from ..spec import BackboneSpec

DECODED_FRAMES = 8  # per chunk


class PixelBackbone(Backbone):
    """Frames in place of latents: z is 1 3 f H W in [0, 1]. It predicts no velocity, and reads no text."""

    device, dtype = torch.device("cpu"), torch.float32
    attention_hooks = feature_hooks = None
    stage_parts = dict.fromkeys(("encode", "condition", "denoise", "decode"), ())

    def __init__(self, name: str, spec: BackboneSpec, clip_format: ClipFormat):
        self.name, self.clip_format = name, clip_format
        self.capabilities, self.recommended = spec.capabilities, spec.recommended
        self.parts = {}

    def condition(self, prompt: Prompt) -> Conditioning:
        """Return the prompt's image."""
        return Conditioning(prompt.image, None)

    def encode(self, frames: Iterable[Tensor], eps: Tensor | None = None) -> Tensor:
        """Return the frames as a latent; eps has no effect, because frames have no posterior."""
        return torch.stack([frame.float() for frame in frames], 1)[None]

    def decode(self, z: Tensor) -> Iterator[Tensor]:
        for part in z[0].transpose(0, 1).split(DECODED_FRAMES):
            yield part.clamp(0, 1)

    def sigmas(
        self,
        steps: int,
        shift: float | None = None,
        schedule: str = "native",
        shape: Sequence[int] | None = None,
    ) -> list[float]:
        self._refuse()

    def snap_timestep(self, sigma: float) -> float:
        self._refuse()

    def velocity(
        self,
        z: Tensor,
        sigma: float,
        conditioning: Conditioning,
        *,
        branch: Branch,
        frames: Sequence[int] | None = None,
    ) -> Tensor:
        self._refuse()

    def _refuse(self) -> NoReturn:
        """Raise UserError: `MethodInfo.missing` keeps methods away that need a velocity."""
        raise UserError(f"{self.name} has no model, and predicts no velocity")
