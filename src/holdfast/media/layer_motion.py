"""Estimate how a layer moves, also where it is hidden: its pixels' own flow, and elsewhere their common motion."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray

from . import optical_flow

MIN_PIXELS = 12  # with fewer pixels the motion is not updated
MIN_AFFINE_PIXELS = 60  # with fewer pixels it is a shift
MAX_SAMPLES = 1500  # pixels that a common motion is estimated from
MAX_GROWTH = 0.1  # by which the scale of a layer may change from one frame to the next
MIN_WEIGHT = 0.05  # where less weight of a layer is near, its common motion dominates


@dataclass
class GlobalMotion:
    """The common motion of a layer's pixels, x' = A x. It stays as it is while too few of them are visible."""

    matrix: ndarray  # A, 2 3

    @classmethod
    def identity(cls) -> "GlobalMotion":
        """Return the motion of a layer at rest."""
        return cls(np.eye(2, 3))

    def update(self, flow: ndarray, weight: ndarray) -> None:
        """Estimate the motion from the flow of pixels whose weight is above one half."""
        rows, columns = np.nonzero(weight > 0.5)
        if len(rows) < MIN_PIXELS:
            return
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), MAX_SAMPLES)).astype(int)
        rows, columns = rows[chosen], columns[chosen]
        starts = np.stack((columns, rows), 1).astype(np.float32)
        steps = flow[rows, columns]
        self.matrix = _estimate_similarity(starts, steps)

    def flow(self, height: int, width: int) -> ndarray:
        """Return the motion as flow, H W 2, in pixels (x, y)."""
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        (a, b, c), (d, e, f) = self.matrix.astype(np.float32)
        return np.stack((a * x + b * y + c - x, d * x + e * y + f - y), -1)


def _estimate_similarity(starts: ndarray, steps: ndarray) -> ndarray:
    """Return the shift, rotation and scale that most steps follow, 2 3.

    If there is none, or it is implausible, return the median shift.
    """
    shift = np.median(steps, 0)
    shift_matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    if len(starts) < MIN_AFFINE_PIXELS:
        return shift_matrix
    cv2.setRNGSeed(0)
    tolerance = max(0.5, 0.1 * float(np.abs(shift).max()))
    matrix, inliers = cv2.estimateAffinePartial2D(
        starts, starts + steps, method=cv2.RANSAC, ransacReprojThreshold=tolerance, maxIters=300
    )
    if matrix is None or inliers.mean() < 0.4:
        return shift_matrix
    scale = float(np.hypot(matrix[0, 0], matrix[0, 1]))
    return matrix if abs(scale - 1) < MAX_GROWTH else shift_matrix


def backward_flow(flow: ndarray, weight: ndarray, motion: GlobalMotion, radius: float) -> ndarray:
    """Return the flow H W 2 from each pixel of the next frame back to this one, if it belongs to this layer.

    flow: to the next frame. weight: how much each pixel belongs to the layer, H W. motion: updated from them.
    radius: in pixels, of the average of the flow.
    """
    motion.update(flow, weight)
    common = motion.flow(*flow.shape[:2])
    residual = flow - common
    follows = np.abs(residual).sum(-1) < max(2.0, 0.5 * float(np.abs(common).max()))
    forward = common + weighted_average(residual, weight * follows, radius)
    backward = -optical_flow.warp(forward, -forward)  # to the first order, the flow at its end
    return -optical_flow.warp(forward, backward)


def weighted_average(values: ndarray, weight: ndarray, radius: float) -> ndarray:
    """Return the weighted mean of values around each pixel, H W c; it falls to 0 where no weight is near."""
    height, width = weight.shape
    scale = max(1, int(radius / 3))  # so wide an average does not need the full resolution
    size = (-(-width // scale), -(-height // scale))
    small = cv2.resize(
        np.dstack((values * weight[..., None], weight)), size, interpolation=cv2.INTER_AREA
    )
    blurred = cv2.GaussianBlur(small, (0, 0), radius / scale)
    mean = blurred[..., :-1] / (blurred[..., -1:] + MIN_WEIGHT)
    return cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR)
