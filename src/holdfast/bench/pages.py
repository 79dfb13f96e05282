"""Self-contained pages: templates of this folder, with pictures and clips embedded as data."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

from numpy import ndarray

from ..base.errors import MissingDependencyError, install_remedy
from ..base.files import atomic_write
from ..media import images, video
from ..media.previews import MAX_BYTES

PAGE_BYTES = 100 * 2**20  # limit for the clips of a page: browsers and mail struggle with more
MAX_IMAGE_SIDE = 640  # pixels of a still picture on a page


def max_clip_bytes(count: int) -> int:
    """Return how large each of `count` clips on a page may be, in bytes before base64."""
    return min(MAX_BYTES, PAGE_BYTES * 3 // 4 // max(1, count))


def render_template(template: str, values: dict) -> str:
    """Render a template of this folder, with values escaped for HTML."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError("pages need jinja2", install_remedy("bench")) from error

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(values)


def write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    with atomic_write(path) as part:
        part.write_text(text)


def svg_data_url(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def image_data_url(path: Path) -> str:
    """Return an image file as a PNG of at most MAX_IMAGE_SIDE pixels a side."""
    from PIL import Image

    picture = Image.fromarray(images.to_8_bit(images.read(path)))
    picture.thumbnail((MAX_IMAGE_SIDE, MAX_IMAGE_SIDE))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def open_clip(path: str | Path) -> tuple[video.Clip, Iterator[ndarray]]:
    """Return a clip and its frames, H W 3 with 8 bits."""
    clip = video.probe(path)
    return clip, map(images.to_8_bit, video.read(clip))


def resize_frames(frames: Iterator[ndarray], size: tuple[int, int]) -> Iterator[ndarray]:
    """Yield frames resized to a width and height."""
    import cv2

    for frame in frames:
        same = frame.shape[1::-1] == size
        yield frame if same else cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
