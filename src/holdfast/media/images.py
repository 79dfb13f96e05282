"""Image files as frames: list those of a folder, read them upright, write them, and convert them to tensors."""

import contextlib
import itertools
import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from .image_files import (
    ORIENTATION,
    SWAPPING_ORIENTATIONS,
    ImageHeader,
    is_system_file,
    read_exif,
)
from .image_frames import check_still

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

MAX_PIXELS = 2**26  # of a frame: 8 times 4K; a small file can unpack to far more
# Exceptions that Pillow's decoders raise for truncated or invalid files.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    OverflowError,
    TypeError,
    struct.error,
    zlib.error,
    EOFError,
)
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class _TooLargeError(Exception):
    """The image has more than MAX_PIXELS."""


def list_images(path: Path) -> tuple[list[Path], list[ImageHeader]]:
    """Return the images of a folder (or the one image) in natural order, and their headers.

    Raise UserError where there are none, or where they differ in size or share a name.
    """
    entries = [path] if path.is_file() else [f for f in path.iterdir() if not is_system_file(f)]
    files = sorted(
        (f for f in entries if f.suffix.lower() in SUFFIXES and f.is_file()), key=_natural_key
    )
    if not files:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise UserError(f"{path} has no images ({suffixes}){_describe_others(entries)}")
    if len({f.stem for f in files}) < len(files):
        raise UserError(
            f"{path} has images of the same name and different formats", "keep one format"
        )
    headers = [read_header(f) for f in files]
    sizes = {header.size: f.name for header, f in reversed([*zip(headers, files, strict=True)])}
    if len(sizes) > 1:
        first, second = itertools.islice(sizes, 2)
        raise UserError(
            f"the images of {path} differ in size: "
            f"{sizes[first]} is {_size_text(first)}, {sizes[second]} is {_size_text(second)}",
            "save them at one size",
        )
    return files, headers


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _describe_others(entries: list[Path]) -> str:
    """Return a phrase for what a folder without images holds, by suffix."""
    ends = Counter(f.suffix.lower() or "/" * f.is_dir() or f.name for f in entries)
    return f"; it holds {', '.join(f'{n} {end}' for end, n in ends.most_common(3))}" if ends else ""


def ignored_names(path: Path) -> list[str]:
    """Return the names in a folder of frames that are not images, except the operating system's files."""
    others = (f for f in path.iterdir() if f.suffix.lower() not in SUFFIXES or not f.is_file())
    return sorted(f.name for f in others if not is_system_file(f))


def _natural_key(file: Path) -> list[int | str]:
    """Sort f2 before f10: texts and numbers alternate."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", file.name)]


@contextlib.contextmanager
def open_image(file: Path) -> "Iterator[Image.Image]":
    """Open an image without decoding it.

    Raise UserError for a file that is not an image, is damaged, is animated, or would fill the memory.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings; what matters is refused here
            with Image.open(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise _TooLargeError(f"{image.width}x{image.height} pixels")
                check_still(image, file)
                yield image
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(
            f"{file} is not a readable image", "use a picture such as PNG or JPEG"
        ) from error
    except (Image.DecompressionBombError, _TooLargeError) as error:
        raise UserError(
            f"{file} exceeds the maximum frame size ({error})", f"use at most {MAX_PIXELS} pixels"
        ) from error
    except DECODE_ERRORS as error:
        raise UserError(f"{file} is damaged: {error}") from error


def read_header(file: Path) -> ImageHeader:
    """Return the header of an image file without decoding the picture. Raise UserError as `open_image` does."""
    with open_image(file) as image:
        return ImageHeader.from_image(image, file)


def size(file: Path) -> tuple[int, int]:
    """Return the width and height of an image file, upright."""
    return read_header(file).size


def read(file: Path) -> ndarray:
    """Return an image upright, H W 3: uint16 where it has more than 8 bits a channel, otherwise uint8."""
    return read_with_alpha(file)[0]


def read_with_alpha(file: Path) -> tuple[ndarray, ndarray | None]:
    """Return an image and its alpha channel, upright, H W 3 and H W of the same integers.

    The alpha channel is None where the image is opaque.
    """
    from PIL import ImageOps

    with open_image(file) as image:
        header = ImageHeader.from_image(image, file)
        if header.bits > 8:
            array = _read_16_bit(file, image)
        else:
            upright = ImageOps.exif_transpose(image)
            array = np.asarray(upright.convert("RGBA" if header.may_have_alpha else "RGB"))
    if array.shape[2] == 3:
        return array, None
    alpha = array[..., 3]
    return array[..., :3], alpha if alpha.min() < np.iinfo(alpha.dtype).max else None


def _read_16_bit(file: Path, image: "Image.Image") -> ndarray:
    """Return an image of 16 bits, H W 3 or H W 4, upright. Pillow reads only grey without loss; OpenCV reads colour."""
    import cv2

    if image.mode.startswith("I;16"):
        array = np.asarray(image).astype(np.uint16)
    else:
        log = cv2.utils.logging
        level = log.getLogLevel()
        log.setLogLevel(log.LOG_LEVEL_SILENT)  # libtiff's messages
        array = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
        log.setLogLevel(level)
        if array is None or array.dtype != np.uint16:
            raise UserError(
                f"{file} has 16 bits a channel in a form that cannot be read", "save it as PNG"
            )
        array = array[..., [2, 1, 0, 3][: array.shape[2]]] if array.ndim == 3 else array
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return np.ascontiguousarray(_apply_orientation(array, read_exif(image).get(ORIENTATION, 1)))


def _apply_orientation(array: ndarray, orientation: int) -> ndarray:
    """Rotate and mirror an array by EXIF's orientation, 1 to 8."""
    if orientation in SWAPPING_ORIENTATIONS:
        array = array.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return array[::rows, ::columns]


def to_rgb(image: "Image.Image") -> ndarray:
    """Return an open image as an array H W 3, uint8."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey instead of scaling it
        grey = to_8_bit(np.asarray(image))
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def to_8_bit(frame: ndarray) -> ndarray:
    """Return a frame of uint8 or uint16 as uint8: the high bytes."""
    if frame.dtype == np.uint8:
        return frame
    return (frame >> 8).astype(np.uint8)


def to_16_bit(frame: ndarray) -> ndarray:
    """Return a frame as uint16. 8 bits are widened so that white stays white."""
    return frame if frame.dtype == np.uint16 else frame.astype(np.uint16) * 257


def to_tensor(array: ndarray) -> "Tensor":
    """Return integers H W 3 as float32 3 H W in [0, 1]."""
    import torch

    peak = np.iinfo(array.dtype).max
    return torch.from_numpy(array.astype(np.float32) / peak).permute(2, 0, 1)


def to_array(frame: "Tensor", bits: int) -> ndarray:
    """Return a frame 3 H W in [0, 1] as H W 3: uint8, or uint16 above 8 bits.

    Raise UserError where a value is not finite.
    """
    dtype = np.uint8 if bits == 8 else np.uint16
    values = frame.permute(1, 2, 0).float().cpu().numpy() * np.iinfo(dtype).max
    if not np.isfinite(values).all():
        raise UserError(
            "a decoded frame holds numbers that are not finite",
            "check the weights of the VAE, or try --dtype float32",
        )
    return np.rint(values).astype(dtype)


def check_output_path(path: Path) -> None:
    """Raise UserError where no image can be written."""
    if path.suffix.lower() not in SUFFIXES:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise UserError(f"{path} does not have the suffix of an image", f"use one of {suffixes}")
    if path.is_dir():
        raise UserError(f"{path} is a folder", "give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} does not exist", "create it first")


def write(path: Path, frame: "Tensor") -> None:
    """Write a frame 3 H W in [0, 1] as an image file of 8 bits."""
    from PIL import Image

    Image.fromarray(to_array(frame, 8)).save(path)


def write_gif(
    path: Path, size: tuple[int, int], times: list[int], frames: Iterable[ndarray]
) -> None:
    """Write a GIF with a palette for each frame.

    size: width, height. times: of each frame and of the end, in hundredths of a second, GIF's unit.
    """
    with av.open(str(path), "w") as out:
        stream = out.add_stream("gif", rate=100)
        stream.width, stream.height = size
        stream.pix_fmt = "pal8"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 100)
        for i, array in enumerate(frames):
            frame = _quantize(array)
            frame.pts = times[i]
            frame.time_base = stream.time_base
            for packet in stream.encode(frame):  # each at once, or the last frame's delay is lost
                packet.duration = times[i + 1] - times[i]
                out.mux(packet)
        out.mux(stream.encode(None))


def _quantize(array: ndarray) -> av.VideoFrame:
    """Return a frame H W 3 with a palette of its own."""
    from PIL import Image

    image = Image.fromarray(to_8_bit(array)).quantize(256)
    palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    colours = np.zeros((256, 4), np.uint8)  # alpha, red, green, blue
    colours[:, 0] = 255
    colours[: len(palette), 1:] = palette
    pair = (np.asarray(image), colours)
    return av.VideoFrame.from_ndarray(
        pair,  # pyright: ignore[reportArgumentType]  # PyAV takes indices and palette; its stubs do not
        "pal8",
    )
