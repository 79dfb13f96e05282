"""The transparency of pictures: read it, or composite it over a colour on request. It is never dropped silently."""

from pathlib import Path

import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from . import images


def read_alpha(file: Path) -> ndarray | None:
    """Return the alpha channel of an image file, upright, H W of its integers; None where the image is opaque."""
    return images.read_with_alpha(file)[1]


def composite(picture: ndarray, colour: tuple[int, int, int]) -> ndarray:
    """Composite a picture H W 4 over a colour of 8 bits. Return H W 3 of the same integers."""
    peak = np.iinfo(picture.dtype).max
    weight = picture[..., 3:].astype(np.float32) / peak
    behind = np.array(colour, np.float32) / 255 * peak
    mixed = picture[..., :3] * weight + behind * (1 - weight)
    return np.rint(mixed).astype(picture.dtype)


def parse_colour(text: str) -> tuple[int, int, int]:
    """Return a colour from its name or #rrggbb, as red, green, blue. Raise UserError for anything else."""
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise UserError(
            f"{text!r} is not a colour", "give a name such as black, or #rrggbb"
        ) from error
    return red, green, blue
