"""Error against the true result: over the frame, and inside and outside the region that the true edit changes.

edit_energy_outside: share of the result's squared change from the source that falls outside that region.
"""

import math

import numpy as np
from numpy import ndarray

from .base import FramePair, Metric, MetricInfo, MetricModels, PairInfo, capped_psnr

EQUAL_WITHIN = 1.001 / 255  # the resolution of an 8-bit file


class _Error:
    """The squared error of some pixels, summed over frames."""

    def __init__(self):
        self.total = 0.0
        self.count = 0

    def add(self, squares: ndarray) -> None:
        """squares: one a pixel, summed over its channels."""
        self.total += float(squares.sum())
        self.count += 3 * squares.size

    def psnr(self) -> float:
        return capped_psnr(self.total / self.count) if self.count else math.nan


class TruthError(Metric):
    def __init__(self, info: PairInfo, models: MetricModels):
        self.all = _Error()
        self.inside = _Error()
        self.outside = _Error()
        self.unedited = _Error()  # of the source
        self.energy = 0.0
        self.energy_outside = 0.0

    def add(self, pair: FramePair) -> None:
        inside = np.abs(pair.source - pair.truth).max(-1) > EQUAL_WITHIN
        error = _squares(pair.edited, pair.truth)
        self.all.add(error)
        self.inside.add(error[inside])
        self.outside.add(error[~inside])
        self.unedited.add(_squares(pair.source, pair.truth))
        change = _squares(pair.edited, pair.source)
        self.energy += float(change.sum())
        self.energy_outside += float(change[~inside].sum())

    def values(self) -> dict[str, float]:
        return {
            "truth_psnr@all": self.all.psnr(),
            "truth_psnr@inside": self.inside.psnr(),
            "truth_psnr@outside": self.outside.psnr(),
            "truth_gain_db": self.all.psnr() - self.unedited.psnr(),
            "edit_energy_outside": self.energy_outside / self.energy if self.energy else math.nan,
        }


def _squares(first: ndarray, second: ndarray) -> ndarray:
    """Return the squared difference of two frames, summed over channels: H W."""
    return ((first - second) ** 2).sum(-1, dtype=np.float64)


METRIC = MetricInfo(
    TruthError,
    directions={"truth_psnr": "higher", "truth_gain_db": "higher", "edit_energy_outside": "lower"},
    requires=frozenset({"truth"}),
)
