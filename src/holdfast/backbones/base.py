"""What a backbone is: a conditioned velocity field over video latents, with its encoder and decoder."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..attention import Door


@dataclass(frozen=True)
class Grid:
    """The clips that a model takes. A legal clip has `stride[0] * n + 1` frames and sides that hold whole tokens."""

    stride: tuple[int, int, int]  # pixels per latent cell: time, height, width
    patch: tuple[int, int, int]  # latent cells per token
    rate: float  # frames per second it was trained at
    area: int  # pixels per frame it was trained at
    frames: int  # the longest clip it was trained on
    most_frames: int  # the longest that its position codes reach

    @property
    def cell(self) -> tuple[int, int]:
        """Pixels per token, height and width: what a side must be a multiple of."""
        return self.stride[1] * self.patch[1], self.stride[2] * self.patch[2]

    def legal_frames(self, count: int) -> int:
        """The smallest legal frame count that is not below `count`."""
        group = self.stride[0]
        return -(-(count - 1) // group) * group + 1

    def check(self, frames: int, height: int, width: int) -> None:
        if self.legal_frames(frames) != frames:
            near = self.legal_frames(frames)
            raise ValueError(f"{frames} frames do not fit this model (needs {self.stride[0]}n+1): use {near - self.stride[0]} or {near}")
        for side, name, cell in zip((height, width), ("height", "width"), self.cell, strict=True):
            if side % cell or not side:
                raise ValueError(f"{name} {side} does not fit this model: it needs a multiple of {cell}")

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        return (frames - 1) // self.stride[0] + 1, height // self.stride[1], width // self.stride[2]


@dataclass(frozen=True)
class Condition:
    """What steers the field: text states for the prompt and for the negative prompt, each 1 L d.

    length: how many of the L are tokens and not padding; words: positions of the tokens of the words that drive the edit.
    """

    positive: Tensor
    negative: Tensor
    length: int = 0
    words: tuple[int, ...] = ()


@dataclass(frozen=True)
class Model:
    """A backbone by name: where its weights are and what they were trained on."""

    weights: str  # hub id, or the name of an embedded checkpoint
    gigabytes: float  # size of the download, about; 0 where the weights come with the package
    rate: float
    area: int
    frames: int
    prefers: Mapping[str, float] = field(default_factory=dict)  # method settings that suit it, where the user gives none


class Backbone(ABC):
    """A conditioned velocity field over video latents, with its encoder and decoder."""

    name: str
    grid: Grid
    carries: frozenset[str]
    prefers: Mapping[str, float]
    device: torch.device
    dtype: torch.dtype  # of the denoiser; latents are float32 everywhere else
    door: Door | None  # to its attention; None where `carries` names no attention

    @abstractmethod
    def condition(self, text: str = "", negative: str = "", words: Sequence[int] = ()) -> Condition:
        """Encode a prompt and a negative prompt. words: indices of the prompt's words (between spaces) that drive the edit."""

    @abstractmethod
    def encode(self, frames: Iterable[Tensor]) -> Tensor:
        """Frames `3 H W` in [0, 1], in order (a tensor `f 3 H W` is such an iterable), to a latent `1 c f h w`."""

    @abstractmethod
    def decode(self, z: Tensor) -> Iterator[Tensor]:
        """A latent to frames `f 3 H W` in [0, 1], a chunk at a time, in order."""

    @abstractmethod
    def levels(self, steps: int, shift: float | None = None) -> list[float]:
        """`steps + 1` noise levels from noisy to 0. shift: the grid's shift, None for the model's own."""

    @abstractmethod
    def velocity(self, z: Tensor, sigma: float, condition: Condition, *, branch: str) -> Tensor:
        """The velocity `noise - clean` at `z`, level sigma. branch: "src+", "src-", "tgt+" or "tgt-" (- is the negative)."""
