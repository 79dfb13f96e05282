"""Warp-Err (Lai et al., arXiv:1808.00449), x1000: E = mean_t sum_p N_t |O_t - W(O_t+1, F_t)|^2 / sum_p N_t, per channel.

N_t: pixels that can be followed (motion.visible). F_t: flow of the source by default (`warp_flow`); `warp_norm=absolute` leaves
out the square.
"""

import numpy as np

from ..motion import visible, warp
from .base import Metric, Moment, Subject, Tools, mean

NEEDS: set[str] = set()
BETTER = {"warp_error_x1000": "lower"}
EVERY_FRAME = True


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        options = tools.options
        self.of, self.squared = options.warp_flow, options.warp_norm == "squared"
        self.name = f"warp_error_x1000@{options.warp_flow},{options.warp_norm}/{tools.flow.__name__}"
        self.values: list[float] = []

    def add(self, moment: Moment) -> None:
        if moment.previous is None:
            return
        forward = moment.source_flow if self.of == "source" else moment.edited_flow
        backward = moment.source_flow_back if self.of == "source" else moment.edited_flow_back
        self.values.append(1000 * error(moment.previous.edited, moment.edited, forward, visible(forward, backward), self.squared))

    def figures(self) -> dict[str, float]:
        return {self.name: mean(self.values)}


def error(first: np.ndarray, second: np.ndarray, flow: np.ndarray, seen: np.ndarray, squared: bool = True) -> float:
    """Mean over the pixels seen of the difference between a frame and the next one, warped back; NaN where none is seen."""
    if not seen.any():
        return float("nan")
    difference = (first - warp(second, flow))[seen]
    return float((difference**2 if squared else np.abs(difference)).mean())
