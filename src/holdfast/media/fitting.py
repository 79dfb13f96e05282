"""An invertible plan between the clip that came and a clip that the model takes: its size and its length."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ..base.errors import UserError
from .clip_format import ClipFormat


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
        sent = 0
        for frame in frames:
            last = resize(frame[None], self.model_size)[0]
            yield last
            sent += 1
        for _ in range(sent, self.model_frames):
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
    resized = functional.interpolate(frames, size, mode="bicubic", antialias=True)
    return resized.clamp(0, 1)


def choose_fit(grid: ClipFormat, frames: int, size: tuple[int, int]) -> Fit:
    """Choose the legal size of about the model's own area that distorts least, and the next legal length."""
    if frames < 1:
        raise UserError("the clip has no frames")
    model_frames = grid.round_up_frames(frames)
    model_size = size if _legal(grid, size) else _nearest(grid, size)
    reasons = [_reason_of_size(grid, size, model_size)]
    if model_frames != frames:
        reasons.append(f"{frames} frames padded to {model_frames} ({grid.length_rule}) and trimmed back")
    return Fit(frames, size, model_frames, model_size, "; ".join(reasons))


def _legal(grid: ClipFormat, size: tuple[int, int]) -> bool:
    """A size is kept if its sides are whole multiples and it is within a tenth of the area the model was trained at."""
    whole = all(side % step == 0 for side, step in zip(size, grid.size_multiple, strict=True))
    return whole and 0.9 <= size[0] * size[1] / grid.train_pixels <= 1.1


def _nearest(grid: ClipFormat, size: tuple[int, int]) -> tuple[int, int]:
    """The legal size of least cost, of those with about the clip's aspect."""
    step = grid.size_multiple[0]
    ideal = _ideal_height(grid, size) / step
    lowest = max(1, math.floor(ideal) - 1)
    highest = math.ceil(ideal) + 1
    sizes = [_widened(grid, size, rows * step) for rows in range(lowest, highest + 1)]
    return min(sizes, key=lambda model_size: _cost(grid, size, model_size))


def _ideal_height(grid: ClipFormat, size: tuple[int, int]) -> float:
    """Pixels at the model's area and the clip's aspect; a ribbon is squeezed, or it would cost many times the area."""
    height, width = size
    at_aspect = math.sqrt(grid.train_pixels * height / width)
    tallest = grid.train_pixels / grid.size_multiple[1]
    return min(at_aspect, tallest)


def _widened(grid: ClipFormat, size: tuple[int, int], model_height: int) -> tuple[int, int]:
    """A height with the legal width that is nearest to the clip's aspect and not far above the model's area."""
    height, width = size
    step = grid.size_multiple[1]
    at_aspect = model_height * width / height / step
    widest = 1.3 * grid.train_pixels / (model_height * step)
    columns = max(1, round(min(at_aspect, widest)))
    return model_height, columns * step


def _cost(grid: ClipFormat, size: tuple[int, int], model_size: tuple[int, int]) -> float:
    """How far the aspect is stretched, and, for less, how far the area is from the model's own."""
    height, width = size
    model_height, model_width = model_size
    stretch = abs(math.log(model_width * height / (model_height * width)))
    growth = abs(math.log(model_height * model_width / grid.train_pixels))
    return stretch + 0.3 * growth


def _reason_of_size(grid: ClipFormat, size: tuple[int, int], model_size: tuple[int, int]) -> str:
    height, width = size
    if model_size == size:
        return f"{width}x{height} fits the model"
    model_height, model_width = model_size
    stretch = (model_width / model_height) / (width / height) - 1
    return (
        f"{width}x{height} runs at {model_width}x{model_height} "
        f"(sides of {grid.size_multiple[1]}x{grid.size_multiple[0]} tokens, about {grid.train_pixels} pixels; "
        f"stretched {stretch:+.1%}) and comes back at its own size"
    )
