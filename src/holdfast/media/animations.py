"""Animated pictures (WebP, PNG, AVIF, pages of TIFF): all frames, with their delays and their transparency.

Pillow decodes them and composes each frame over the one before it, so every frame here is a complete picture.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import av
import numpy as np

from ..base.errors import UserError
from . import images
from .image_frames import frame_numbers

if TYPE_CHECKING:
    from PIL import Image

P = ParamSpec("P")
T = TypeVar("T")

AVIF = (b"avif", b"avis")  # brands of files that begin like an MP4
HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
DEFAULT_DELAY = 100  # milliseconds of a frame that says 0, as browsers display it
PAGE_DELAY = 40  # milliseconds of a page, which has no time: 25 a second, as in a folder


@dataclass(frozen=True)
class Animation:
    """An animated picture. size: width, height. delays: of each frame, in milliseconds."""

    size: tuple[int, int]
    delays: tuple[Fraction, ...]
    has_alpha: bool
    notes: tuple[str, ...] = ()


def is_image_file(path: Path) -> bool:
    """Return whether a file's content is an image format that can be animated, whatever its name.

    A GIF is one only under the suffix of an image; otherwise FFmpeg reads it. Raise UserError for HEIF, of which FFmpeg
    reads only one tile.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:  # opening it as a video reports the error
        return False
    brands = head[8:] if head[4:8] == b"ftyp" else b""
    if brands[:4] in HEIF and not any(brand in brands for brand in AVIF):
        raise UserError(
            f"{path} is a HEIF picture, which is not supported", "save it as JPEG or PNG"
        )
    if head[:3] == b"GIF":
        return path.suffix.lower() in images.SUFFIXES
    webp, png = head[:4] == b"RIFF" and head[8:12] == b"WEBP", head[:8] == b"\x89PNG\r\n\x1a\n"
    avif = any(brand in brands for brand in AVIF)
    return webp or png or avif or head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_animated(path: Path) -> bool:
    """Return whether an image file has several frames. Raise UserError where it cannot be opened."""
    with _open_image(path) as image:
        try:
            return len(_call_silently(frame_numbers, image)) > 1
        except images.DECODE_ERRORS:  # reading it reports the error
            return False


def scan(path: Path) -> Animation:
    """Read an animated picture from end to end. Raise UserError for pages that differ in size."""
    delays: list[Fraction] = []
    has_alpha = False
    with _open_image(path) as image:
        notes, size = _describe_losses(image), image.size
        for _, frame in _decode_frames(image, path):
            size = size if delays else frame.size
            if frame.size != size:
                now, first = ("{}x{}".format(*s) for s in (frame.size, size))
                raise UserError(
                    f"{path} changes its size: frame {len(delays)} is {now}, the first one {first}",
                    "save its pages at one size",
                )
            delays.append(_frame_delay(image))
            has_alpha |= frame.mode == "RGBA" and frame.getchannel("A").getextrema()[0] != 255
    return Animation(size, tuple(delays), has_alpha, tuple(notes))


def _describe_losses(image: "Image.Image") -> list[str]:
    """Return a sentence where Pillow reads only 8 of the file's bits."""
    deep = image.mode.startswith(("I", "F")) or (image.format == "PNG" and _png_bits(image) == 16)
    return ["16 bits a channel are read as 8"] if deep else []


def _png_bits(image: "Image.Image") -> int:
    from PIL.ImageFile import ImageFile

    assert isinstance(image, ImageFile)
    with open(image.filename, "rb") as file:
        return file.read(25)[24]


def _frame_delay(image: "Image.Image") -> Fraction:
    if image.format == "TIFF":
        return Fraction(PAGE_DELAY)
    delay = Fraction(image.info.get("duration") or 0).limit_denominator(1000)
    return delay if delay >= 1 else Fraction(DEFAULT_DELAY)


def read(path: Path, has_alpha: bool) -> Iterator[av.VideoFrame]:
    """Yield the frames in order as video frames in RGB, or in RGBA where one of them is transparent."""
    mode, layout = ("RGBA", "rgba") if has_alpha else ("RGB", "rgb24")
    with _open_image(path) as image:
        for _, frame in _decode_frames(image, path):
            yield av.VideoFrame.from_ndarray(np.asarray(frame.convert(mode)), layout)


@contextlib.contextmanager
def _open_image(path: Path) -> "Iterator[Image.Image]":
    from PIL import Image, UnidentifiedImageError

    try:
        image = _call_silently(Image.open, path)
    except (UnidentifiedImageError, *images.DECODE_ERRORS) as error:
        raise UserError(f"{path} is not a readable image: {error}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} exceeds the maximum frame size ({error})") from error
    with image:
        if image.width * image.height > images.MAX_PIXELS:
            raise UserError(
                f"{path} exceeds the maximum frame size ({image.width}x{image.height})",
                f"use at most {images.MAX_PIXELS} pixels",
            )
        yield image


def _decode_frames(image: "Image.Image", path: Path) -> "Iterator[tuple[int, Image.Image]]":
    """Yield each frame with its number, upright, in RGB or RGBA. Raise UserError where the file ends early."""
    done = 0
    try:
        for number in _call_silently(frame_numbers, image):
            yield number, _call_silently(_decode, image, number)
            done += 1
    except images.DECODE_ERRORS as error:
        raise UserError(f"{path} is damaged after frame {done}: {error}") from error


def _call_silently(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function without Pillow's warnings: what matters is refused here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def _decode(image: "Image.Image", number: int) -> "Image.Image":
    from PIL import ImageOps

    image.seek(number)
    upright = _to_8_bit(ImageOps.exif_transpose(image))
    return upright.convert("RGBA" if upright.has_transparency_data else "RGB")


def _to_8_bit(image: "Image.Image") -> "Image.Image":
    """Scale 16-bit grey to 8 bits. Pillow would clip it."""
    from PIL import Image

    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray(images.to_8_bit(np.asarray(image).astype(np.uint16)))
