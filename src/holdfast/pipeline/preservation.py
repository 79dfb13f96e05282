"""How much of its source a result keeps, measured on the frames before they are encoded."""

import math

import numpy as np

from ..metrics.base import psnr

CHANGED = 2.001 / 255  # a pixel counts as changed where a channel differs by more


class PreservationMetrics:
    """Accumulate the preservation metrics of a clip, frame by frame.

    Pixel values are in [0, 1]. A pixel is outside the edit where its alpha is 0, as in every frame that is not edited.
    """

    def __init__(self) -> None:
        self.square = self.square_outside = 0.0
        self.count = self.count_outside = 0
        self.max_outside = 0.0
        self.changed = 0

    def add(self, source: np.ndarray, result: np.ndarray, alpha: np.ndarray) -> None:
        """Add a frame. source, result: H W 3, of one integer type; alpha: H W in [0, 1]."""
        peak = np.iinfo(source.dtype).max
        difference = np.abs(source.astype(np.float32) - result) / peak
        square, outside = difference**2, alpha == 0
        self.square += float(square.sum(dtype=np.float64))
        self.count += square.size
        self.square_outside += float(square[outside].sum(dtype=np.float64))
        self.count_outside += 3 * int(outside.sum())
        self.max_outside = max(self.max_outside, float(difference[outside].max(initial=0.0)))
        self.changed += 3 * int((difference.max(axis=2) > CHANGED).sum())

    def add_unchanged(self, alpha: np.ndarray) -> None:
        """Add a frame that equals its source. alpha: H W in [0, 1]."""
        self.count += 3 * alpha.size
        self.count_outside += 3 * int((alpha == 0).sum())

    def to_dict(self) -> dict[str, float | None]:
        """Return the metrics of all frames.

        psnr, psnr_outside: in dB, infinite where no bit changed. max_abs_outside: the largest difference, of 1. The
        values of the outside are None where there is none. changed_share: the share of all pixels of which a channel
        changed by more than 2/255.
        """
        outside = self.count_outside > 0
        return {
            "psnr": _rounded_psnr(self.square, self.count),
            "psnr_outside": _rounded_psnr(self.square_outside, self.count_outside)
            if outside
            else None,
            "max_abs_outside": self.max_outside if outside else None,
            "changed_share": round(self.changed / self.count, 6),
        }


def _rounded_psnr(square: float, count: int) -> float:
    value = psnr(square / count)
    return value if math.isinf(value) else round(value, 3)
