"""Which colours a thing has: a smoothed histogram, learnt where it was marked and, more slowly, wherever it is seen."""

import numpy as np
from numpy import ndarray

BINS = 16  # of each of red, green and blue
RATE = 0.05  # of what is learnt, how much a frame's own colours count
ENOUGH = 20  # pixels that a histogram can be made of


class ColourModel:
    """Densities over the colour cube: 1 everywhere where nothing is known."""

    def __init__(self, frame: ndarray, weight: ndarray):
        """frame: H W 3 in [0, 1]; weight: H W, of each pixel in it."""
        self._marked = self._learnt = _counted(frame, weight)

    def learn(self, frame: ndarray, weight: ndarray) -> None:
        if weight.sum() >= ENOUGH:
            self._learnt = self._learnt + RATE * (_counted(frame, weight) - self._learnt)

    def mark(self, frame: ndarray, weight: ndarray) -> None:
        """What a user marked counts for good."""
        self._marked = (self._marked + _counted(frame, weight)) / 2

    def density(self, frame: ndarray) -> ndarray:
        """Of each pixel's colour, float32 H W."""
        both = (self._marked + self._learnt) / 2
        return both[_places(frame)].astype(np.float32)


def _places(frame: ndarray) -> ndarray:
    """Each pixel's bin, H W."""
    red, green, blue = np.moveaxis(np.clip(frame * BINS, 0, BINS - 1).astype(int), -1, 0)
    return (red * BINS + green) * BINS + blue


def _counted(frame: ndarray, weight: ndarray) -> ndarray:
    counts = np.bincount(_places(frame).ravel(), weight.ravel(), BINS**3)
    cube = counts.reshape(BINS, BINS, BINS)
    for axis in range(3):
        edge = [(1, 1) if axis == other else (0, 0) for other in range(3)]
        wide = np.moveaxis(np.pad(cube, edge, mode="edge"), axis, 0)
        cube = np.moveaxis((wide[:-2] + 2 * wide[1:-1] + wide[2:]) / 4, 0, axis)
    total = cube.sum()
    return (cube / total * BINS**3 if total else np.ones_like(cube)).ravel()
