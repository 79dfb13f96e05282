"""CLIP-F: cosine of edited frames' CLIP embeddings: of neighbours (most papers) and of all pairs (LOVEU-TGVE)."""

import math

import numpy as np

from ._batches import Later
from .base import Metric, Moment, Subject, Tools, short

NEEDS: set[str] = set()
BETTER = {"clip_f": "higher"}
EVERY_FRAME = True


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        tools.clip  # noqa: B018  missing weights are told before the first frame
        self.name = short(tools.options.clip)
        self.embeddings: list[Later] = []

    def add(self, moment: Moment) -> None:
        self.embeddings.append(moment.embedding)

    def figures(self) -> dict[str, float]:
        neighbours = pairs = math.nan
        count = len(self.embeddings)
        if count > 1:
            e = np.stack([later.value for later in self.embeddings])  # f d
            cosines = e @ e.T
            neighbours = float(np.diag(cosines, 1).mean())
            of_others = cosines.sum() - np.trace(cosines)
            pairs = float(of_others / (count * (count - 1)))
        return {
            f"clip_f@consecutive/{self.name}": neighbours,
            f"clip_f@all_pairs/{self.name}": pairs,
        }
