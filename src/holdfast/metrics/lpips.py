"""LPIPS (Zhang et al., arXiv:1801.03924) of edited against source frames, by torchmetrics."""

from typing import TYPE_CHECKING

from ._batching import BatchQueue, Deferred
from ._packages import load_lpips, to_batch
from .base import FramePair, Metric, MetricInfo, MetricModels, PairInfo, nanmean

if TYPE_CHECKING:
    from torch import Tensor


class Lpips(Metric):
    def __init__(self, info: PairInfo, models: MetricModels):
        self.network, self.device = models.options.lpips, models.device
        self.lpips = load_lpips(self.network).to(self.device)
        self.queue: BatchQueue[float] = BatchQueue(self._distances)
        self.distances: list[Deferred[float]] = []

    def add(self, pair: FramePair) -> None:
        self.distances.append(self.queue.put(to_batch(pair.edited), to_batch(pair.source)))

    def _distances(self, edited: "Tensor", source: "Tensor") -> list[float]:
        batches = edited.to(self.device), source.to(self.device)
        return self.lpips.net(*batches, normalize=True).flatten().tolist()

    def values(self) -> dict[str, float]:
        distances = [distance.value for distance in self.distances]
        return {f"lpips@full/{self.network}": nanmean(distances)}


METRIC = MetricInfo(Lpips, directions={"lpips": "lower"}, every_frame=False)
