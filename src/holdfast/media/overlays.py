"""Draw a mask over a frame, tinted inside and outlined, so that a user can check it."""

import numpy as np
from numpy import ndarray

from .images import to_8_bit

TINT, STRENGTH = (255, 40, 120), 0.45  # a colour that few objects have, and its weight inside


def draw_mask(frame: ndarray, mask: ndarray) -> ndarray:
    """Return a frame, uint8 or uint16 H W 3, as uint8 with its mask, boolean H W, tinted and outlined in white."""
    import cv2

    picture = to_8_bit(frame).astype(np.float32)
    picture[mask] += STRENGTH * (np.array(TINT, np.float32) - picture[mask])
    width = max(3, 2 * round(min(mask.shape) / 360) + 1)
    dilated = cv2.dilate(mask.astype(np.uint8), np.ones((width, width), np.uint8)) > 0
    picture[dilated & ~mask] = 255
    return np.rint(picture).astype(np.uint8)
