"""What an editor changed where it should have changed nothing, measured frame by frame."""

from typing import Any

import numpy as np
from numpy import ndarray

from ..metrics.base import psnr

CHANGED = 2.001  # grey levels; a pixel counts as changed where a channel differs by more
STRIDE = 2  # pixels: every second one is measured
STATES = ("raw", "aligned", "corrected")


class OutsideStatistics:
    """Accumulate differences outside the change, in three states.

    raw: the edited clip resized to the source's size, at the same moment. aligned: in its place. corrected: in the
    source's colours as well.
    """

    def __init__(self) -> None:
        self.square = dict.fromkeys(STATES, 0.0)
        self.changed = dict.fromkeys(STATES, 0)
        self.count = 0
        self.shifts: list[
            ndarray
        ] = []  # mean difference of each frame in red, green and blue, aligned

    def add(
        self, source: ndarray, edited: tuple[ndarray, ndarray, ndarray], outside: ndarray
    ) -> None:
        """Add a frame. edited: in the three states. outside: where nothing should have changed, boolean H W."""
        source, outside = source[::STRIDE, ::STRIDE], outside[::STRIDE, ::STRIDE]
        if not outside.any():
            return
        reference = source[outside].astype(np.float32)
        for state, picture in zip(STATES, edited, strict=True):
            apart = picture[::STRIDE, ::STRIDE][outside].astype(np.float32) - reference
            self.square[state] += float((apart**2).mean(1).sum())
            self.changed[state] += int((np.abs(apart).max(1) > CHANGED).sum())
            if state == "aligned":
                self.shifts.append(apart.mean(0))
        self.count += len(reference)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of all frames: PSNR in dB, shares of pixels, colour shift and flicker in grey levels."""
        if not self.count:
            return {}
        shifts = np.stack(self.shifts)
        luma = shifts @ (0.299, 0.587, 0.114)
        flicker = float(np.abs(np.diff(luma)).mean()) if len(luma) > 1 else 0.0
        return {
            "psnr": {s: round(psnr(self.square[s] / self.count / 255**2), 2) for s in STATES},
            "changed_share": {s: round(self.changed[s] / self.count, 4) for s in STATES},
            "colour_shift": [round(float(v), 2) for v in shifts.mean(0)],
            "flicker": round(flicker, 3),
        }
