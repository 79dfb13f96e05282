"""The masks of a clip in a temporary file, a bit a pixel: memory does not grow with the clip."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy import ndarray

from .pictures import Size


class MaskStore:
    """One mask a frame of a size (width, height). Frames that were not written are empty."""

    def __init__(self, folder: Path, frames: int, size: Size):
        self.frames, self.size = frames, size
        file = tempfile.NamedTemporaryFile(dir=folder, suffix=".masks", delete=False)  # noqa: SIM115
        shape = frames, -(-size[0] * size[1] // 8)
        self.bits = np.memmap(file, np.uint8, "w+", shape=shape)

    def write(self, frame: int, mask: ndarray) -> None:
        """Store a mask, boolean H W."""
        self.bits[frame] = np.packbits(mask)

    def read(self, frame: int) -> ndarray:
        """Return a mask, boolean H W."""
        width, height = self.size
        flat = np.unpackbits(self.bits[frame], count=width * height)
        return flat.reshape(height, width).astype(bool)

    def read_at(self, size: Size) -> Iterator[ndarray]:
        """Yield the masks at another size, boolean H W, with smooth outlines."""
        return (enlarge(self.read(i), size) for i in range(self.frames))


def enlarge(mask: ndarray, size: Size) -> ndarray:
    """Return a mask at a larger size (width, height), boolean H W, with a smooth outline."""
    import cv2

    if mask.shape[::-1] == size or not mask.any():
        return mask if mask.shape[::-1] == size else np.zeros(size[::-1], bool)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.6)
    return cv2.resize(soft, size, interpolation=cv2.INTER_CUBIC) > 0.5
