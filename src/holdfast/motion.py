"""Optical flow between frames, warping along it, where it cannot be followed, and tracks chained from it.

Frames are `H W 3` float32 in [0, 1]; flow is `H W 2` float32 in pixels (x, y), from each pixel of the first frame to where it
went in the second. A flow function is anything that takes two frames and returns that; its `__name__` names it in results.
"""

from collections.abc import Callable

import cv2
import numpy as np

Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]
LEAST = 24  # pixels of a side; DIS needs room for its pyramid


def dis(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Dense inverse search (Kroeger et al., arXiv:1603.03590) by OpenCV, at its medium preset."""
    grey = [cv2.cvtColor(np.rint(f * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY) for f in (first, second)]
    height, width = grey[0].shape
    scale = max(1, -(-LEAST // min(height, width)))
    if scale > 1:
        grey = [cv2.resize(g, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR) for g in grey]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
    return flow if scale == 1 else cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) / scale


def warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """W(I, F)(p) = I(p + F(p)), bilinear. image: H W or H W c. What comes from beyond the edge repeats it: see `inside`."""
    x, y = _ends(flow)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def inside(flow: np.ndarray) -> np.ndarray:
    """Where the flow ends within the frame, H W boolean."""
    x, y = _ends(flow)
    height, width = flow.shape[:2]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _ends(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = flow.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return x + flow[..., 0], y + flow[..., 1]


def visible(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Pixels of the first frame that can be followed into the second, H W boolean.

    The rule of Lai et al. (arXiv:1808.00449), all magnitudes squared: F = forward, B = backward; occluded where
    |F + W(B,F)|^2 > 0.01 (|W(B,F)|^2 + |F|^2) + 0.5; at a motion boundary where |grad F|^2 > 0.01 |F|^2 + 0.002 (differences to
    the next row and column). What ends beyond the frame is not visible either.
    """
    returned = warp(backward, forward)  # W(B, F)
    size = (forward**2).sum(-1)
    occluded = ((forward + returned) ** 2).sum(-1) > 0.01 * ((returned**2).sum(-1) + size) + 0.5
    slope = np.zeros(size.shape, np.float32)
    slope[:, :-1] += (np.diff(forward, axis=1) ** 2).sum(-1)
    slope[:-1] += (np.diff(forward, axis=0) ** 2).sum(-1)
    boundary = slope > 0.01 * size + 0.002
    return inside(forward) & ~occluded & ~boundary


class Tracks:
    """Points on a grid of the first frame, followed along flow. `steps`: each step's displacement n 2, NaN once a point is lost."""

    def __init__(self, height: int, width: int, side: int):
        x = (np.arange(side) + 0.5) * width / side - 0.5
        y = (np.arange(side) + 0.5) * height / side - 0.5
        self.points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float32)  # n 2, (x, y)
        self.steps: list[np.ndarray] = []

    def follow(self, flow: np.ndarray) -> None:
        x, y = (np.ascontiguousarray(c)[None] for c in self.points.T)
        step = cv2.remap(flow, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
        height, width = flow.shape[:2]
        moved = self.points + step
        lost = ~((moved >= 0).all(1) & (moved <= (width - 1, height - 1)).all(1))  # a point that is NaN is lost too
        step[lost] = np.nan
        self.steps.append(step)
        self.points = np.where(lost[:, None], np.nan, moved).astype(np.float32)
