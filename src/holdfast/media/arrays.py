"""Clips, masks and images that are in memory: numpy arrays, PIL images and torch tensors, to frames and from frames.

Arrays have their colours last (`f H W 3`), tensors before rows and columns (`f 3 H W`). In files they lie without loss,
under a name that says what they hold, so that the same frames are the same file to whoever looks at it.
"""

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from ..base.notices import note
from . import images, video
from .mask_channels import choose_channel

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

CLIP = "a path, an array f H W 3, a tensor f 3 H W, or a list of PIL images, arrays or tensors"
MASK = "a path, the text x,y,w,h or auto, or one image or f of them: arrays, tensors or PIL images"
IMAGE = "a path, a PIL image, an array H W 3 or a tensor 3 H W"
ROUNDED = 0.01  # of a level: by how much floats may lie between two of them in silence


def to_frames(value: Any, name: str = "the clip") -> ndarray:
    """A clip as integers f H W 3. Floats become eight bits. Raises ValueError, with the cure, for what is none."""
    if isinstance(value, (list, tuple)):
        return _together([to_image(one, f"frame {i} of {name}") for i, one in enumerate(value)], name)
    return _levels(_colours_last(value, name, CLIP, 4), name)


def to_image(value: Any, name: str = "the image") -> ndarray:
    """One frame as integers H W 3, likewise."""
    if _is_picture(value):
        return _picture(value, name)
    return _levels(_colours_last(value, name, IMAGE, 3), name)


def to_mask(value: Any, name: str = "the mask") -> ndarray:
    """Where an edit may show, boolean f H W: of one image for all frames f is 1. Values above half are inside; integers
    that are 0 and 1 alone are that.
    """
    if isinstance(value, (list, tuple)):
        parts = [to_mask(one, f"image {i} of {name}") for i, one in enumerate(value)]
        return _together([part[0] for part in parts], name)
    if _is_picture(value):
        return _inside(_shape_of_picture(value, name)[None], name)
    array = _numbers(value, name, MASK)
    channel = -3 if _is_tensor(value) else -1
    if array.ndim == 4 and array.shape[channel] == 1:
        array = array.squeeze(channel)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise UserError(f"{name} is H W or f H W, not {_sides(array)}")
    return _inside(array if array.ndim == 3 else array[None], name)


def _shape_of_picture(given: "Image.Image", what: str) -> ndarray:
    """The values H W of a picture's layer that has a mask's shape."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(given)
    if not upright.has_transparency_data:
        return images.to_rgb(upright).max(2)
    array = np.asarray(upright.convert("RGBA"))
    pair = array[..., :3], array[..., 3]
    layer = choose_channel(
        [pair], what, "auto", "give one layer of it, such as image.getchannel('A')"
    )
    return pair[1] if layer.is_alpha else pair[0].max(2)


def _together(parts: list[ndarray], what: str) -> ndarray:
    if not parts:
        raise UserError(f"{what} is an empty list")
    for i, part in enumerate(parts):
        if (part.shape, part.dtype) != (parts[0].shape, parts[0].dtype):
            kinds = [f"{one.shape[1]}x{one.shape[0]} in {one.dtype}" for one in (part, parts[0])]
            raise UserError(f"{what} changes: frame {i} is {kinds[0]}, the first one {kinds[1]}")
    return np.stack(parts)


def _is_tensor(given: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    return torch is not None and isinstance(given, torch.Tensor)


def _is_picture(given: Any) -> bool:
    from PIL import Image

    return isinstance(given, Image.Image)


def _picture(given: "Image.Image", what: str) -> ndarray:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(given)
    if upright.has_transparency_data and upright.convert("RGBA").getextrema()[3][0] < 255:
        raise UserError(f'{what} is seen through; image.convert("RGB") leaves that out')
    return images.to_rgb(upright)


def _numbers(given: Any, what: str, takes: str) -> ndarray:
    """An array or a tensor as an array, its axes as they are."""
    if isinstance(given, ndarray):
        return given
    if not _is_tensor(given):
        raise UserError(f"{what} is {takes}, not {_kind(given)}")
    plain = given.detach().cpu()
    return (plain.float() if plain.is_floating_point() else plain).numpy()


def _kind(given: Any) -> str:
    kind = type(given)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _sides(given: Any) -> str:
    return "x".join(map(str, given.shape)) or "a single number"


def _colours_last(given: Any, what: str, takes: str, axes: int) -> ndarray:
    """f H W 3 (of 4 axes) or H W 3 (of 3)."""
    array = _numbers(given, what, takes)
    channel = -3 if _is_tensor(given) else -1
    if array.ndim == axes and array.shape[channel] == 3:
        if not array.size:
            raise UserError(f"{what} is empty: {_sides(array)}")
        return np.moveaxis(array, channel, -1)
    kind, form = ("a tensor", "3 H W") if channel == -3 else ("an array", "H W 3")
    form = f"f {form}" if axes == 4 else form
    cure = _cure(array.shape, channel, axes)
    raise UserError(f"{what} in {kind} is {form}, not {_sides(array)}{cure and f'; try {cure}'}")


def _cure(shape: Sequence[int], channel: int, axes: int) -> str:
    """What brings a wrong shape right, for `x`; empty where nobody knows."""
    tensor, more = channel == -3, (0,) * (axes - 3)
    turn, repeat = (".permute", ".repeat_interleave") if tensor else (".transpose", ".repeat")
    if len(shape) == axes + 1:
        return "x[0], if the first axis is a batch of one" if shape[0] == 1 else ""
    if len(shape) == axes - 1:
        alone = axes == 4 and shape[channel] == 3
        grey = f"x[..., None, :, :]{repeat}(3, -3)" if tensor else f"x[..., None]{repeat}(3, -1)"
        return "x[None], if this is one frame" if alone else f"{grey}, if this is grey"
    if len(shape) != axes:
        return ""
    if shape[-4 - channel] == 3:
        order = (2, 0, 1) if tensor else (1, 2, 0)
        return f"x{turn}({', '.join(map(str, (*more, *(n + len(more) for n in order))))})"
    if shape[channel] == 4:
        return "x[..., :3, :, :]" if tensor else "x[..., :3]"
    return f"x{repeat}(3, {channel})" if shape[channel] == 1 else ""


def _levels(array: ndarray, what: str) -> ndarray:
    """Pixels as uint8 or uint16."""
    if array.dtype in (np.uint8, np.uint16):
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"{what} holds {array.dtype}; pixels are uint8, uint16 or floats in [0, 1]: "
            "try x.astype(np.uint8), or of a tensor x.to(torch.uint8)"
        )
    scaled = array * np.float32(255)
    levels = np.rint(scaled)
    if not ((levels >= 0) & (levels <= 255)).all():  # nor numbers that are none
        raise UserError(
            f"{what} holds floats from {array.min():g} to {array.max():g}, and those of pixels are "
            "in [0, 1]: divide them by their range, or give uint8"
        )
    if np.abs(scaled - levels).max() > ROUNDED:
        note(f"{what} was rounded from floats to eight bits; give uint16 to keep more")
    return levels.astype(np.uint8)


def _inside(array: ndarray, what: str) -> ndarray:
    if array.dtype == bool:
        return array
    low, high = array.min(), array.max()
    whole = np.issubdtype(array.dtype, np.integer)
    peak = np.iinfo(array.dtype).max if array.dtype in (np.uint8, np.uint16) else 1
    if not (low >= 0 and high <= peak):
        raise UserError(
            f"{what} holds {array.dtype} from {low:g} to {high:g}; a mask is boolean, floats in [0, 1], "
            "or integers 0 and 1 or of eight bits"
        )
    return array > 0 if whole and high <= 1 else array > peak / 2


def write_clip(folder: Path, name: str, clip: ndarray, rate: Fraction) -> Path:
    """Integers f H W 3 as a video without loss."""
    path = folder / f"{name}-{_digest(clip)}.mkv"
    video.write_frames(path, clip, rate, "ffv1")
    return _ageless(path)


def write_mask(folder: Path, name: str, inside: ndarray) -> Path:
    """Boolean f H W as a video, or as an image where f is 1."""
    bright = np.repeat(inside[..., None].astype(np.uint8) * 255, 3, axis=-1)
    if len(bright) == 1:
        return write_image(folder, name, bright[0])
    return write_clip(folder, name, bright, Fraction(1))


def write_image(folder: Path, name: str, frame: ndarray) -> Path:
    """Integers H W 3 as a PNG of eight bits."""
    path = folder / f"{name}-{_digest(frame)}.png"
    video.write_frames(path, frame[None], 1)
    return _ageless(path)


def _digest(array: ndarray) -> str:
    found = hashlib.blake2b(f"{array.dtype} {_sides(array)}".encode(), digest_size=8)
    found.update(np.ascontiguousarray(array))
    return found.hexdigest()


def _ageless(path: Path) -> Path:
    """A saved run is known by its files' names, sizes and times (EditTask.key), and these are made anew each time."""
    os.utime(path, (0, 0))
    return path


def to_array(made: Iterable[ndarray]) -> ndarray:
    """Frames H W 3 as one array f H W 3."""
    return np.stack(list(made))


def to_pil(made: Iterable[ndarray]) -> "list[Image.Image]":
    """Frames as PIL images, which have eight bits."""
    from PIL import Image

    return [Image.fromarray(images.to_8_bit(frame)) for frame in made]


def to_tensor(made: Iterable[ndarray]) -> "Tensor":
    """Frames as one tensor f 3 H W, float32 in [0, 1]."""
    import torch

    return torch.stack([images.to_tensor(frame) for frame in made])
