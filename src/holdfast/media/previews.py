"""Small previews of clips: clips side by side as one short video, and strips of sample frames; also as data URLs."""

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

MAX_WIDTH = 960  # pixels, of all clips side by side
MIN_SIDE = 192  # pixels of a clip's shorter side: a smaller clip is enlarged
MAX_FRAMES = 81
MAX_BYTES = 6 * 2**20  # of a preview; the coarsest quality may exceed it
QUALITIES = (20, 30, 40, 51)  # H.264's CRF, tried in turn


def preview_data_url(
    clips: Sequence[Iterator[ndarray]],
    size: tuple[int, int],
    rate: float,
    max_bytes: int = MAX_BYTES,
) -> str:
    """Return `encode_preview` as a data URL."""
    return _data_url("video/mp4", encode_preview(clips, size, rate, max_bytes))


def encode_preview(
    clips: Sequence[Iterator[ndarray]],
    size: tuple[int, int],
    rate: float,
    max_bytes: int = MAX_BYTES,
) -> bytes:
    """Return clips side by side as one H.264 file that every browser plays.

    clips: frames H W 3 uint8. size: width and height of one clip. rate: frames per second.
    max_bytes: the coarsest quality may exceed it.
    """
    shown, scale = preview_size(len(clips), size)
    frames = list(islice(_stack_side_by_side(clips, shown, shrinks=scale < 1), MAX_FRAMES))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        for quality in QUALITIES:
            video.write_frames(file, frames, max(1, round(rate)), "h264", quality)
            if file.stat().st_size <= max_bytes:
                break
        return file.read_bytes()


def preview_size(count: int, size: tuple[int, int]) -> tuple[tuple[int, int], float]:
    """Return the width and height of each of `count` clips in a preview, and the scale."""
    enlargement = MIN_SIDE / min(size) if min(size) < MIN_SIDE else 1.0
    scale = min(MAX_WIDTH / (count * size[0]), enlargement)
    return (_round_to_even(size[0] * scale), _round_to_even(size[1] * scale)), scale


def _round_to_even(side: float) -> int:
    return max(2, round(side / 2) * 2)


def _stack_side_by_side(
    clips: Sequence[Iterator[ndarray]], size: tuple[int, int], shrinks: bool
) -> Iterator[ndarray]:
    """Yield frames of all clips side by side, as many as the shortest clip has."""
    import cv2

    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    for frames in zip(*clips, strict=False):
        yield np.hstack([cv2.resize(frame, size, interpolation=interpolation) for frame in frames])


def sample_indices(count: int, columns: int = 5) -> list[int]:
    """Return the indices of evenly spaced frames, from the first to the last."""
    return np.linspace(0, count - 1, min(columns, count)).round().astype(int).tolist()


def draw_strip(rows: Mapping[str, Sequence[ndarray]], zoom: float) -> "Image.Image":
    """Return a picture with a labelled row for each clip and a column for each of its frames, H W 3 uint8."""
    import cv2
    from PIL import Image, ImageDraw, ImageFont

    interpolation = cv2.INTER_CUBIC if zoom > 1 else cv2.INTER_AREA

    def add_border(frame: ndarray) -> ndarray:
        scaled = cv2.resize(frame, None, fx=zoom, fy=zoom, interpolation=interpolation)
        return np.pad(scaled, ((3, 3), (3, 3), (0, 0)), constant_values=255)

    pictures = [np.hstack([add_border(frame) for frame in frames]) for frames in rows.values()]
    body = np.vstack(pictures)
    margin = np.full((body.shape[0], 110, 3), 255, np.uint8)
    image = Image.fromarray(np.hstack([margin, body]))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(22)
    for i, name in enumerate(rows):
        middle = int((i + 0.5) * pictures[0].shape[0])
        draw.text((12, middle - 12), name, fill=(40, 40, 40), font=font)
    return image


def image_data_url(image: "Image.Image") -> str:
    """Return a picture as a data URL, without loss."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return _data_url("image/png", file.getvalue())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
