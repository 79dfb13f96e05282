"""LPIPS (Zhang et al., arXiv:1801.03924) of edited against source frames, by torchmetrics."""

from ._libraries import batch, perceptual
from .base import Metric, Moment, Subject, Tools, mean

NEEDS: set[str] = set()
BETTER = {"lpips": "lower"}
EVERY_FRAME = False


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.name = tools.options.lpips
        self.net = perceptual(self.name)
        self.values: list[float] = []

    def add(self, moment: Moment) -> None:
        import torch

        with torch.no_grad():
            distance = self.net(batch(moment.edited), batch(moment.source))
        self.values.append(float(distance))
        self.net.reset()

    def figures(self) -> dict[str, float]:
        return {f"lpips@full/{self.name}": mean(self.values)}
