"""Image files as frames: which ones a folder holds, their size, reading them upright at eight bits; GIFs; tensors."""

import contextlib
import itertools
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from numpy import ndarray

from ..errors import UserError
from .image_frames import check_still

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

PIXELS = 2**26  # of a frame, at most: four times 4K twice over; a small file can unpack to far more
# What Pillow's readers raise of files that are cut off or made up.
DAMAGE = (OSError, SyntaxError, ValueError, LookupError, OverflowError, TypeError)
DAMAGE += (struct.error, zlib.error, EOFError)
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class _TooLarge(Exception):
    """An image of more than PIXELS."""


def listed(path: Path) -> tuple[list[Path], tuple[int, int]]:
    """The images of a folder (or the one image) in natural order, and their common size, width and height.

    Raises ValueError where there are none, or where they differ in size or share a name.
    """
    inside = [path] if path.is_file() else path.iterdir()
    files = sorted((f for f in inside if f.suffix.lower() in SUFFIXES), key=_natural)
    if not files:
        raise UserError(f"{path} has no images ({', '.join(sorted(SUFFIXES))})")
    sizes = {size(f): f.name for f in reversed(files)}
    if len({f.stem for f in files}) < len(files):
        raise UserError(f"{path} has images of the same name and different kinds; keep one kind")
    if len(sizes) > 1:
        first, second = itertools.islice(sizes, 2)
        raise UserError(
            f"the images of {path} differ in size: "
            f"{sizes[first]} is {first}, {sizes[second]} is {second}"
        )
    return files, next(iter(sizes))


def _natural(file: Path) -> list[int | str]:
    """f2 before f10: texts and numbers in turn."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", file.name)]


@contextlib.contextmanager
def _opened(file: Path) -> "Iterator[Image.Image]":
    """An image, whole and upright. Raises ValueError for what is none, is damaged, or would fill the memory."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own: what matters is refused here
            with Image.open(file) as image:
                if image.width * image.height > PIXELS:
                    raise _TooLarge(f"{image.width}x{image.height} pixels")
                check_still(image, file)
                upright = ImageOps.exif_transpose(image)  # a copy, so all of it was read
        yield upright
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{file} is not an image that can be read") from error
    except (Image.DecompressionBombError, _TooLarge) as error:
        raise UserError(
            f"{file} is too large to be a frame ({error}); at most {PIXELS} pixels are read"
        ) from error
    except DAMAGE as error:
        raise UserError(f"{file} is damaged: {error}") from error


def size(file: Path) -> tuple[int, int]:
    with _opened(file) as image:
        return image.size


def read(file: Path) -> ndarray:
    with _opened(file) as upright:
        return rgb(upright)


def rgb(image: "Image.Image") -> ndarray:
    """H W 3, uint8."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey, not scale it
        grey = eight_bits(np.asarray(image))
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def eight_bits(frame: ndarray) -> ndarray:
    if frame.dtype == np.uint8:
        return frame
    return (frame >> 8).astype(np.uint8)


def to_tensor(array: ndarray) -> "Tensor":
    """H W 3 integers to 3 H W float32 in [0, 1]."""
    import torch

    peak = np.iinfo(array.dtype).max
    return torch.from_numpy(array.astype(np.float32) / peak).permute(2, 0, 1)


def to_array(frame: "Tensor", bits: int) -> ndarray:
    """3 H W in [0, 1] to H W 3, uint8 or (above 8 bits) uint16."""
    kind = np.uint8 if bits == 8 else np.uint16
    values = frame.permute(1, 2, 0).float().cpu().numpy() * np.iinfo(kind).max
    if not np.isfinite(values).all():
        raise UserError(
            "a decoded frame holds numbers that are not finite: check the weights of the VAE, "
            "or try --dtype float32"
        )
    return np.rint(values).astype(kind)


def check_place(path: Path) -> None:
    """Raises ValueError where no image can be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path} is no image; its name ends in one of {', '.join(sorted(SUFFIXES))}"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{path} cannot be written: it is a folder, or its folder is not there")


def write(path: Path, frame: "Tensor") -> None:
    """A frame 3 H W in [0, 1] as an image file of eight bits."""
    from PIL import Image

    Image.fromarray(to_array(frame, 8)).save(path)


def write_gif(
    path: Path, size: tuple[int, int], times: list[int], frames: Iterable[ndarray]
) -> None:
    """A GIF with a palette for each frame; times in hundredths of a second, as the format has them, with the end's.

    size: width, height.
    """
    with av.open(str(path), "w") as out:
        stream = out.add_stream("gif", rate=100)
        stream.width, stream.height = size
        stream.pix_fmt = "pal8"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 100)
        for i, array in enumerate(frames):
            frame = _with_palette(array)
            frame.pts = times[i]
            frame.time_base = stream.time_base
            for packet in stream.encode(frame):  # each at once, or the last frame's delay is lost
                packet.duration = times[i + 1] - times[i]
                out.mux(packet)
        out.mux(stream.encode(None))


def _with_palette(array: ndarray) -> av.VideoFrame:
    from PIL import Image

    image = Image.fromarray(eight_bits(array)).quantize(256)
    used = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    colours = np.zeros((256, 4), np.uint8)  # alpha, red, green, blue
    colours[:, 0] = 255
    colours[: len(used), 1:] = used
    return av.VideoFrame.from_ndarray((np.asarray(image), colours), "pal8")
