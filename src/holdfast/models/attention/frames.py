"""Attention over space that reads other frames: each frame's queries attend to the keys of a choice of frames.

A rule on a layer over space has the frames of a clip in its batch: q, k and v are `(b f) heads N d`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from ...base.lazy import functional, torch
from .hooks import Layer

if TYPE_CHECKING:
    from torch import Tensor

Sources: TypeAlias = Sequence[Sequence[int]]  # of each frame: the frames that it attends to

# How each kind chooses the frames that frame i of `count` attends to. A frame may occur twice: it weighs twice then.
CHOICES: dict[str, Callable[[int, int], list[int]]] = {
    "own": lambda i, count: [i],
    "first": lambda i, count: [0],
    "previous": lambda i, count: [max(i - 1, 0)],
    "first+previous": lambda i, count: [0, max(i - 1, 0)],
    "previous+first": lambda i, count: [max(i - 1, 0), 0],
    "middle": lambda i, count: [count // 2],
    "all": lambda i, count: list(range(count)),
}


def frame_sources(kind: str, count: int) -> list[list[int]]:
    """Return the frames that each of `count` frames attends to. kind: one of CHOICES."""
    return [CHOICES[kind](i, count) for i in range(count)]


def fixed_sources(chosen: Sequence[int], count: int) -> list[list[int]]:
    """Return the same chosen frames for each of `count` frames: key frames, pivots, or any list."""
    return [list(chosen) for _ in range(count)]


def gather_frames(x: Tensor, frames: int, sources: Sources) -> Tensor:
    """Return keys or values `(b f) heads N d` of the frames that each frame attends to, `(b f) heads (n N) d`.

    Each frame attends to the same number n of frames.
    """
    by_frame = x.unflatten(0, (-1, frames))
    index = torch.tensor(sources, device=x.device)  # f n
    chosen = by_frame[:, index]  # b f n heads N d
    return chosen.transpose(2, 3).flatten(3, 4).flatten(0, 1)


def attend_to_frames(layer: Layer, q: Tensor, k: Tensor, v: Tensor, sources: Sources) -> Tensor:
    """Return the output of a layer over space whose frames attend to the keys and values of `sources`."""
    frames, every = len(layer.frames), list(range(len(layer.frames)))
    if all(list(chosen) == every for chosen in sources):
        return _attend_to_all(q, k, v, frames)
    k, v = (gather_frames(x, frames, sources) for x in (k, v))
    return functional.scaled_dot_product_attention(q, k, v)


def _attend_to_all(q: Tensor, k: Tensor, v: Tensor, frames: int) -> Tensor:
    """Attend to all frames at once, without a copy of the keys for each frame."""
    q, k, v = (merge_frames(x, frames) for x in (q, k, v))
    return split_frames(functional.scaled_dot_product_attention(q, k, v), frames)


def merge_frames(x: Tensor, frames: int) -> Tensor:
    """Return `(b f) heads N d` as `b heads (f N) d`."""
    return x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(2, 3)


def split_frames(x: Tensor, frames: int) -> Tensor:
    """Return `b heads (f N) d` as `(b f) heads N d`."""
    return x.unflatten(2, (frames, -1)).transpose(1, 2).flatten(0, 1)
