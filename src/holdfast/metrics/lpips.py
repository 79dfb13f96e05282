"""LPIPS (Zhang et al., arXiv:1801.03924) of edited against source frames, by torchmetrics."""

from .base import Metric, Moment, Subject, Tools, mean

NEEDS: set[str] = set()
BETTER = {"lpips": "lower"}
EVERY_FRAME = False


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        from ._libraries import perceptual

        self.net, self.name = perceptual(tools.options.lpips), tools.options.lpips
        self.values: list[float] = []

    def add(self, moment: Moment) -> None:
        import torch

        pair = (torch.from_numpy(f).permute(2, 0, 1)[None] for f in (moment.edited, moment.source))
        with torch.no_grad():
            self.values.append(float(self.net(*pair)))
        self.net.reset()

    def figures(self) -> dict[str, float]:
        return {f"lpips@full/{self.name}": mean(self.values)}
