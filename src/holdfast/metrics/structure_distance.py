"""DINO structure distance (Splice, arXiv:2201.00424), x1000: mean squared difference of the keys' self-similarity S_ij = cos(k_i, k_j)."""

from .base import Metric, Moment, Subject, Tools, mean, short

NEEDS: set[str] = set()
BETTER = {"structure_distance_x1000": "lower"}
EVERY_FRAME = False


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.dino, self.name = tools.structure, short(tools.options.structure)
        self.values: list[float] = []

    def add(self, moment: Moment) -> None:
        source, edited = (self.dino.keys(f) for f in (moment.source, moment.edited))
        difference = source @ source.T - edited @ edited.T  # N N
        self.values.append(1000 * float((difference**2).mean()))

    def figures(self) -> dict[str, float]:
        return {f"structure_distance_x1000@keys/{self.name}": mean(self.values)}
