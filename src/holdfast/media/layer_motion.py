"""How a layer moves, seen or hidden: its pixels' own flow, and beyond them what they have in common."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray

from . import optical_flow

FEW, SOME = 12, 60  # pixels below which nothing is said; below which a layer is only shifted
MOST = 1500  # pixels that a common motion is found from
STRETCH = 0.1  # by which a layer may grow from one frame to the next
LOCAL = 0.05  # of full weight: where less of a layer is near, its common motion holds


@dataclass
class GlobalMotion:
    """What a layer's pixels do together, x' = A x: remembered while too few of them are seen."""

    matrix: ndarray  # 2 3

    @classmethod
    def still(cls) -> "GlobalMotion":
        return cls(np.eye(2, 3))

    def learn(self, flow: ndarray, weight: ndarray) -> None:
        """From the flow of the pixels that have most of the weight."""
        rows, columns = np.nonzero(weight > 0.5)
        if len(rows) < FEW:
            return
        some = np.linspace(0, len(rows) - 1, min(len(rows), MOST)).astype(int)
        rows, columns = rows[some], columns[some]
        starts = np.stack((columns, rows), 1).astype(np.float32)
        steps = flow[rows, columns]
        self.matrix = _fitted(starts, steps)

    def flow(self, height: int, width: int) -> ndarray:
        """As flow, H W 2."""
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        (a, b, c), (d, e, f) = self.matrix.astype(np.float32)
        return np.stack((a * x + b * y + c - x, d * x + e * y + f - y), -1)


def _fitted(starts: ndarray, steps: ndarray) -> ndarray:
    """A shift, turn and scale that most follow; the median shift where there is none, or an unlikely one."""
    shift = np.median(steps, 0)
    shifted = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    if len(starts) < SOME:
        return shifted
    cv2.setRNGSeed(0)
    near = max(0.5, 0.1 * float(np.abs(shift).max()))
    found, kept = cv2.estimateAffinePartial2D(
        starts, starts + steps, method=cv2.RANSAC, ransacReprojThreshold=near, maxIters=300
    )
    if found is None or kept.mean() < 0.4:
        return shifted
    scale = float(np.hypot(found[0, 0], found[0, 1]))
    return found if abs(scale - 1) < STRETCH else shifted


def backward_flow(flow: ndarray, weight: ndarray, common: GlobalMotion, near: float) -> ndarray:
    """Where each place of the next frame was in this one, if it belongs to this layer: flow H W 2 back in time.

    flow: to the next frame. weight: how much each pixel is of the layer, H W. near: pixels over which flow is averaged.
    """
    common.learn(flow, weight)
    together = common.flow(*flow.shape[:2])
    own = flow - together
    follows = np.abs(own).sum(-1) < max(2.0, 0.5 * float(np.abs(together).max()))
    trusted = weight * follows
    ahead = together + weighted_average(own, trusted, near)
    back = -optical_flow.warp(ahead, -ahead)  # the flow from x is that at its end, to the first order
    return -optical_flow.warp(ahead, back)


def weighted_average(values: ndarray, weight: ndarray, near: float) -> ndarray:
    """The mean around each place, H W c, of values that count by weight; 0 where none of them is near."""
    height, width = weight.shape
    scale = max(1, int(near / 3))  # so wide an average needs no finer grid
    size = (-(-width // scale), -(-height // scale))
    shrunk = cv2.resize(
        np.dstack((values * weight[..., None], weight)), size, interpolation=cv2.INTER_AREA
    )
    wide = cv2.GaussianBlur(shrunk, (0, 0), near / scale)
    mean = wide[..., :-1] / (wide[..., -1:] + LOCAL)
    return cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR)
