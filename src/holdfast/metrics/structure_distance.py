"""DINO structure distance (Splice, arXiv:2201.00424), x1000: mean squared difference of the keys' self-similarity.

S_ij = cos(k_i, k_j) of the last layer's keys, for the source frame and for the edited frame.
"""

from numpy import ndarray

from ._batching import MAX_FRAMES, Deferred
from .base import FramePair, Metric, MetricInfo, MetricModels, PairInfo, nanmean, short_name


class StructureDistance(Metric):
    def __init__(self, info: PairInfo, models: MetricModels):
        self.dino = models.structure
        self.network = short_name(models.options.structure)
        self.keys: list[tuple[Deferred[ndarray], Deferred[ndarray]]] = []
        self.distances: list[float] = []

    def add(self, pair: FramePair) -> None:
        self.keys.append((self.dino.keys(pair.source), self.dino.keys(pair.edited)))
        if 2 * len(self.keys) >= MAX_FRAMES:
            self._reduce()

    def _reduce(self) -> None:
        """Reduce the collected keys to distances. Keys are large, so they are dropped with their batch."""
        for source, edited in self.keys:
            difference = _self_similarity(source.value) - _self_similarity(edited.value)
            self.distances.append(1000 * float((difference**2).mean()))
        self.keys = []

    def values(self) -> dict[str, float]:
        self._reduce()
        return {f"structure_distance_x1000@keys/{self.network}": nanmean(self.distances)}


def _self_similarity(keys: ndarray) -> ndarray:
    return keys @ keys.T  # N N


METRIC = MetricInfo(
    StructureDistance, directions={"structure_distance_x1000": "lower"}, every_frame=False
)
