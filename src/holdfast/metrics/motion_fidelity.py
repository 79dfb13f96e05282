"""Motion fidelity (Yatim et al., arXiv:2311.17009) on tracks chained from flow: does the edited clip move as the source does?

c(a, b) = mean over steps of the cosine of two tracks' displacements. both: half the sum of (mean over edited tracks of the best
c with a source track) and the reverse, the paper's form; edited_to_source: the first alone, as the authors' code has it (which
also subtracts the identity before the maximum; not done here, so that a clip is 1 with itself). Of two still points c is 1, of
a still and a moving one 0.
"""

import numpy as np

from ..motion import Tracks
from .base import Metric, Moment, Subject, Tools

NEEDS: set[str] = set()
BETTER = {"motion_fidelity": "higher"}
EVERY_FRAME = True
STILL = 0.1  # pixels a step: what moves less stands still


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.source, self.edited = (Tracks(*subject.size, tools.options.tracks) for _ in range(2))
        self.name = f"{tools.flow.__name__}-{tools.options.tracks}x{tools.options.tracks}-tracks"

    def add(self, moment: Moment) -> None:
        if moment.previous is not None:
            self.source.follow(moment.source_flow)
            self.edited.follow(moment.edited_flow)

    def figures(self) -> dict[str, float]:
        both = one_way = float("nan")
        if self.source.steps:
            c = similarity(np.stack(self.edited.steps, 1), np.stack(self.source.steps, 1))  # m n
            one_way, back = (_best(c, axis) for axis in (1, 0))
            both = (one_way + back) / 2
        return {f"motion_fidelity@both/{self.name}": both, f"motion_fidelity@edited_to_source/{self.name}": one_way}


def _best(c: np.ndarray, axis: int) -> float:
    rows = c[~np.isnan(c).all(axis)] if axis == 1 else c[:, ~np.isnan(c).all(axis)]
    return float(np.nanmax(rows, axis).mean()) if rows.size else float("nan")


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """c of every track of a (m k 2) with every one of b (n k 2): m n. Steps at which either is lost do not count."""
    total = np.zeros((len(a), len(b)), np.float32)
    count = np.zeros_like(total)
    for x, y in zip(a.swapaxes(0, 1), b.swapaxes(0, 1), strict=True):  # one step of all tracks: m 2, n 2
        lengths = np.linalg.norm(x, axis=1)[:, None], np.linalg.norm(y, axis=1)[None]
        still = lengths[0] < STILL, lengths[1] < STILL
        cosine = (x @ y.T) / np.maximum(lengths[0] * lengths[1], 1e-12)
        cosine = np.where(still[0] & still[1], 1.0, np.where(still[0] | still[1], 0.0, cosine))
        known = ~np.isnan(x).any(1)[:, None] & ~np.isnan(y).any(1)[None]
        total += np.where(known, cosine, 0)
        count += known
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
