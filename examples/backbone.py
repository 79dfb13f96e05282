"""Add a backbone from outside the package, and edit a clip with it: `python examples/backbone.py`. It takes seconds.

The model is a toy that is known exactly, so it needs no weights: its latents are pixels, and every pixel of a clip is
Gaussian around the colour that the prompt names. A real adapter has the same five methods over diffusers parts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import holdfast
from holdfast.media.clip_format import ClipFormat
from holdfast.models import registry
from holdfast.models.base import Backbone, Conditioning, Prompt
from holdfast.models.checkpoint import Checkpoint
from holdfast.models.family import Family
from holdfast.models.spec import BackboneSpec
from holdfast.sampling.field import Branch

NAME = "toy-colours"
COLOURS = {"red": (0.8, 0.1, 0.1), "green": (0.1, 0.7, 0.1), "blue": (0.1, 0.1, 0.8)}
GREY = (0.5, 0.5, 0.5)
STD = 0.2  # of the clips' pixels around their colour

# What is known before anything is loaded: `holdfast list` and the plan of an edit read it.
SPEC = BackboneSpec(
    weights=NAME,
    download_gb=0,
    fps=8,
    train_pixels=64 * 64,
    train_frames=16,
    capabilities=frozenset({"text"}),  # no attention or feature hooks
    recommended={"steps": 10, "source_guidance": 1.0, "target_guidance": 1.0},
)
CLIP_FORMAT = ClipFormat(
    stride=(1, 1, 1),
    patch=(1, 1, 1),
    fps=SPEC.fps,
    train_pixels=SPEC.train_pixels,
    train_frames=SPEC.train_frames,
    max_frames=10**6,
)


class ToyColours(Backbone):
    """The adapter: a velocity field in closed form, with an encoder and a decoder that change nothing."""

    name, clip_format, capabilities = NAME, CLIP_FORMAT, SPEC.capabilities
    recommended = SPEC.recommended
    device, dtype = torch.device("cpu"), torch.float32
    attention_hooks = feature_hooks = None

    def __init__(self):
        self.parts = {}

    def condition(self, prompt: Prompt) -> Conditioning:
        """Return the mean colour of each prompt, 1 3 1 1 1. Only this class reads it."""
        return Conditioning(_mean_colour(prompt.text), _mean_colour(prompt.negative))

    def encode(self, frames: Iterable[Tensor], eps: Tensor | None = None) -> Tensor:
        return torch.stack(list(frames), 1)[None]

    def decode(self, z: Tensor) -> Iterator[Tensor]:
        for frame in z[0].transpose(0, 1):
            yield frame[None].clamp(0, 1)

    def sigmas(
        self,
        steps: int,
        shift: float | None = None,
        schedule: str = "native",
        shape: Sequence[int] | None = None,
    ) -> list[float]:
        """Return evenly spaced noise levels from 1 to 0, moved towards noise by the shift."""
        shift = 1.0 if shift is None else shift
        even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return (shift * even / (1 + (shift - 1) * even)).tolist()

    def snap_timestep(self, sigma: float) -> float:
        """Return sigma: this model's time is continuous."""
        return sigma

    def velocity(
        self,
        z: Tensor,
        sigma: float,
        conditioning: Conditioning,
        *,
        branch: Branch,
        frames: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the expected `noise - clean` at `z = (1 - sigma) clean + sigma noise`.

        Clean pixels are Gaussian with mean m and standard deviation STD, so z is Gaussian too, and both expectations
        are linear in z.
        """
        mean = conditioning.for_branch(branch).to(z)
        variance = (1 - sigma) ** 2 * STD**2 + sigma**2
        residual = (z - (1 - sigma) * mean) / variance
        noise, clean = sigma * residual, mean + (1 - sigma) * STD**2 * residual
        return noise - clean


def _mean_colour(text: str) -> Tensor:
    known = [COLOURS[word] for word in text.split() if word in COLOURS]
    return torch.tensor(known[0] if known else GREY).view(1, 3, 1, 1, 1)


class ToyFamily(Family):
    """The family: it finds weights and loads backbones. This one has no files.

    `models.family.DiffusersFamily` does this for models that come as diffusers folders.
    """

    specs: Mapping[str, BackboneSpec] = {NAME: SPEC}

    def find(self, name: str, weights: str | None = None) -> Checkpoint:
        return Checkpoint(Path(__file__).parent)

    def locate(self, name: str, weights: str | None = None) -> Checkpoint | None:
        return None  # no files to identify in the manifest

    def clip_format(self, name: str, checkpoint: Checkpoint) -> ClipFormat:
        return CLIP_FORMAT

    def load(self, name: str, checkpoint: Checkpoint, device: str, dtype: str) -> Backbone:
        return ToyColours()


# An installed package names this object under the entry point group `holdfast.backbones`, and the command line finds
# it. A script registers it.
FAMILY = ToyFamily()


def main() -> None:
    registry.register(FAMILY)
    noise = np.random.default_rng(0).normal(0, 20, (9, 64, 64, 3))
    clip = (np.array(COLOURS["blue"]) * 255 + noise).clip(0, 255).astype(np.uint8)
    mask = np.zeros(clip.shape[:3], bool)
    mask[:, 16:48, 16:48] = True
    result = holdfast.edit(
        clip, "a blue wall", "a red wall", backbone=NAME, mask=mask, rate=8, progress=None
    )
    edited = result.array()
    print(f"inside the mask, mean colour: {edited[mask].mean(0).round()}")
    print(f"outside the mask: {(edited == clip)[~mask].mean():.0%} of the values are the source's")


if __name__ == "__main__":
    main()
