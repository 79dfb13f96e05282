"""L.DINO (FlowAnchor, arXiv:2604.22586, C.2): DINO class tokens' cosine, of the mask's box in source and edit."""

from ._batches import Later
from .base import Metric, Moment, Subject, Tools, mean, short

NEEDS = {"mask"}
BETTER = {"local_dino": "higher"}
EVERY_FRAME = False


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.dino = tools.dino
        self.name = short(tools.options.dino)
        self.pairs: list[tuple[Later, Later]] = []

    def add(self, moment: Moment) -> None:
        if moment.box:
            source = self.dino.class_token(moment.source[moment.box])
            edited = self.dino.class_token(moment.edited[moment.box])
            self.pairs.append((source, edited))

    def figures(self) -> dict[str, float]:
        values = [float(source.value @ edited.value) for source, edited in self.pairs]
        return {f"local_dino@cls,box{self.dino.view}/{self.name}": mean(values)}
