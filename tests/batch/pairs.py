"""Small pairs of clips for tests of rows and cells: a disc that moves over a textured ground, and an edit of it."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from holdfast.media.writing import write_frames

SIZE = (160, 96)  # width, height
RED, BLUE = (200, 40, 40), (40, 60, 210)
FRAMES = 10


def draw_ground(seed: int = 0) -> ndarray:
    """Return a textured picture with coarse and fine structure, H W 3 from 8 to 247."""
    generator = np.random.default_rng(seed)
    total = np.full((SIZE[1], SIZE[0], 3), 120.0)
    for sigma, amplitude in ((12, 26), (4, 18), (1.5, 10)):
        noise = cv2.GaussianBlur(generator.normal(size=total.shape), (0, 0), sigma)
        total += noise / noise.std() * amplitude
    return total.clip(8, 247)


def draw(moment: float, colour: tuple[int, int, int], ground: ndarray) -> ndarray:
    """Return the scene at a moment in frames of the source, uint8 H W 3."""
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    centre = 36 + 5 * moment, 46 + 10 * np.sin(moment / 2)
    weight = np.clip(16.5 - np.hypot(x - centre[0], y - centre[1]), 0, 1)[..., None]
    return np.rint(ground * (1 - weight) + weight * np.array(colour)).astype(np.uint8)


def write_source(path: Path, frames: int = FRAMES, seed: int = 0) -> Path:
    ground = draw_ground(seed)
    write_frames(path, [draw(i, RED, ground) for i in range(frames)], Fraction(8), "lossless")
    return path


def write_edited(path: Path, moments: int = FRAMES, seed: int = 0, speed: float = 1.0) -> Path:
    """Write the clip of an editor: the disc is blue, and the file is encoded again.

    speed: frames of the editor a frame of the source. The clip lasts as long as `moments` frames of the source.
    """
    ground = draw_ground(seed)
    frames = [draw(int(i / speed), BLUE, ground) for i in range(round(moments * speed))]
    write_frames(path, frames, Fraction(8) * Fraction(speed), "h264")
    return path


def write_other(path: Path) -> Path:
    """Write a clip that has nothing in common with the source."""
    generator = np.random.default_rng(9)
    frames = generator.integers(0, 255, (FRAMES, SIZE[1], SIZE[0], 3), dtype=np.uint8)
    write_frames(path, list(frames), Fraction(8), "h264")
    return path
