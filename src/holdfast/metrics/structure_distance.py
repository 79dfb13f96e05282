"""DINO structure distance (Splice, arXiv:2201.00424), x1000: mean squared difference of the keys' self-similarity.

S_ij = cos(k_i, k_j), of the source's keys and of the edited frame's.
"""

from numpy import ndarray

from .base import Metric, Moment, Subject, Tools, mean, short

NEEDS: set[str] = set()
BETTER = {"structure_distance_x1000": "lower"}
EVERY_FRAME = False


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.dino = tools.structure
        self.name = short(tools.options.structure)
        self.values: list[float] = []

    def add(self, moment: Moment) -> None:
        difference = self._similarity(moment.source) - self._similarity(moment.edited)
        square = difference**2
        self.values.append(1000 * float(square.mean()))

    def _similarity(self, frame: ndarray) -> ndarray:
        keys = self.dino.keys(frame)
        return keys @ keys.T  # N N

    def figures(self) -> dict[str, float]:
        return {f"structure_distance_x1000@keys/{self.name}": mean(self.values)}
