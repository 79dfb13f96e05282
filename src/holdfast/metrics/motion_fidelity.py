"""Motion fidelity (Yatim et al., arXiv:2311.17009): whether the edit moves as the source does, on tracks from flow.

c(a, b) = mean over steps of the cosine of the displacements of two tracks; 1 for two still points, 0 for a still and a
moving one. edited_to_source: mean over the edited tracks of the best c with a source track, as in the authors' code
(which also subtracts the identity before the maximum; not done here, so that a clip scores 1 against itself). both:
half the sum of that and its reverse, as in the paper.
"""

import math

import numpy as np
from numpy import ndarray

from ..media.optical_flow import PointTracks
from .base import FramePair, Metric, MetricInfo, MetricModels, PairInfo

STILL = 0.1  # pixels a step: below, a point counts as still


class MotionFidelity(Metric):
    def __init__(self, info: PairInfo, models: MetricModels):
        side = models.options.tracks
        self.source = PointTracks(*info.size, side)
        self.edited = PointTracks(*info.size, side)
        self.variant = f"{models.flow_name}-{side}x{side}-tracks"

    def add(self, pair: FramePair) -> None:
        if pair.previous is not None:
            self.source.follow(pair.source_flow)
            self.edited.follow(pair.edited_flow)

    def values(self) -> dict[str, float]:
        to_source = to_edited = math.nan
        if self.source.steps:
            c = similarity(self.edited.steps, self.source.steps)  # m n
            to_source = _mean_best(c)
            to_edited = _mean_best(c.T)
        return {
            f"motion_fidelity@both/{self.variant}": (to_source + to_edited) / 2,
            f"motion_fidelity@edited_to_source/{self.variant}": to_source,
        }


def _mean_best(c: ndarray) -> float:
    """Return the mean over rows of the highest value. Rows of NaN alone do not count."""
    defined = ~np.isnan(c).all(1)
    if not defined.any():
        return math.nan
    return float(np.nanmax(c[defined], 1).mean())


def similarity(a: list[ndarray], b: list[ndarray]) -> ndarray:
    """Return c of each of m tracks with each of n: m n. Steps at which either track is lost do not count.

    a, b: the displacements of all tracks at each step, m 2 and n 2, NaN where a track is lost.
    """
    total = np.zeros((len(a[0]), len(b[0])), np.float32)
    count = np.zeros_like(total)
    for x, y in zip(a, b, strict=True):
        both_visible = ~_is_lost(x)[:, None] & ~_is_lost(y)[None]
        total += np.where(both_visible, _cosine(x, y), 0)
        count += both_visible
    mean = total / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)


def _is_lost(step: ndarray) -> ndarray:
    return np.asarray(np.isnan(step).any(1))


def _cosine(x: ndarray, y: ndarray) -> ndarray:
    """Return the cosine of each displacement of x (m 2) and y (n 2): m n. Two still ones give 1, one gives 0."""
    length_x = np.linalg.norm(x, axis=1)[:, None]
    length_y = np.linalg.norm(y, axis=1)[None]
    cosine = (x @ y.T) / np.maximum(length_x * length_y, 1e-12)
    both_still = (length_x < STILL) & (length_y < STILL)
    one_still = (length_x < STILL) ^ (length_y < STILL)
    cosine[one_still] = 0.0
    cosine[both_still] = 1.0
    return cosine


METRIC = MetricInfo(MotionFidelity, directions={"motion_fidelity": "higher"})
