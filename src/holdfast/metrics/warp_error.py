"""Warp-Err (Lai et al., arXiv:1808.00449), x1000: E = mean_t sum_p N_t |O_t - W(O_t+1, F_t)|^2 / sum_p N_t, a channel.

N_t: pixels that can be followed (motion.visible). F_t: flow of the source by default (`warp_flow`);
`warp_norm=absolute` leaves out the square.
"""

import math

import numpy as np
from numpy import ndarray

from ..media.optical_flow import visibility, warp
from .base import Metric, Moment, Subject, Tools, mean

NEEDS: set[str] = set()
BETTER = {"warp_error_x1000": "lower"}
EVERY_FRAME = True


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        options = tools.options
        self.follows_source = options.warp_flow == "source"
        self.squared = options.warp_norm == "squared"
        variant = f"{options.warp_flow},{options.warp_norm}/{tools.flow.__name__}"
        self.name = f"warp_error_x1000@{variant}"
        self.values: list[float] = []

    def add(self, moment: Moment) -> None:
        if moment.previous is None:
            return
        if self.follows_source:
            forward, backward = moment.source_flow, moment.source_flow_back
        else:
            forward, backward = moment.edited_flow, moment.edited_flow_back
        seen = visibility(forward, backward)
        value = error(moment.previous.edited, moment.edited, forward, seen, self.squared)
        self.values.append(1000 * value)

    def figures(self) -> dict[str, float]:
        return {self.name: mean(self.values)}


def error(
    first: ndarray, second: ndarray, flow: ndarray, seen: ndarray, squared: bool = True
) -> float:
    """Mean over the pixels seen of the difference between a frame and the next one, warped back; NaN where none is."""
    if not seen.any():
        return math.nan
    difference = (first - warp(second, flow))[seen]
    sizes = difference**2 if squared else np.abs(difference)
    return float(sizes.mean())
