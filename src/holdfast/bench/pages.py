"""Pages that need nothing but themselves: templates beside this file, pictures and clips inside as data."""

import base64
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy import ndarray

from ..files import publish
from ..media import images, video
from ..registry import Missing

WIDTH = 960  # pixels, at most, of a strip of clips
LEAST = 192  # pixels of a clip's shorter side: a smaller clip is shown larger
FRAMES = 81  # a page shows no more of a clip


def filled(template: str, values: dict) -> str:
    """A template of this folder with its values, escaped for HTML."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise Missing("pages need jinja2; get it with: pip install 'holdfast[bench]'") from error

    here = Path(__file__).parent
    world = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return world.get_template(template).render(values)


def write_text(path: Path, text: str) -> None:
    """A file that is whole or not there."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    publish(part, path)


def picture(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def playing(clips: list[Iterator[ndarray]], size: tuple[int, int], rate: float) -> str:
    """Clips side by side as one H.264 clip, as data.

    Frames H W 3 uint8; size: of one clip as it comes, width and height.
    """
    enlarging = LEAST / min(size) if min(size) < LEAST else 1.0
    scale = min(WIDTH / (len(clips) * size[0]), enlarging)
    shown = (_even(size[0] * scale), _even(size[1] * scale))
    frames = list(islice(_side_by_side(clips, shown, shrunk=scale < 1), FRAMES))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        video.write_frames(file, frames, max(1, round(rate)), "h264", 20)
        return "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode()


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


def frames_of(path: str | Path) -> tuple[video.Clip, Iterator[ndarray]]:
    """A clip and its frames at 8 bits."""
    clip = video.probe(path)
    return clip, map(images.eight_bits, video.read(clip))


def sized(frames: Iterator[ndarray], size: tuple[int, int]) -> Iterator[ndarray]:
    """Frames at another width and height."""
    import cv2

    for frame in frames:
        same = frame.shape[1::-1] == size
        yield frame if same else cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
