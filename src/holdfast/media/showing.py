"""Clips as a reader looks at them: side by side as one small clip that is data itself, and a strip of some frames."""

import base64
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from . import video

if TYPE_CHECKING:
    from PIL import Image

WIDTH = 960  # pixels, at most, of clips side by side
LEAST = 192  # pixels of a clip's shorter side: a smaller clip is shown larger
FRAMES = 81  # no more is shown of a clip
BYTES = 6 * 2**20  # of a clip that is shown, at most, but for what the coarsest quality takes
QUALITIES = (20, 30, 40, 51)  # H.264's, tried in turn


def playing(
    clips: list[Iterator[ndarray]], size: tuple[int, int], rate: float, most: int = BYTES
) -> str:
    """`small` as data."""
    return _data("video/mp4", small(clips, size, rate, most))


def small(
    clips: list[Iterator[ndarray]], size: tuple[int, int], rate: float, most: int = BYTES
) -> bytes:
    """Clips side by side as one H.264 file that every browser plays.

    Frames H W 3 uint8; size: of one clip as it comes, width and height. most: bytes, but for what the coarsest quality
    takes.
    """
    shown, scale = shown_size(len(clips), size)
    frames = list(islice(_side_by_side(clips, shown, shrunk=scale < 1), FRAMES))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        for quality in QUALITIES:
            video.write_frames(file, frames, max(1, round(rate)), "h264", quality)
            if file.stat().st_size <= most:
                break
        return file.read_bytes()


def shown_size(count: int, size: tuple[int, int]) -> tuple[tuple[int, int], float]:
    """Width and height at which each of so many clips is shown, and by how much that is scaled."""
    enlarging = LEAST / min(size) if min(size) < LEAST else 1.0
    scale = min(WIDTH / (count * size[0]), enlarging)
    return (_even(size[0] * scale), _even(size[1] * scale)), scale


def _even(side: float) -> int:
    return max(2, round(side / 2) * 2)


def _side_by_side(
    clips: list[Iterator[ndarray]], size: tuple[int, int], shrunk: bool
) -> Iterator[ndarray]:
    """As long as the shortest."""
    import cv2

    how = cv2.INTER_AREA if shrunk else cv2.INTER_CUBIC
    for moment in zip(*clips, strict=False):
        yield np.hstack([cv2.resize(frame, size, interpolation=how) for frame in moment])


def evenly(count: int, columns: int = 5) -> list[int]:
    """Places of some of so many frames, from the first to the last."""
    return np.linspace(0, count - 1, min(columns, count)).round().astype(int).tolist()


def strip(rows: Mapping[str, Sequence[ndarray]], zoom: float) -> "Image.Image":
    """A picture with a labelled row for each clip and a column for each of its frames, H W 3 uint8."""
    import cv2
    from PIL import Image, ImageDraw, ImageFont

    how = cv2.INTER_CUBIC if zoom > 1 else cv2.INTER_AREA

    def framed(frame: ndarray) -> ndarray:
        scaled = cv2.resize(frame, None, fx=zoom, fy=zoom, interpolation=how)
        return np.pad(scaled, ((3, 3), (3, 3), (0, 0)), constant_values=255)

    pictures = [np.hstack([framed(frame) for frame in frames]) for frames in rows.values()]
    body = np.vstack(pictures)
    margin = np.full((body.shape[0], 110, 3), 255, np.uint8)
    image = Image.fromarray(np.hstack([margin, body]))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(22)
    for i, name in enumerate(rows):
        middle = int((i + 0.5) * pictures[0].shape[0])
        draw.text((12, middle - 12), name, fill=(40, 40, 40), font=font)
    return image


def as_data(image: "Image.Image") -> str:
    """A picture as data, without loss."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return _data("image/png", file.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
