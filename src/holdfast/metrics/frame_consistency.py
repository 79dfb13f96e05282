"""CLIP-F: mean cosine of the CLIP embeddings of edited frames.

consecutive: of neighbouring frames (most papers). all_pairs: of all pairs of frames (LOVEU-TGVE).
"""

import math

import numpy as np
from numpy import ndarray

from ._batching import Deferred
from .base import FramePair, Metric, MetricInfo, MetricModels, PairInfo, short_name


class FrameConsistency(Metric):
    def __init__(self, info: PairInfo, models: MetricModels):
        models.clip  # noqa: B018  report missing weights before the first frame
        self.network = short_name(models.options.clip)
        self.embeddings: list[Deferred[ndarray]] = []

    def add(self, pair: FramePair) -> None:
        self.embeddings.append(pair.embedding)

    def values(self) -> dict[str, float]:
        consecutive = all_pairs = math.nan
        count = len(self.embeddings)
        if count > 1:
            e = np.stack([embedding.value for embedding in self.embeddings])  # f d
            cosines = e @ e.T
            consecutive = float(np.diag(cosines, 1).mean())
            off_diagonal = cosines.sum() - np.trace(cosines)
            all_pairs = float(off_diagonal / (count * (count - 1)))
        return {
            f"clip_f@consecutive/{self.network}": consecutive,
            f"clip_f@all_pairs/{self.network}": all_pairs,
        }


METRIC = MetricInfo(FrameConsistency, directions={"clip_f": "higher"})
