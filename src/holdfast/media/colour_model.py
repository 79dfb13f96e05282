"""Model an object's colours by a smoothed histogram, learnt from its masks and, slower, from where it is tracked."""

import numpy as np
from numpy import ndarray

BINS = 16  # of each of red, green and blue
LEARNING_RATE = 0.05  # weight of one frame's colours
MIN_PIXELS = 20  # that a histogram is learnt from


class ColourModel:
    """A density over the colour cube: 1 everywhere if no pixel has any weight."""

    def __init__(self, frame: ndarray, weight: ndarray):
        """frame: H W 3 in [0, 1]; weight: of each of its pixels, H W."""
        self._marked = self._learnt = _smoothed_histogram(frame, weight)

    def learn(self, frame: ndarray, weight: ndarray) -> None:
        """Update the model slowly from a tracked frame."""
        if weight.sum() >= MIN_PIXELS:
            change = _smoothed_histogram(frame, weight) - self._learnt
            self._learnt = self._learnt + LEARNING_RATE * change

    def mark(self, frame: ndarray, weight: ndarray) -> None:
        """Add a user's mask, which later frames do not outweigh."""
        self._marked = (self._marked + _smoothed_histogram(frame, weight)) / 2

    def density(self, frame: ndarray) -> ndarray:
        """Return the density of each pixel's colour, float32 H W."""
        both = (self._marked + self._learnt) / 2
        return both[_bin_indices(frame)].astype(np.float32)


def _bin_indices(frame: ndarray) -> ndarray:
    """Return each pixel's bin, H W."""
    red, green, blue = np.moveaxis(np.clip(frame * BINS, 0, BINS - 1).astype(int), -1, 0)
    return (red * BINS + green) * BINS + blue


def _smoothed_histogram(frame: ndarray, weight: ndarray) -> ndarray:
    """Return a histogram with mean 1, blurred by [1 2 1] / 4 along each colour axis: BINS ** 3 values."""
    counts = np.bincount(_bin_indices(frame).ravel(), weight.ravel(), BINS**3)
    cube = counts.reshape(BINS, BINS, BINS)
    for axis in range(3):
        padding = [(1, 1) if axis == other else (0, 0) for other in range(3)]
        padded = np.moveaxis(np.pad(cube, padding, mode="edge"), axis, 0)
        cube = np.moveaxis((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4, 0, axis)
    total = cube.sum()
    return (cube / total * BINS**3 if total else np.ones_like(cube)).ravel()
