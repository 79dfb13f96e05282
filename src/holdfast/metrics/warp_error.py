"""Warp-Err (Lai et al., arXiv:1808.00449), x1000, a channel.

E = mean_t sum_p N_t |O_t - W(O_t+1, F_t)|^2 / sum_p N_t

N_t: pixels that can be followed (motion.visible). F_t: flow of the source by default (option `warp_flow`).
`warp_norm=absolute` omits the square.
"""

import math

import numpy as np
from numpy import ndarray

from ..media.optical_flow import visibility, warp
from .base import FramePair, Metric, MetricInfo, MetricModels, PairInfo, nanmean


class WarpError(Metric):
    def __init__(self, info: PairInfo, models: MetricModels):
        options = models.options
        self.follows_source = options.warp_flow == "source"
        self.squared = options.warp_norm == "squared"
        variant = f"{options.warp_flow},{options.warp_norm}/{models.flow_name}"
        self.value_name = f"warp_error_x1000@{variant}"
        self.errors: list[float] = []

    def add(self, pair: FramePair) -> None:
        if pair.previous is None:
            return
        if self.follows_source:
            forward, backward = pair.source_flow, pair.source_flow_back
        else:
            forward, backward = pair.edited_flow, pair.edited_flow_back
        followed = visibility(forward, backward)
        error = warp_error(pair.previous.edited, pair.edited, forward, followed, self.squared)
        self.errors.append(1000 * error)

    def values(self) -> dict[str, float]:
        return {self.value_name: nanmean(self.errors)}


def warp_error(
    first: ndarray, second: ndarray, flow: ndarray, followed: ndarray, squared: bool = True
) -> float:
    """Return the mean difference of a frame to the next one warped back, over the followed pixels; NaN without any.

    first, second: H W 3; flow: H W 2 from first to second; followed: H W boolean.
    """
    if not followed.any():
        return math.nan
    difference = (first - warp(second, flow))[followed]
    sizes = difference**2 if squared else np.abs(difference)
    return float(sizes.mean())


METRIC = MetricInfo(WarpError, directions={"warp_error_x1000": "lower"})
