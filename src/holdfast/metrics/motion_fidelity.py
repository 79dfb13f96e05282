"""Motion fidelity (Yatim et al., arXiv:2311.17009) on tracks chained from flow: does the edit move as the source does?

c(a, b) = mean over steps of the cosine of two tracks' displacements. both: half the sum of (mean over edited tracks of
the best c with a source track) and the reverse, the paper's form; edited_to_source: the first alone, as the authors'
code has it (which also subtracts the identity before the maximum; not done here, so that a clip is 1 with itself). Of
two still points c is 1, of a still and a moving one 0.
"""

import math

import numpy as np
from numpy import ndarray

from ..media.optical_flow import PointTracks
from .base import Metric, Moment, Subject, Tools

NEEDS: set[str] = set()
BETTER = {"motion_fidelity": "higher"}
EVERY_FRAME = True
STILL = 0.1  # pixels a step: what moves less stands still


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        side = tools.options.tracks
        self.source = PointTracks(*subject.size, side)
        self.edited = PointTracks(*subject.size, side)
        self.name = f"{tools.flow.__name__}-{side}x{side}-tracks"

    def add(self, moment: Moment) -> None:
        if moment.previous is not None:
            self.source.follow(moment.source_flow)
            self.edited.follow(moment.edited_flow)

    def figures(self) -> dict[str, float]:
        to_source = to_edited = math.nan
        if self.source.steps:
            c = similarity(self.edited.steps, self.source.steps)  # m n
            to_source = _best(c)
            to_edited = _best(c.T)
        return {
            f"motion_fidelity@both/{self.name}": (to_source + to_edited) / 2,
            f"motion_fidelity@edited_to_source/{self.name}": to_source,
        }


def _best(c: ndarray) -> float:
    """Mean over rows of the highest value; rows without any value do not count."""
    known = ~np.isnan(c).all(1)
    if not known.any():
        return math.nan
    return float(np.nanmax(c[known], 1).mean())


def similarity(a: list[ndarray], b: list[ndarray]) -> ndarray:
    """c of every one of m tracks with every one of n: m n. Steps at which either is lost do not count.

    a, b: the displacements of all tracks at each step, m 2 and n 2, NaN where a track is lost.
    """
    total = np.zeros((len(a[0]), len(b[0])), np.float32)
    count = np.zeros_like(total)
    for x, y in zip(a, b, strict=True):
        known = ~_lost(x)[:, None] & ~_lost(y)[None]
        total += np.where(known, _cosine(x, y), 0)
        count += known
    mean = total / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)


def _lost(step: ndarray) -> ndarray:
    return np.isnan(step).any(1)


def _cosine(x: ndarray, y: ndarray) -> ndarray:
    """Of every displacement of x (m 2) with every one of y (n 2), m n; 1 for two that stand still, 0 for one."""
    length_x = np.linalg.norm(x, axis=1)[:, None]
    length_y = np.linalg.norm(y, axis=1)[None]
    cosine = (x @ y.T) / np.maximum(length_x * length_y, 1e-12)
    both_still = (length_x < STILL) & (length_y < STILL)
    one_still = (length_x < STILL) ^ (length_y < STILL)
    cosine[one_still] = 0.0
    cosine[both_still] = 1.0
    return cosine
