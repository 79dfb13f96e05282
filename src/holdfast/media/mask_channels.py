"""Mask files: which of a picture's layers has the shape, its colour or its opacity, and where that is inside.

A painted shape may lie in the brightness of a picture or, where it is painted in one colour on a transparent layer, in
its alpha. Where both could be meant, nothing is guessed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from ..base.notices import note

ChannelChoice = Literal["auto", "colour", "alpha"]
ColourAndAlpha = tuple[ndarray, ndarray | None]  # a picture H W 3, and its opacity H W


@dataclass(frozen=True)
class MaskChannel:
    """How a mask is read of a picture."""

    is_alpha: bool = False
    is_label: bool = False  # its values are 0 and 1

    def inside(self, pair: ColourAndAlpha, size: tuple[int, int]) -> ndarray:
        """Return where a picture is inside, boolean H W, at a size (width, height)."""
        import cv2

        values = _opacity(pair) if self.is_alpha else pair[0].max(axis=2)
        above = values > (0 if self.is_label else _half(values))
        return cv2.resize(above.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0


def _half(values: ndarray) -> int:
    return np.iinfo(values.dtype).max // 2


def _opacity(pair: ColourAndAlpha) -> ndarray:
    picture, alpha = pair
    if alpha is not None:
        return alpha
    return np.full(picture.shape[:2], np.iinfo(picture.dtype).max, picture.dtype)


def choose_channel(pictures: Iterable[ColourAndAlpha], name: str, choice: ChannelChoice, remedy: str) -> MaskChannel:
    """Return the layer that has the shape, over all pictures of a mask that is seen through in places.

    The colour of what cannot be seen does not count. Raises UserError where both have a shape of their own: how_to_say
    is its remedy.
    """
    if choice != "auto":
        return MaskChannel(is_alpha=choice == "alpha")
    seen, shaped, differ, shares = set(), set(), False, []
    for pair in pictures:
        visible = _opacity(pair) > _half(pair[0])
        bright = pair[0].max(axis=2) > _half(pair[0])
        shaped.update(np.unique(visible).tolist())
        seen.update(np.unique(bright[visible]).tolist())
        differ |= bool((bright != visible).any())
        shares.append(float(visible.mean()))
    if len(shaped) < 2:
        return MaskChannel()
    if len(seen) > 1:
        raise UserError(
            f"the mask {name} has a shape in its colour and another in its alpha (transparency)",
            remedy,
        )
    if (
        seen == {False} and np.mean(shares) > 0.5
    ):  # a black picture with a hole: outside, or painted?
        raise UserError(
            f"the mask {name} is black where it can be seen, which is most of it, so either part may be meant",
            remedy,
        )
    if differ:
        note(f"the mask {name} is of one colour: its shape is taken from its alpha (transparency)")
    return MaskChannel(is_alpha=True)


def peak_value(pictures: Iterable[ColourAndAlpha]) -> tuple[int, int]:
    """Return the largest value of all pictures, and the largest that there could be."""
    found = [(int(picture.max()), int(np.iinfo(picture.dtype).max)) for picture, _ in pictures]
    return max(found)
