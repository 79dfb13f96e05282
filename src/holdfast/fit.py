"""An invertible plan between the clip that came and a clip that the model takes: its size and its length."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from .backbones.base import Grid


@dataclass(frozen=True)
class Fit:
    """Sizes are (height, width). `reason` says why the model's size and length are what they are."""

    frames: int
    size: tuple[int, int]
    model_frames: int
    model_size: tuple[int, int]
    reason: str

    def forward(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Source frames 3 H W to the model's size, the last one repeated to the model's length."""
        last = None
        for count, frame in enumerate(frames, 1):  # noqa: B007
            last = resize(frame[None], self.model_size)[0]
            yield last
        for _ in range(self.model_frames - (count if last is not None else 0)):
            yield last

    def back(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decoded chunks f 3 h w to single frames 3 H W of the source's size, the repeated ones dropped."""
        left = self.frames
        for chunk in chunks:
            for frame in chunk[:left]:
                yield resize(frame[None], self.size)[0]
            left -= min(left, len(chunk))


def resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """n 3 H W in [0, 1] to another size: cubic, averaging where it shrinks. Frames of that size pass untouched."""
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    return functional.interpolate(frames, size, mode="bicubic", antialias=True).clamp(0, 1)


def plan(grid: Grid, frames: int, size: tuple[int, int]) -> Fit:
    """Choose the legal size of about the model's own area that distorts least, and the next legal length."""
    if frames < 1:
        raise ValueError("the clip has no frames")
    model_frames = grid.legal_frames(frames)
    model_size = size if _legal(grid, size) else _nearest(grid, size)
    return Fit(frames, size, model_frames, model_size, _reason(grid, frames, size, model_frames, model_size))


def _legal(grid: Grid, size: tuple[int, int]) -> bool:
    """A size is kept if it is made of whole tokens and within a tenth of the area the model was trained at."""
    whole = all(s % c == 0 for s, c in zip(size, grid.cell, strict=True))
    return whole and 0.9 <= size[0] * size[1] / grid.area <= 1.1


def _nearest(grid: Grid, size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    cell_h, cell_w = grid.cell
    # Rows of tokens at the model's area and the clip's aspect; a ribbon is squeezed, or it would cost many times the area.
    ideal = min(math.sqrt(grid.area * height / width), grid.area / cell_w) / cell_h
    best = None
    for rows in range(max(1, math.floor(ideal) - 1), math.ceil(ideal) + 2):
        widest = 1.3 * grid.area / (rows * cell_h * cell_w)
        columns = max(1, round(min(rows * cell_h * width / height / cell_w, widest)))
        h, w = rows * cell_h, columns * cell_w
        cost = abs(math.log(w * height / (h * width))) + 0.3 * abs(math.log(h * w / grid.area))
        if best is None or cost < best[0]:
            best = (cost, (h, w))
    return best[1]


def _reason(grid: Grid, frames: int, size: tuple, model_frames: int, model_size: tuple) -> str:
    parts = []
    if model_size == size:
        parts.append(f"{size[1]}x{size[0]} fits the model")
    else:
        stretch = (model_size[1] / model_size[0]) / (size[1] / size[0]) - 1
        parts.append(
            f"{size[1]}x{size[0]} runs at {model_size[1]}x{model_size[0]} (sides of {grid.cell[1]}x{grid.cell[0]} tokens, "
            f"about {grid.area} pixels; stretched {stretch:+.1%}) and comes back at its own size"
        )
    if model_frames != frames:
        parts.append(f"{frames} frames padded to {model_frames} ({grid.stride[0]}n+1) and trimmed back")
    return "; ".join(parts)
