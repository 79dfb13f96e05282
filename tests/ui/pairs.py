"""A small clip and an edited version of it, as an editor returns it: one object has another colour, and so has all."""

from pathlib import Path

import cv2
import numpy as np

from holdfast.media import video

SIZE, FRAMES, RATE = (96, 64), 10, 8
SIDE = 20  # pixels of the square that is edited


def square_at(frame: int) -> tuple[slice, slice]:
    """Where the square is: it moves right."""
    return slice(22, 22 + SIDE), slice(10 + 4 * frame, 10 + 4 * frame + SIDE)


def write_pair(folder: Path) -> tuple[Path, Path]:
    """Write both clips. The edited one has a blue square instead of a red one, and is a little brighter."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3)).astype(np.float32)
    backdrop = cv2.GaussianBlur(noise, (0, 0), 2.5)
    backdrop = 118 + (backdrop - backdrop.mean()) * 60 / backdrop.std()
    paths = folder / "before.mkv", folder / "after.mkv"
    for path, colour, lift in zip(paths, ((210, 40, 40), (40, 60, 220)), (0, 6), strict=True):
        frames = [backdrop.copy() for _ in range(FRAMES)]
        for i, frame in enumerate(frames):
            frame[square_at(i)] = colour
        pictures = [(frame + lift).clip(0, 255).astype(np.uint8) for frame in frames]
        video.write_frames(path, pictures, RATE, "lossless-rgb")
    return paths
