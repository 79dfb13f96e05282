"""DINO structure distance (Splice, arXiv:2201.00424), x1000: mean squared difference of the keys' self-similarity.

S_ij = cos(k_i, k_j), of the source's keys and of the edited frame's.
"""

from numpy import ndarray

from ._batches import MOST, Later
from .base import Metric, Moment, Subject, Tools, mean, short

NEEDS: set[str] = set()
BETTER = {"structure_distance_x1000": "lower"}
EVERY_FRAME = False


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.dino = tools.structure
        self.name = short(tools.options.structure)
        self.pairs: list[tuple[Later, Later]] = []
        self.values: list[float] = []

    def add(self, moment: Moment) -> None:
        self.pairs.append((self.dino.keys(moment.source), self.dino.keys(moment.edited)))
        if 2 * len(self.pairs) >= MOST:
            self._reduce()

    def _reduce(self) -> None:
        """Keys are large: those of a batch are not kept beyond it."""
        for source, edited in self.pairs:
            difference = _similarity(source.value) - _similarity(edited.value)
            self.values.append(1000 * float((difference**2).mean()))
        self.pairs = []

    def figures(self) -> dict[str, float]:
        self._reduce()
        return {f"structure_distance_x1000@keys/{self.name}": mean(self.values)}


def _similarity(keys: ndarray) -> ndarray:
    return keys @ keys.T  # N N
