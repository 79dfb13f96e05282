"""Fit a clip to a model: choose the size and length that the model takes, and convert to them and back."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..base.errors import UserError
from .clip_format import ClipFormat

if TYPE_CHECKING:
    from torch import Tensor

AREA_TOLERANCE = 0.1  # a legal size this close to the trained area is kept
MAX_AREA_FACTOR = 1.3  # of the trained area, for clips that are much wider than high
AREA_WEIGHT = 0.3  # of a change of area against a change of aspect ratio, both in log units


@dataclass(frozen=True)
class Fit:
    """The clip's size and length, and the model's. Sizes are (height, width); `reason` explains the model's."""

    frames: int
    size: tuple[int, int]
    model_frames: int
    model_size: tuple[int, int]
    reason: str

    def to_model(self, frames: "Iterable[Tensor]") -> "Iterator[Tensor]":
        """Yield source frames 3 H W at the model's size. The last one is repeated up to the model's length."""
        count, resized = 0, None
        for frame in frames:
            resized = resize(frame[None], self.model_size)[0]
            yield resized
            count += 1
        if resized is not None:
            for _ in range(count, self.model_frames):
                yield resized

    def to_clip(self, chunks: "Iterable[Tensor]") -> "Iterator[Tensor]":
        """Yield the frames of decoded chunks f 3 h w at the source's size, 3 H W, without the repeated ones."""
        remaining = self.frames
        for chunk in chunks:
            for frame in chunk[:remaining]:
                yield resize(frame[None], self.size)[0]
            remaining -= min(remaining, len(chunk))


def resize(frames: "Tensor", size: tuple[int, int]) -> "Tensor":
    """Resize n 3 H W in [0, 1] to (height, width), bicubic and antialiased. Frames of that size are returned as is."""
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    from torch.nn import functional

    resized = functional.interpolate(frames, size, mode="bicubic", antialias=True)
    return resized.clamp(0, 1)


def choose_fit(clip_format: ClipFormat, frames: int, size: tuple[int, int]) -> Fit:
    """Choose the legal size of about the trained area with the least distortion, and the next legal length."""
    if frames < 1:
        raise UserError("the clip has no frames")
    model_frames = clip_format.round_up_frames(frames)
    model_size = size if _is_suitable(clip_format, size) else _nearest_size(clip_format, size)
    reasons = [_explain_size(clip_format, size, model_size)]
    if model_frames != frames:
        reasons.append(
            f"{frames} frames padded to {model_frames} ({clip_format.length_rule}) and trimmed back"
        )
    return Fit(frames, size, model_frames, model_size, "; ".join(reasons))


def _is_suitable(clip_format: ClipFormat, size: tuple[int, int]) -> bool:
    """Return whether the sides are legal multiples and the area is close to the trained area, if there is one."""
    multiples = zip(size, clip_format.size_multiple, strict=True)
    is_legal = all(side % multiple == 0 for side, multiple in multiples)
    if not clip_format.train_pixels:
        return is_legal
    area = size[0] * size[1] / clip_format.train_pixels
    return is_legal and 1 - AREA_TOLERANCE <= area <= 1 + AREA_TOLERANCE


def _nearest_size(clip_format: ClipFormat, size: tuple[int, int]) -> tuple[int, int]:
    """Return the legal size of least cost, among those with about the clip's aspect ratio."""
    multiple = clip_format.size_multiple[0]
    ideal = _ideal_height(clip_format, size) / multiple
    lowest = max(1, math.floor(ideal) - 1)
    highest = math.ceil(ideal) + 1
    sizes = [_add_width(clip_format, size, rows * multiple) for rows in range(lowest, highest + 1)]
    return min(sizes, key=lambda model_size: _cost(clip_format, size, model_size))


def _ideal_height(clip_format: ClipFormat, size: tuple[int, int]) -> float:
    """Return the height at the trained area and the clip's aspect ratio, in pixels.

    It is limited, so that a very narrow clip is squeezed instead of costing many times the trained area.
    """
    height, width = size
    at_aspect = math.sqrt(clip_format.train_pixels * height / width)
    tallest = clip_format.train_pixels / clip_format.size_multiple[1]
    return min(at_aspect, tallest)


def _add_width(
    clip_format: ClipFormat, size: tuple[int, int], model_height: int
) -> tuple[int, int]:
    """Return a height with the legal width nearest to the clip's aspect ratio, not far above the trained area."""
    height, width = size
    multiple = clip_format.size_multiple[1]
    at_aspect = model_height * width / height / multiple
    widest = MAX_AREA_FACTOR * clip_format.train_pixels / (model_height * multiple)
    columns = max(1, round(min(at_aspect, widest)))
    return model_height, columns * multiple


def _cost(clip_format: ClipFormat, size: tuple[int, int], model_size: tuple[int, int]) -> float:
    """Return the change of aspect ratio plus AREA_WEIGHT times the change of area, in log units."""
    height, width = size
    model_height, model_width = model_size
    stretch = abs(math.log(model_width * height / (model_height * width)))
    growth = abs(math.log(model_height * model_width / clip_format.train_pixels))
    return stretch + AREA_WEIGHT * growth


def _explain_size(
    clip_format: ClipFormat, size: tuple[int, int], model_size: tuple[int, int]
) -> str:
    height, width = size
    if model_size == size:
        return f"{width}x{height} fits the model"
    model_height, model_width = model_size
    stretch = (model_width / model_height) / (width / height) - 1
    return (
        f"{width}x{height} runs at {model_width}x{model_height} "
        f"(multiples of {clip_format.size_multiple[1]}x{clip_format.size_multiple[0]} pixels, about "
        f"{clip_format.train_pixels} pixels in all; stretched {stretch:+.1%}) and is returned at its own size"
    )
