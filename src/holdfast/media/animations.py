"""Animated pictures (WebP, PNG, AVIF, pages of TIFF): all of their frames, with their delays and their opacity.

Pillow decodes them, so what a frame lays over the one before, and how, is settled here: each comes out whole.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from ..base.errors import UserError
from . import images
from .image_frames import frame_numbers

if TYPE_CHECKING:
    from PIL import Image

AVIF = (b"avif", b"avis")  # brands of files that begin as an MP4 does
HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
UNSAID = 100  # milliseconds of a frame that says 0, as browsers show it
PAGE = 40  # of a page, which has no time: 25 a second, as in a folder


@dataclass(frozen=True)
class Animation:
    """size: width, height. delays: of each frame, in milliseconds."""

    size: tuple[int, int]
    delays: tuple[Fraction, ...]
    has_alpha: bool
    notes: tuple[str, ...] = ()


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its content, whatever its name, and of a kind that can be animated. A GIF, which
    FFmpeg reads, is one only under the name of a picture. Raises UserError for HEIF, of which FFmpeg sees a tile.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:  # opening it as a video says what is wrong
        return False
    brands = head[8:] if head[4:8] == b"ftyp" else b""
    if brands[:4] in HEIF and not any(brand in brands for brand in AVIF):
        raise UserError(f"{path} is a picture in HEIF, which is not read", "save it as JPEG or PNG")
    if head[:3] == b"GIF":
        return path.suffix.lower() in images.SUFFIXES
    webp, png = head[:4] == b"RIFF" and head[8:12] == b"WEBP", head[:8] == b"\x89PNG\r\n\x1a\n"
    avif = any(brand in brands for brand in AVIF)
    return webp or png or avif or head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_animated(path: Path) -> bool:
    """Whether the file of a picture has several frames. Raises UserError where it is none."""
    with _open(path) as image:
        try:
            return len(_quietly(frame_numbers, image)) > 1
        except images.DAMAGE:  # reading it says what is wrong
            return False


def describe(path: Path) -> Animation:
    """Read a picture from end to end. Raises UserError for pages that differ in size."""
    size, delays, clear, last = None, [], False, None
    with _open(path) as image:
        notes = _losses(image)
        for number, frame in _frames(image, path):
            size, last = size or frame.size, last or number
            if frame.size != size:
                now, first = ("{}x{}".format(*s) for s in (frame.size, size))
                raise UserError(
                    f"{path} changes its size: frame {len(delays)} is {now}, the first one {first}",
                    "save its pages at one size",
                )
            delays.append(_delay(image))
            clear |= frame.mode == "RGBA" and frame.getextrema()[3][0] < 255
    return Animation(size, tuple(delays), clear, tuple(notes))


def _losses(image: "Image.Image") -> list[str]:
    """Pillow reads at most eight bits a colour of these."""
    deep = image.mode.startswith(("I", "F")) or (image.format == "PNG" and _png_depth(image) == 16)
    return ["16 bits a channel are read as 8"] if deep else []


def _png_depth(image: "Image.Image") -> int:
    with open(image.filename, "rb") as file:
        return file.read(25)[24]


def _delay(image: "Image.Image") -> Fraction:
    if image.format == "TIFF":
        return Fraction(PAGE)
    said = Fraction(image.info.get("duration") or 0).limit_denominator(1000)
    return said if said >= 1 else Fraction(UNSAID)


def read(path: Path, has_alpha: bool) -> Iterator[av.VideoFrame]:
    """The frames in order, as video frames in RGB, or RGBA where some of it is seen through."""
    mode, layout = ("RGBA", "rgba") if has_alpha else ("RGB", "rgb24")
    with _open(path) as image:
        for _, frame in _frames(image, path):
            yield av.VideoFrame.from_ndarray(np.asarray(frame.convert(mode)), layout)


@contextlib.contextmanager
def _open(path: Path) -> "Iterator[Image.Image]":
    from PIL import Image, UnidentifiedImageError

    try:
        image = _quietly(Image.open, path)
    except (UnidentifiedImageError, *images.DAMAGE) as error:
        raise UserError(f"{path} is not an image that can be read: {error}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large to be a frame ({error})") from error
    with image:
        if image.width * image.height > images.PIXELS:
            raise UserError(
                f"{path} is too large to be a frame ({image.width}x{image.height}); "
                f"at most {images.PIXELS} pixels are read"
            )
        yield image


def _frames(image: "Image.Image", path: Path) -> "Iterator[tuple[int, Image.Image]]":
    """Each frame, upright, in RGB or RGBA. Raises UserError where the file breaks off."""
    done = 0
    try:
        for number in _quietly(frame_numbers, image):
            yield number, _quietly(_decode, image, number)
            done += 1
    except images.DAMAGE as error:
        raise UserError(f"{path} is damaged after frame {done}: {error}") from error


def _quietly(read: Callable, *arguments):
    """Pillow's own warnings are left out: what matters is refused here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read(*arguments)


def _decode(image: "Image.Image", number: int) -> "Image.Image":
    from PIL import ImageOps

    image.seek(number)
    upright = _in_eight_bits(ImageOps.exif_transpose(image))
    return upright.convert("RGBA" if upright.has_transparency_data else "RGB")


def _in_eight_bits(image: "Image.Image") -> "Image.Image":
    """Pillow would clip 16-bit grey, not scale it."""
    from PIL import Image

    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray(images.eight_bits(np.asarray(image).astype(np.uint16)))
