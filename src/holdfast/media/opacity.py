"""Pictures that are seen through: found, kept, or laid over a colour on request. Never dropped without a word."""

from pathlib import Path

import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from . import images


def of_image(file: Path) -> ndarray | None:
    """The opacity of an image file, H W of its integers, upright; None where it has none or is solid."""
    return images.read_layers(file)[1]


def over(picture: ndarray, colour: tuple[int, int, int]) -> ndarray:
    """A picture H W 4 laid over a colour of eight bits: H W 3 of the same integers."""
    peak = np.iinfo(picture.dtype).max
    weight = picture[..., 3:].astype(np.float32) / peak
    behind = np.array(colour, np.float32) / 255 * peak
    mixed = picture[..., :3] * weight + behind * (1 - weight)
    return np.rint(mixed).astype(picture.dtype)


def colour(text: str) -> tuple[int, int, int]:
    """By name or as #rrggbb. Raises ValueError."""
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise UserError(f"{text!r} is no colour; give a name such as black, or #rrggbb") from error
