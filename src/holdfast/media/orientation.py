"""How a stored picture is rotated and mirrored for display: the display matrix of MP4, MOV and Matroska."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
from numpy import ndarray

FIXED_ONE = 1 << 16  # 1 in the matrix's fixed-point numbers, 16.16; its third column is 2.30
MAX_SKEW = math.radians(1)  # an angle further from a right angle is not rotated upright


@dataclass(frozen=True)
class Orientation:
    """The displayed picture is the stored one, rotated counter-clockwise by `quarter_turns` and then mirrored.

    is_mirrored: from left to right.
    matrix: all nine numbers, row by row, as a container stores them; empty where the picture is displayed as stored.
    angle: the matrix's rotation in degrees counter-clockwise, where it is not a multiple of 90.
    """

    quarter_turns: int = 0
    is_mirrored: bool = False
    matrix: tuple[int, ...] = ()
    angle: int | None = None

    @property
    def swaps_sides(self) -> bool:
        return self.quarter_turns % 2 == 1

    def apply(self, stored: ndarray) -> ndarray:
        """Return a stored picture, H W or H W c, as it is displayed."""
        rotated = np.rot90(stored, self.quarter_turns)
        return rotated[:, ::-1] if self.is_mirrored else rotated

    def undo(self, displayed: ndarray) -> ndarray:
        """Return a displayed picture as it is stored."""
        flipped = displayed[:, ::-1] if self.is_mirrored else displayed
        return np.rot90(flipped, -self.quarter_turns)

    def describe(self) -> str:
        """Return a phrase for the manifest; empty where the picture is displayed as stored."""
        if self.angle is not None:
            turned = self.quarter_turns
            view = f"rotated by {90 * turned}" if turned else "as it is stored"
            return f"displayed rotated by {self.angle} degrees: the edit sees the picture {view}"
        parts = [f"rotation tag of {90 * self.quarter_turns} degrees"] if self.quarter_turns else []
        return ", ".join(parts + ["displayed mirrored"] * self.is_mirrored)


def read_orientation(frame: av.VideoFrame) -> Orientation:
    """Return the orientation that a decoded frame carries."""
    side = frame.side_data.get("DISPLAYMATRIX")
    return parse_matrix(np.frombuffer(bytes(side), np.int32).tolist()) if side else Orientation()


def parse_matrix(numbers: Sequence[int]) -> Orientation:
    """Return the orientation of a display matrix: (p, q) is displayed at (a p + c q + x, b p + d q + y).

    A scale is dropped: FFmpeg reads it as the pixel aspect ratio.
    """
    a, b, _, c, d, _, x, y, _ = numbers
    determinant = a * d - b * c
    if not determinant or (a > 0 and d > 0 and b == c == 0):
        return Orientation()
    # A mirror changes only the signs of a and c, so the second column gives the rotation.
    rotation = math.atan2(-b, d)
    quarters = round(rotation / (math.pi / 2))
    if abs(rotation - quarters * math.pi / 2) > MAX_SKEW:
        angle = round(math.degrees(rotation)) % 360
        return Orientation(quarters % 4, determinant < 0, tuple(numbers), angle)
    signs = [
        round(n / max(abs(n), 1)) * FIXED_ONE if abs(n) > FIXED_ONE / 50 else 0
        for n in (a, b, c, d)
    ]
    matrix = (signs[0], signs[1], 0, signs[2], signs[3], 0, x, y, 1 << 30)
    return Orientation(quarters % 4, determinant < 0, matrix)
