"""Blend a change into its source: over a feathered band, or over one that has no seam in the gradient domain."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy import ndarray

from ..media.masks import Mask, MaskShape
from .frames import Roi

Blend = Literal["feather", "poisson"]
COARSEST = 8  # pixels of a side at which the equation is solved from nothing
RELAXATIONS = 24  # Jacobi steps at each size
FEATHER_SHARE = 0.004  # of the longer side
# Shares of the longer side at levels of noise in grey levels.
GROW_LEVELS, GROW_SHARES = (1.5, 5.0), (0.007, 0.002)


@dataclass(frozen=True)
class Band:
    """How far a change reaches beyond its mask: fully over `grow` pixels, then falling over `feather` pixels."""

    grow: int
    feather: int

    @property
    def reach(self) -> int:
        """Pixels around the mask that may change."""
        return max(self.grow, 0) + self.feather + 1

    def region(self, mask: ndarray) -> Roi | None:
        """Return the smallest rectangle of a mask, boolean H W, and its band; None for an empty mask."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return None
        height, width = mask.shape
        return (
            slice(max(0, rows[0] - self.reach), min(height, rows[-1] + 1 + self.reach)),
            slice(max(0, columns[0] - self.reach), min(width, columns[-1] + 1 + self.reach)),
        )

    def weigh(self, mask: ndarray) -> ndarray:
        """Return the weight of the change at each pixel of a mask, float32 H W in [0, 1]."""
        return next(
            Mask(lambda: iter([mask]), MaskShape(grow=self.grow, feather=self.feather)).alphas()
        )


def usual_band(
    size: tuple[int, int], level: float, grow: int | None = None, feather: int | None = None
) -> Band:
    """Return the band for a clip of a size, where one is not given.

    level: of the edited clip's noise in grey levels. A clean clip may be used well beyond the change: it equals the
    source there. A noisy one shows.
    """
    side = max(size)
    share = float(np.interp(level, GROW_LEVELS, GROW_SHARES))
    return Band(
        max(1, round(share * side)) if grow is None else grow,
        max(2, round(FEATHER_SHARE * side)) if feather is None else feather,
    )


def remove_seam(source: ndarray, edited: ndarray, weight: ndarray) -> tuple[ndarray, ndarray]:
    """Return the edited picture without a seam to its source, and the weight of each pixel, 0 or 1.

    Inside the band, where 0 < weight < 1, the edited picture's gradients are kept (Perez et al., 2003): a correction c
    with Laplacian 0 is added, which is source - edited on the outer side and 0 on the inner one.
    """
    band = (weight > 0) & (weight < 1)
    if not band.any():
        return edited, weight
    apart = source.astype(np.float32) - edited.astype(np.float32)
    correction = solve_laplace(
        np.where((weight <= 0)[..., None], apart, 0).astype(np.float32), ~band
    )
    peak = np.iinfo(source.dtype).max
    blended = np.clip(edited + np.where(band[..., None], correction, 0), 0, peak)
    return blended, (weight > 0).astype(np.float32)


def solve_laplace(values: ndarray, known: ndarray) -> ndarray:
    """Return values H W c with those that are not known (boolean H W) such that each is the mean of its neighbours.

    From coarse to fine, with Jacobi steps at each size.
    """
    import cv2

    height, width = known.shape
    if min(height, width) > COARSEST:
        half = (width + 1) // 2, (height + 1) // 2
        share = known.astype(np.float32)
        amount = cv2.resize(share, half, interpolation=cv2.INTER_AREA)
        small = cv2.resize(values * share[..., None], half, interpolation=cv2.INTER_AREA)
        small = small.reshape(*amount.shape, -1) / np.maximum(amount, 1e-6)[..., None]
        coarse = solve_laplace(small.astype(np.float32), amount > 0)
        start = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    else:
        start = np.full_like(values, values[known].mean(0) if known.any() else 0)
    result = np.where(known[..., None], values, start.reshape(values.shape))
    kernel = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4
    for _ in range(RELAXATIONS):
        mean = cv2.filter2D(result, -1, kernel, borderType=cv2.BORDER_REPLICATE)
        result = np.where(known[..., None], values, mean.reshape(values.shape))
    return result
