"""LPIPS (Zhang et al., arXiv:1801.03924) of edited against source frames, by torchmetrics."""

from ._batches import Later, Queue
from ._libraries import batch, perceptual
from .base import Metric, Moment, Subject, Tools, mean

NEEDS: set[str] = set()
BETTER = {"lpips": "lower"}
EVERY_FRAME = False


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.name, self.device = tools.options.lpips, tools.device
        self.net = perceptual(self.name).to(self.device)
        self.queue = Queue(self._distances)
        self.values: list[Later] = []

    def add(self, moment: Moment) -> None:
        self.values.append(self.queue.put(batch(moment.edited), batch(moment.source)))

    def _distances(self, edited, source) -> list[float]:
        pair = edited.to(self.device), source.to(self.device)
        return self.net.net(*pair, normalize=True).flatten().tolist()

    def figures(self) -> dict[str, float]:
        return {f"lpips@full/{self.name}": mean([later.value for later in self.values])}
