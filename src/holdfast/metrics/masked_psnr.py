"""M.PSNR: how well the source is preserved outside the mask, mean over frames.

true: 10 log10(1 / mean squared error over the pixels outside). zero_filled: both frames are black inside, and the error
is taken over the whole frame, as FiVE-Bench and PnPInversion do; it is higher by -10 log10(share outside), and is there
only for comparison with their tables. max_abs_outside: the largest difference outside, of 1.
"""

import math

import numpy as np

from .base import FramePair, Metric, MetricInfo, MetricModels, PairInfo, capped_psnr, nanmean


class MaskedPsnr(Metric):
    def __init__(self, info: PairInfo, models: MetricModels):
        self.true: list[float] = []
        self.zero_filled: list[float] = []
        self.largest = math.nan  # if the mask has no outside

    def add(self, pair: FramePair) -> None:
        outside = ~pair.mask
        if not outside.any():
            return
        difference = pair.source[outside] - pair.edited[outside]
        squares = difference**2
        self.true.append(capped_psnr(float(squares.mean())))
        self.zero_filled.append(capped_psnr(float(squares.sum()) / pair.source.size))
        before = 0 if math.isnan(self.largest) else self.largest
        self.largest = max(float(np.abs(difference).max()), before)

    def values(self) -> dict[str, float]:
        return {
            "psnr_outside@true": nanmean(self.true),
            "psnr_outside@zero_filled": nanmean(self.zero_filled),
            "max_abs_outside": self.largest,
        }


METRIC = MetricInfo(
    MaskedPsnr,
    directions={"psnr_outside": "higher", "max_abs_outside": "lower"},
    requires=frozenset({"mask"}),
    every_frame=False,
)
