"""Error against the true result: over the frame, inside and outside what the true edit changes, and where change fell.

edit_energy_outside: share of the result's squared change from the source that falls where the truth has none.
"""

import math

import numpy as np
from numpy import ndarray

from .base import Metric, Moment, Subject, Tools, capped

NEEDS = {"truth"}
BETTER = {"truth_psnr": "higher", "truth_gain_db": "higher", "edit_energy_outside": "lower"}
EVERY_FRAME = True
SAME = 1.001 / 255  # a file of 8 bits cannot say less


class _Error:
    """The squared error of some pixels, summed over frames."""

    def __init__(self):
        self.square = 0.0
        self.count = 0

    def add(self, squares: ndarray) -> None:
        """squares: one a pixel, summed over its channels."""
        self.square += float(squares.sum())
        self.count += 3 * squares.size

    def psnr(self) -> float:
        return capped(self.square / self.count) if self.count else math.nan


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.all = _Error()
        self.inside = _Error()
        self.outside = _Error()
        self.before = _Error()  # of the unedited source
        self.energy = 0.0
        self.energy_outside = 0.0

    def add(self, moment: Moment) -> None:
        inside = np.abs(moment.source - moment.truth).max(-1) > SAME
        error = _squares(moment.edited, moment.truth)
        self.all.add(error)
        self.inside.add(error[inside])
        self.outside.add(error[~inside])
        self.before.add(_squares(moment.source, moment.truth))
        change = _squares(moment.edited, moment.source)
        self.energy += float(change.sum())
        self.energy_outside += float(change[~inside].sum())

    def figures(self) -> dict[str, float]:
        return {
            "truth_psnr@all": self.all.psnr(),
            "truth_psnr@inside": self.inside.psnr(),
            "truth_psnr@outside": self.outside.psnr(),
            "truth_gain_db": self.all.psnr() - self.before.psnr(),
            "edit_energy_outside": self.energy_outside / self.energy if self.energy else math.nan,
        }


def _squares(first: ndarray, second: ndarray) -> ndarray:
    """Squared difference of two frames, summed over channels, H W."""
    return ((first - second) ** 2).sum(-1, dtype=np.float64)
