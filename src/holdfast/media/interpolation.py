"""Make the frame in the middle between two others, from their optical flow.

With F the flow from the first frame to the second and B the one back, the flow from the middle frame is approximately
(Super SloMo, Jiang et al., arXiv:1712.00080, with t = 1/2, before its networks refine it)
  to the first frame: (B - F) / 4;   to the second frame: (F - B) / 4.
"""

import numpy as np
from numpy import ndarray

from .optical_flow import FlowFunction, dis, ends_in_frame, warp


def interpolate_middle(first: ndarray, second: ndarray, flow: FlowFunction = dis) -> ndarray:
    """Return the frame in the middle between two frames `H W 3` in [0, 1]: the mean of both, warped to it.

    Where the flow to one of them leaves the frame, the other one counts alone.
    """
    difference = (flow(first, second) - flow(second, first)) / 4
    warped = [warp(first, -difference), warp(second, difference)]
    weights = [ends_in_frame(-difference), ends_in_frame(difference)]
    weights = [np.where(weights[0] | weights[1], part, 1).astype(np.float32) for part in weights]
    total = sum(w[..., None] * frame for w, frame in zip(weights, warped, strict=True))
    return (total / (weights[0] + weights[1])[..., None]).astype(np.float32)
