"""CLIP-F: cosine of CLIP embeddings of edited frames: of neighbours (FateZero and most papers) and of all pairs (LOVEU-TGVE)."""

import numpy as np

from .base import Metric, Moment, Subject, Tools, short

NEEDS: set[str] = set()
BETTER = {"clip_f": "higher"}
EVERY_FRAME = True


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        tools.clip  # noqa: B018  missing weights are told before the first frame
        self.name = short(tools.options.clip)
        self.embeddings: list[np.ndarray] = []

    def add(self, moment: Moment) -> None:
        self.embeddings.append(moment.embedding)

    def figures(self) -> dict[str, float]:
        e = np.stack(self.embeddings)  # f d
        count = len(e)
        cosines = e @ e.T
        next_one = float(np.diag(cosines, 1).mean()) if count > 1 else float("nan")
        pairs = float((cosines.sum() - np.trace(cosines)) / (count * (count - 1))) if count > 1 else float("nan")
        return {f"clip_f@consecutive/{self.name}": next_one, f"clip_f@all_pairs/{self.name}": pairs}
