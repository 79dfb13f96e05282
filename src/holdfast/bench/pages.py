"""Pages that need nothing but themselves: templates beside this file, pictures and clips inside as data."""

import base64
from collections.abc import Iterator
from pathlib import Path

from numpy import ndarray

from ..base.errors import MissingDependencyError
from ..base.files import atomic_write
from ..media import images, video
from ..media.previews import MAX_BYTES

PAGE_BYTES = 100 * 2**20  # of a page's clips, at most: browsers and mail have trouble with more


def clip_bytes(count: int) -> int:
    """How large each of so many clips may be on one page, before it is written as text."""
    return min(MAX_BYTES, PAGE_BYTES * 3 // 4 // max(1, count))


def filled(template: str, values: dict) -> str:
    """A template of this folder with its values, escaped for HTML."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError("pages need jinja2; get it with: pip install 'holdfast[bench]'") from error

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
    with atomic_write(path) as part:
        part.write_text(text)


def picture(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def frames_of(path: str | Path) -> tuple[video.Clip, Iterator[ndarray]]:
    """A clip and its frames at 8 bits."""
    clip = video.probe(path)
    return clip, map(images.to_8_bit, video.read(clip))


def sized(frames: Iterator[ndarray], size: tuple[int, int]) -> Iterator[ndarray]:
    """Frames at another width and height."""
    import cv2

    for frame in frames:
        same = frame.shape[1::-1] == size
        yield frame if same else cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
