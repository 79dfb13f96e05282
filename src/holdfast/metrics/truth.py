"""Error against the true result: over the frame, within and without what the true edit changes, and where the change fell.

edit_energy_outside: share of the result's squared change from the source that falls where the truth has none.
"""

import numpy as np

from .base import Metric, Moment, Subject, Tools, decibels

NEEDS = {"truth"}
BETTER = {"truth_psnr": "higher", "truth_gain_db": "higher", "edit_energy_outside": "lower"}
EVERY_FRAME = True
SAME = 1.001 / 255  # a file of 8 bits cannot say less


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.square = {"all": 0.0, "inside": 0.0, "outside": 0.0, "source": 0.0}
        self.count = dict.fromkeys(self.square, 0)
        self.energy = self.energy_outside = 0.0

    def add(self, moment: Moment) -> None:
        error = ((moment.edited - moment.truth) ** 2).sum(-1, dtype=np.float64)  # H W
        before = ((moment.source - moment.truth) ** 2).sum(-1, dtype=np.float64)
        inside = np.abs(moment.source - moment.truth).max(-1) > SAME
        for name, where in {"all": slice(None), "inside": inside, "outside": ~inside}.items():
            self._sum(name, error[where])
        self._sum("source", before)
        change = ((moment.edited - moment.source) ** 2).sum(-1, dtype=np.float64)
        self.energy += float(change.sum())
        self.energy_outside += float(change[~inside].sum())

    def _sum(self, name: str, values: np.ndarray) -> None:
        self.square[name] += float(values.sum())
        self.count[name] += 3 * values.size

    def figures(self) -> dict[str, float]:
        psnr = {k: decibels(self.square[k] / n) if n else float("nan") for k, n in self.count.items()}
        return {
            "truth_psnr@all": psnr["all"],
            "truth_psnr@inside": psnr["inside"],
            "truth_psnr@outside": psnr["outside"],
            "truth_gain_db": psnr["all"] - psnr["source"],
            "edit_energy_outside": self.energy_outside / self.energy if self.energy else float("nan"),
        }
