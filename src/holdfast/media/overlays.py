"""A mask to look at: the frame with what is inside tinted, and an outline around it."""

import numpy as np
from numpy import ndarray

from .images import to_8_bit

TINT, STRENGTH = (255, 40, 120), 0.45  # a colour that few things have, and its weight inside


def draw_mask(frame: ndarray, inside: ndarray) -> ndarray:
    """A frame H W 3, uint8 or uint16, with its mask H W boolean: uint8 H W 3, tinted inside, outlined in white."""
    import cv2

    shown = to_8_bit(frame).astype(np.float32)
    shown[inside] += STRENGTH * (np.float32(TINT) - shown[inside])
    thick = max(3, 2 * round(min(inside.shape) / 360) + 1)
    around = cv2.dilate(inside.astype(np.uint8), np.ones((thick, thick), np.uint8)) > 0
    shown[around & ~inside] = 255
    return np.rint(shown).astype(np.uint8)
