"""Tighten a rough mask to a picture's edges: GrabCut (Rother et al., SIGGRAPH 2004) by OpenCV, near the mask alone.

A sketch is what is known beforehand, uint8 H W of OpenCV's four values: OUT and IN are certain, PERHAPS_OUT and
PERHAPS_IN a first guess.
"""

import cv2
import numpy as np
from numpy import ndarray

OUT, IN, PERHAPS_OUT, PERHAPS_IN = cv2.GC_BGD, cv2.GC_FGD, cv2.GC_PR_BGD, cv2.GC_PR_FGD
LEAST = 256  # pixels of a side: smaller pictures are enlarged, for edges lie between pixels


def cut(frame: ndarray, sketch: ndarray, rounds: int = 3) -> ndarray:
    """The mask, boolean H W, of a frame uint8 H W 3. Where a sketch leaves nothing open it is the sketch's own."""
    sure = (sketch == IN) | (sketch == PERHAPS_IN)
    near = _near((sketch != OUT).astype(np.uint8))
    if near is None or not sure[near].any() or sure[near].all():
        return sure
    found = sure.copy()
    found[near] = _cut(frame[near], sketch[near], rounds)
    return found


def _near(open_: ndarray) -> tuple[slice, slice] | None:
    """The part of a picture around what is not certainly outside, with as much again beside it."""
    x, y, width, height = cv2.boundingRect(open_)
    if not width:
        return None
    beside = max(8, max(width, height) // 2)
    rows = slice(max(0, y - beside), y + height + beside)
    return rows, slice(max(0, x - beside), x + width + beside)


def _cut(frame: ndarray, sketch: ndarray, rounds: int) -> ndarray:
    scale = max(1, -(-LEAST // max(frame.shape[:2])))
    size = (frame.shape[1] * scale, frame.shape[0] * scale)
    large = cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_LINEAR)
    marks = cv2.resize(sketch, size, interpolation=cv2.INTER_NEAREST)
    cv2.setRNGSeed(0)  # its clusters begin at random
    back, front = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(large, marks, None, back, front, rounds, cv2.GC_INIT_WITH_MASK)
    inside = ((marks == IN) | (marks == PERHAPS_IN)).astype(np.float32)
    return cv2.resize(inside, frame.shape[1::-1], interpolation=cv2.INTER_AREA) >= 0.5


def disc(radius: float) -> ndarray:
    """What to dilate or erode with."""
    side = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def grown(inside: ndarray, radius: float) -> ndarray:
    return cv2.dilate(inside.astype(np.uint8), disc(radius)) > 0


def shrunk(inside: ndarray, radius: float) -> ndarray:
    padded = cv2.copyMakeBorder(inside.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    return cv2.erode(padded, disc(radius))[1:-1, 1:-1] > 0


def breadth(inside: ndarray) -> float:
    """The side of a square of a mask's area, in pixels."""
    return float(np.sqrt(inside.sum()))
