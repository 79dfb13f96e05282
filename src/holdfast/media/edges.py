"""Edge maps of frames, as ControlNets are trained on them: white edges on black.

Frames are `H W 3` float32 in [0, 1]; an edge map is `H W` float32 in [0, 1].
"""

import cv2
import numpy as np
from numpy import ndarray

LOW, HIGH = 100, 200  # thresholds of the published canny ControlNets, of 8-bit pictures
SOFT_DEVIATIONS = (1.0, 2.0)  # of the Gaussians whose gradients make a soft edge, in pixels of 512
SOFT_SIDE = 512  # pixels of the shorter side that the deviations belong to


def canny(frame: ndarray, low: int = LOW, high: int = HIGH) -> ndarray:
    """Return Canny's edges: 1 on an edge, 0 elsewhere. low, high: thresholds of the gradient of 8-bit pictures."""
    return (cv2.Canny(_to_bytes(frame), low, high) > 0).astype(np.float32)


def soft_edges(frame: ndarray) -> ndarray:
    """Return soft edges: the gradient's size over two scales, divided by its 99th percentile, at most 1.

    They resemble the maps of a holistically-nested edge detector (HED), but no network makes them: texture counts.
    """
    scale = min(frame.shape[:2]) / SOFT_SIDE
    sizes = [_gradient_size(frame, max(0.5, d * scale)) for d in SOFT_DEVIATIONS]
    strength = np.mean(sizes, 0)
    top = np.percentile(strength, 99)
    return np.clip(strength / max(top, 1e-6), 0, 1).astype(np.float32)


def _gradient_size(frame: ndarray, deviation: float) -> ndarray:
    """Return the largest gradient of the three channels of a blurred frame, H W."""
    blurred = cv2.GaussianBlur(frame.astype(np.float32), (0, 0), deviation)
    x, y = cv2.Sobel(blurred, cv2.CV_32F, 1, 0), cv2.Sobel(blurred, cv2.CV_32F, 0, 1)
    return np.sqrt(x**2 + y**2).max(-1)


def _to_bytes(frame: ndarray) -> ndarray:
    return np.rint(np.clip(frame, 0, 1) * 255).astype(np.uint8)
