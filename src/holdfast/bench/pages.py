"""Pages that need nothing but themselves: templates beside this file, pictures and clips inside as data."""

import base64
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from .. import video
from ..registry import Missing
from ..shapeworld.demo import synthetic

WIDTH = 960  # pixels, at most, of a strip of clips
FRAMES = 81  # a page shows no more of a clip


def filled(template: str, values: dict) -> str:
    """A template of this folder with its values, escaped for HTML."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise Missing("pages need jinja2; get it with: pip install 'holdfast[bench]'") from error

    world = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return world.get_template(template).render(values)


def picture(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def playing(clips: list[Iterator[np.ndarray]], size: tuple[int, int], rate: float) -> str:
    """Clips side by side as one H.264 clip, as data. Frames H W 3 uint8; size: of one clip as it comes, width and height."""
    import cv2

    scale = min(WIDTH / (len(clips) * size[0]), 192 / min(size) if min(size) < 192 else 1.0)
    width, height = (max(2, round(s * scale / 2) * 2) for s in size)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    rows = (np.hstack([cv2.resize(f, (width, height), interpolation=how) for f in moment]) for moment in zip(*clips))  # noqa: B905
    frames = list(islice(rows, FRAMES))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        video.write(file, synthetic(frames, max(1, round(rate))), frames, "h264", 20)
        return "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode()


def frames_of(path: str | Path) -> tuple[video.Clip, Iterator[np.ndarray]]:
    """A clip and its frames at 8 bits."""
    clip = video.probe(path)
    return clip, (f if f.dtype == np.uint8 else (f >> 8).astype(np.uint8) for f in video.read(clip))


def sized(frames: Iterator[np.ndarray], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Frames at another width and height."""
    import cv2

    return (f if f.shape[1::-1] == size else cv2.resize(f, size, interpolation=cv2.INTER_CUBIC) for f in frames)
