"""How a stored picture is turned and mirrored before it is shown: the display matrix of MP4, MOV and Matroska."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
from numpy import ndarray

ONE = 1 << 16  # the matrix's numbers are fixed-point, 16.16; those of its third column 2.30
SKEWED = math.radians(1)  # a turn that is further from a right angle is none


@dataclass(frozen=True)
class Orientation:
    """Shown is the stored picture, turned counter-clockwise by `quarters` of a circle, then mirrored left to right.

    matrix: all nine numbers, row by row, as a container holds them; empty where the picture is shown as it is stored.
    angle: what the matrix turns by, in degrees counter-clockwise, where that is no right angle.
    """

    quarters: int = 0
    is_mirrored: bool = False
    matrix: tuple[int, ...] = ()
    angle: int | None = None

    @property
    def swaps_sides(self) -> bool:
        return self.quarters % 2 == 1

    def turn(self, stored: ndarray) -> ndarray:
        """A stored picture, H W or H W c, as it is shown."""
        turned = np.rot90(stored, self.quarters)
        return turned[:, ::-1] if self.is_mirrored else turned

    def turn_back(self, shown: ndarray) -> ndarray:
        """A shown picture as it is stored."""
        flipped = shown[:, ::-1] if self.is_mirrored else shown
        return np.rot90(flipped, -self.quarters)

    def describe(self) -> str:
        """For the manifest; empty where there is nothing to say."""
        if self.angle is not None:
            seen = f"turned by {90 * self.quarters}" if self.quarters else "as it is stored"
            return f"shown turned by {self.angle} degrees: the edit sees the picture {seen}"
        parts = [f"rotation tag of {90 * self.quarters} degrees"] if self.quarters else []
        return ", ".join(parts + ["shown mirrored"] * self.is_mirrored)


def of_frame(frame: av.VideoFrame) -> Orientation:
    side = frame.side_data.get("DISPLAYMATRIX")
    return of_matrix(np.frombuffer(bytes(side), np.int32).tolist()) if side else Orientation()


def of_matrix(numbers: Sequence[int]) -> Orientation:
    """The orientation of a display matrix: (p, q) is shown at (a p + c q + x, b p + d q + y).

    A scale is not kept: FFmpeg reads it as the shape of a pixel.
    """
    a, b, _, c, d, _, x, y, _ = numbers
    determinant = a * d - b * c
    if not determinant or (a > 0 and d > 0 and b == c == 0):
        return Orientation()
    # A mirror changes the signs of a and c alone, so the second column alone tells the turn.
    turn = math.atan2(-b, d)
    quarters = round(turn / (math.pi / 2))
    if abs(turn - quarters * math.pi / 2) > SKEWED:
        angle = round(math.degrees(turn)) % 360
        return Orientation(quarters % 4, determinant < 0, tuple(numbers), angle)
    plain = [round(n / max(abs(n), 1)) * ONE if abs(n) > ONE / 50 else 0 for n in (a, b, c, d)]
    whole = (plain[0], plain[1], 0, plain[2], plain[3], 0, x, y, 1 << 30)
    return Orientation(quarters % 4, determinant < 0, whole)
