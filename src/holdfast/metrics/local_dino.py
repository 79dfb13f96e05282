"""L.DINO (FlowAnchor, arXiv:2604.22586, C.2): cosine of DINO class tokens of the mask's bounding box in source and edited frame."""

from .base import Metric, Moment, Subject, Tools, mean, short

NEEDS = {"mask"}
BETTER = {"local_dino": "higher"}
EVERY_FRAME = False


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.dino, self.name = tools.dino, short(tools.options.dino)
        self.values: list[float] = []

    def add(self, moment: Moment) -> None:
        if moment.box:
            source, edited = (self.dino.class_token(f[moment.box]) for f in (moment.source, moment.edited))
            self.values.append(float(source @ edited))

    def figures(self) -> dict[str, float]:
        return {f"local_dino@cls,box/{self.name}": mean(self.values)}
