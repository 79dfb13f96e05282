"""Convert clips, masks and images in memory: numpy arrays, PIL images and torch tensors, to frames and from frames.

Arrays have their channels last (`f H W 3`), tensors before rows and columns (`f 3 H W`). In files they are stored
lossless, under a name made from their content, so that equal frames make equal files.
"""

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from ..base.notices import warn_user
from . import images, video
from .mask_channels import choose_channel

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

CLIP_FORMS = (
    "a path, an array f H W 3, a tensor f 3 H W, or a list of PIL images, arrays or tensors"
)
MASK_FORMS = (
    "a path, the text x,y,w,h or auto, or one image or f of them: arrays, tensors or PIL images"
)
IMAGE_FORMS = "a path, a PIL image, an array H W 3 or a tensor 3 H W"
ROUNDING_TOLERANCE = 0.01  # of an eight-bit step: a float may be this far from one without a notice


def to_frames(value: object, name: str = "the clip") -> ndarray:
    """Convert a clip to integers f H W 3. Floats become eight bits.

    name: of the value, in messages. Raise UserError, with what to do, if the value is no clip.
    """
    if isinstance(value, (list, tuple)):
        return _stack([to_image(one, f"frame {i} of {name}") for i, one in enumerate(value)], name)
    return _to_integers(_channels_last(value, name, CLIP_FORMS, 4), name)


def to_image(value: object, name: str = "the image") -> ndarray:
    """Convert one frame to integers H W 3. Floats become eight bits. Raise UserError if the value is no image."""
    if _is_pil_image(value):
        return _opaque_rgb(value, name)
    return _to_integers(_channels_last(value, name, IMAGE_FORMS, 3), name)


def to_mask(value: object, name: str = "the mask") -> ndarray:
    """Convert a mask to boolean f H W; f is 1 if one image serves all frames.

    Values above half are inside. Integers that are only 0 and 1 are labels: 1 is inside.
    """
    if isinstance(value, (list, tuple)):
        parts = [to_mask(one, f"image {i} of {name}") for i, one in enumerate(value)]
        return _stack([part[0] for part in parts], name)
    if _is_pil_image(value):
        return _threshold(_mask_values(value, name)[None], name)
    array = _to_array(value, name, MASK_FORMS)
    channel = -3 if _is_tensor(value) else -1
    if array.ndim == 4 and array.shape[channel] == 1:
        array = array.squeeze(channel)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise UserError(f"{name} is {_shape_text(array.shape)}", "give H W or f H W")
    return _threshold(array if array.ndim == 3 else array[None], name)


def _mask_values(value: "Image.Image", name: str) -> ndarray:
    """Return the values H W of the channel of a picture that holds a mask's shape."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(value)
    if not upright.has_transparency_data:
        return images.to_rgb(upright).max(2)
    array = np.asarray(upright.convert("RGBA"))
    picture = array[..., :3], array[..., 3]
    remedy = "give one channel of it, such as image.getchannel('A')"
    channel = choose_channel([picture], name, "auto", remedy)
    return picture[1] if channel.is_alpha else picture[0].max(2)


def _stack(parts: list[ndarray], name: str) -> ndarray:
    if not parts:
        raise UserError(f"{name} is an empty list")
    for i, part in enumerate(parts):
        if (part.shape, part.dtype) != (parts[0].shape, parts[0].dtype):
            kinds = [f"{one.shape[1]}x{one.shape[0]} in {one.dtype}" for one in (part, parts[0])]
            raise UserError(
                f"frame {i} of {name} is {kinds[0]}, the first one {kinds[1]}",
                "give frames of one size and type",
            )
    return np.stack(parts)


def _is_tensor(value: object) -> "TypeGuard[Tensor]":
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    return torch is not None and isinstance(value, torch.Tensor)


def _is_pil_image(value: object) -> "TypeGuard[Image.Image]":
    from PIL import Image

    return isinstance(value, Image.Image)


def _opaque_rgb(value: "Image.Image", name: str) -> ndarray:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(value)
    if upright.has_transparency_data and np.asarray(upright.convert("RGBA"))[..., 3].min() < 255:
        raise UserError(f"{name} has transparency", 'remove it with image.convert("RGB")')
    return images.to_rgb(upright)


def _to_array(value: object, name: str, forms: str) -> ndarray:
    """Return an array or a tensor as an array, with its axes unchanged."""
    if isinstance(value, ndarray):
        return value
    if not _is_tensor(value):
        raise UserError(f"{name} is {_type_name(value)}", f"give {forms}")
    plain = value.detach().cpu()
    return (plain.float() if plain.is_floating_point() else plain).numpy()


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _shape_text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a single number"


def _channels_last(value: object, name: str, forms: str, axes: int) -> ndarray:
    """Return f H W 3 (of 4 axes) or H W 3 (of 3)."""
    array = _to_array(value, name, forms)
    channel = -3 if _is_tensor(value) else -1
    if array.ndim == axes and array.shape[channel] == 3:
        if not array.size:
            raise UserError(f"{name} is empty: {_shape_text(array.shape)}")
        return np.moveaxis(array, channel, -1)
    kind, form = ("a tensor", "3 H W") if channel == -3 else ("an array", "H W 3")
    form = f"f {form}" if axes == 4 else form
    conversion = _suggest_conversion(array.shape, channel, axes)
    raise UserError(
        f"{name} in {kind} is {form}, not {_shape_text(array.shape)}",
        f"try {conversion}" if conversion else "",
    )


def _suggest_conversion(shape: Sequence[int], channel: int, axes: int) -> str:
    """Return an expression that brings `x` into the right shape, or an empty text if none is known."""
    is_tensor, more = channel == -3, (0,) * (axes - 3)
    transpose = ".permute" if is_tensor else ".transpose"
    repeat = ".repeat_interleave" if is_tensor else ".repeat"
    if len(shape) == axes + 1:
        return "x[0], if the first axis is a batch of one" if shape[0] == 1 else ""
    if len(shape) == axes - 1:
        is_one_frame = axes == 4 and shape[channel] == 3
        grey = f"x[..., None, :, :]{repeat}(3, -3)" if is_tensor else f"x[..., None]{repeat}(3, -1)"
        return "x[None], if this is one frame" if is_one_frame else f"{grey}, if this is grey"
    if len(shape) != axes:
        return ""
    if shape[-4 - channel] == 3:
        order = (2, 0, 1) if is_tensor else (1, 2, 0)
        axes_order = (*more, *(n + len(more) for n in order))
        return f"x{transpose}({', '.join(map(str, axes_order))})"
    if shape[channel] == 4:
        return "x[..., :3, :, :]" if is_tensor else "x[..., :3]"
    return f"x{repeat}(3, {channel})" if shape[channel] == 1 else ""


def _to_integers(array: ndarray, name: str) -> ndarray:
    """Return pixels as uint8 or uint16."""
    if array.dtype in (np.uint8, np.uint16):
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"{name} holds {array.dtype}, and pixels are uint8, uint16 or floats in [0, 1]",
            "try x.astype(np.uint8), or x.to(torch.uint8) for a tensor",
        )
    scaled = array * np.float32(255)
    integers = np.rint(scaled)
    if not ((integers >= 0) & (integers <= 255)).all():  # false for NaN, too
        raise UserError(
            f"{name} holds floats from {array.min():g} to {array.max():g}, and pixels are in [0, 1]",
            "divide them by their range, or give uint8",
        )
    if np.abs(scaled - integers).max() > ROUNDING_TOLERANCE:
        warn_user(f"{name} was rounded from floats to eight bits; give uint16 to keep more")
    return integers.astype(np.uint8)


def _threshold(array: ndarray, name: str) -> ndarray:
    if array.dtype == bool:
        return array
    low, high = array.min(), array.max()
    is_integer = np.issubdtype(array.dtype, np.integer)
    peak = np.iinfo(array.dtype).max if array.dtype in (np.uint8, np.uint16) else 1
    if not (low >= 0 and high <= peak):
        raise UserError(
            f"{name} holds {array.dtype} from {low:g} to {high:g}",
            "give a boolean mask, floats in [0, 1], or integers 0 and 1 or of eight bits",
        )
    return array > 0 if is_integer and high <= 1 else array > peak / 2


def write_clip(folder: Path, name: str, clip: ndarray, rate: Fraction) -> Path:
    """Write integers f H W 3 as a lossless video, and return its path."""
    path = folder / f"{name}-{_digest(clip)}.mkv"
    video.write_frames(path, list(clip), rate, "ffv1")
    return _reset_times(path)


def write_mask(folder: Path, name: str, mask: ndarray) -> Path:
    """Write boolean f H W as a video, or as an image if f is 1, and return its path."""
    pictures = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=-1)
    if len(pictures) == 1:
        return write_image(folder, name, pictures[0])
    return write_clip(folder, name, pictures, Fraction(1))


def write_image(folder: Path, name: str, frame: ndarray) -> Path:
    """Write integers H W 3 as an eight-bit PNG, and return its path."""
    path = folder / f"{name}-{_digest(frame)}.png"
    video.write_frames(path, [frame], 1)
    return _reset_times(path)


def _digest(array: ndarray) -> str:
    header = f"{array.dtype} {_shape_text(array.shape)}".encode()
    digest = hashlib.blake2b(header, digest_size=8)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _reset_times(path: Path) -> Path:
    """Set a file's times to zero: progress is found by its files' names, sizes and times (EditTask.latent_key)."""
    os.utime(path, (0, 0))
    return path


def to_array(frames: Iterable[ndarray]) -> ndarray:
    """Return frames H W 3 as one array f H W 3."""
    return np.stack(list(frames))


def to_pil(frames: Iterable[ndarray]) -> "list[Image.Image]":
    """Return frames as PIL images, which have eight bits."""
    from PIL import Image

    return [Image.fromarray(images.to_8_bit(frame)) for frame in frames]


def to_tensor(frames: Iterable[ndarray]) -> "Tensor":
    """Return frames as one tensor f 3 H W, float32 in [0, 1]."""
    import torch

    return torch.stack([images.to_tensor(frame) for frame in frames])
