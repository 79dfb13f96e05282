"""Choose the channel of a mask picture that holds the shape, its colour or its alpha, and threshold it.

A painted shape may be in the brightness of a picture or, if it is painted in one colour on a transparent layer, in the
alpha channel. If both are possible, the user has to choose.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from ..base.notices import warn_user

ChannelChoice = Literal["auto", "colour", "alpha"]
ColourAndAlpha = tuple[ndarray, ndarray | None]  # a picture H W 3, and its alpha H W


@dataclass(frozen=True)
class MaskChannel:
    """Which channel of a picture is the mask, and how its values are read."""

    is_alpha: bool = False
    is_label: bool = False  # its values are 0 and 1

    def threshold(self, picture: ColourAndAlpha, size: tuple[int, int]) -> ndarray:
        """Return where a picture is inside the mask, boolean H W, at a size (width, height)."""
        import cv2

        values = _alpha(picture) if self.is_alpha else picture[0].max(axis=2)
        above = values > (0 if self.is_label else _half(values))
        return cv2.resize(above.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0


def _half(values: ndarray) -> int:
    return np.iinfo(values.dtype).max // 2


def _alpha(picture: ColourAndAlpha) -> ndarray:
    colour, alpha = picture
    if alpha is not None:
        return alpha
    return np.full(colour.shape[:2], np.iinfo(colour.dtype).max, colour.dtype)


def choose_channel(
    pictures: Iterable[ColourAndAlpha], name: str, choice: ChannelChoice, remedy: str
) -> MaskChannel:
    """Return the channel that holds the shape, over all pictures of a mask with an alpha channel.

    The colour of transparent pixels does not count. name: the mask's, for messages.
    Raise UserError with this remedy if colour and alpha each hold a shape.
    """
    if choice != "auto":
        return MaskChannel(is_alpha=choice == "alpha")
    alpha_values, colour_values, differ, shares = set(), set(), False, []
    for picture in pictures:
        visible = _alpha(picture) > _half(picture[0])
        bright = picture[0].max(axis=2) > _half(picture[0])
        alpha_values.update(np.unique(visible).tolist())
        colour_values.update(np.unique(bright[visible]).tolist())
        differ |= bool((bright != visible).any())
        shares.append(float(visible.mean()))
    if len(alpha_values) < 2:
        return MaskChannel()
    if len(colour_values) > 1:
        raise UserError(
            f"the mask {name} has one shape in its colour and another in its alpha channel", remedy
        )
    # A black picture with a hole: the black may be the mask or the rest.
    if colour_values == {False} and np.mean(shares) > 0.5:
        raise UserError(
            f"the mask {name} is black wherever it is opaque, and most of it is opaque, "
            "so either part may be the mask",
            remedy,
        )
    if differ:
        warn_user(f"the mask {name} has one colour: its shape is read from its alpha channel")
    return MaskChannel(is_alpha=True)


def peak_value(pictures: Iterable[ColourAndAlpha]) -> tuple[int, int]:
    """Return the largest value in all pictures, and the largest value that their type can hold."""
    peaks = [(int(colour.max()), int(np.iinfo(colour.dtype).max)) for colour, _ in pictures]
    return max(peaks)
