"""M.PSNR: how much of the source is kept outside the mask, mean over frames.

true: 10 log10(1 / mean squared error over outside pixels). zero_filled: both frames blacked out inside, error over the
whole frame, as FiVE-Bench and PnPInversion do: higher by -10 log10(share outside), for comparison with their tables
only. max_abs_outside: the largest difference there, of 1.
"""

import math

import numpy as np

from .base import Metric, Moment, Subject, Tools, capped, mean

NEEDS = {"mask"}
BETTER = {"psnr_outside": "higher", "max_abs_outside": "lower"}
EVERY_FRAME = False


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.true: list[float] = []
        self.filled: list[float] = []
        self.worst = math.nan  # where there is no outside

    def add(self, moment: Moment) -> None:
        outside = ~moment.mask
        if not outside.any():
            return
        difference = moment.source[outside] - moment.edited[outside]
        square = difference**2
        self.true.append(capped(float(square.mean())))
        self.filled.append(capped(float(square.sum()) / moment.source.size))
        self.worst = max(
            float(np.abs(difference).max()), 0 if math.isnan(self.worst) else self.worst
        )

    def figures(self) -> dict[str, float]:
        return {
            "psnr_outside@true": mean(self.true),
            "psnr_outside@zero_filled": mean(self.filled),
            "max_abs_outside": self.worst,
        }
