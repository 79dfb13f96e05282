"""Image files as frames: which ones a folder holds, their size, reading them upright; GIFs; tensors."""

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
from .image_files import ORIENTATION, SIDEWAYS, Header, exif_of, is_system_file
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


def listed(path: Path) -> tuple[list[Path], list[Header]]:
    """Return the images of a folder (or the one image) in natural order, and what each says of itself.

    Raises UserError where there are none, or where they differ in size or share a name.
    """
    inside = [path] if path.is_file() else [f for f in path.iterdir() if not is_system_file(f)]
    files = sorted(
        (f for f in inside if f.suffix.lower() in SUFFIXES and f.is_file()), key=_natural
    )
    if not files:
        raise UserError(f"{path} has no images ({', '.join(sorted(SUFFIXES))}){_others(inside)}")
    if len({f.stem for f in files}) < len(files):
        raise UserError(f"{path} has images of the same name and different kinds; keep one kind")
    headers = [read_header(f) for f in files]
    sizes = {header.size: f.name for header, f in reversed([*zip(headers, files, strict=True)])}
    if len(sizes) > 1:
        first, second = itertools.islice(sizes, 2)
        raise UserError(
            f"the images of {path} differ in size: "
            f"{sizes[first]} is {first}, {sizes[second]} is {second}"
        )
    return files, headers


def _others(inside: list[Path]) -> str:
    """What a folder without images holds, by how its names end."""
    ends = Counter(f.suffix.lower() or "/" * f.is_dir() or f.name for f in inside)
    return f"; it holds {', '.join(f'{n} {end}' for end, n in ends.most_common(3))}" if ends else ""


def left_over(path: Path) -> list[str]:
    """Return the names in a folder of frames that are no images, without the system's own."""
    others = (f for f in path.iterdir() if f.suffix.lower() not in SUFFIXES or not f.is_file())
    return sorted(f.name for f in others if not is_system_file(f))


def _natural(file: Path) -> list[int | str]:
    """f2 before f10: texts and numbers in turn."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", file.name)]


@contextlib.contextmanager
def opened(file: Path) -> "Iterator[Image.Image]":
    """An image, not decoded yet. Raises UserError for what is none, is damaged, or would fill the memory."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own: what matters is refused here
            with Image.open(file) as image:
                if image.width * image.height > PIXELS:
                    raise _TooLarge(f"{image.width}x{image.height} pixels")
                check_still(image, file)
                yield image
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


def read_header(file: Path) -> Header:
    """Return what an image file says of itself; its picture is not decoded. Raises UserError."""
    with opened(file) as image:
        return Header.of(image, file)


def size(file: Path) -> tuple[int, int]:
    return read_header(file).size


def read(file: Path) -> ndarray:
    """Return an image upright, H W 3: uint16 where it has more than eight bits a channel, else uint8."""
    return read_layers(file)[0]


def read_layers(file: Path) -> tuple[ndarray, ndarray | None]:
    """Return an image and its opacity, upright: H W 3 and H W of the same integers; None where it is solid."""
    from PIL import ImageOps

    with opened(file) as image:
        header = Header.of(image, file)
        if header.bits > 8:
            array = _read_deep(file, image)
        else:
            upright = ImageOps.exif_transpose(image)
            array = np.asarray(upright.convert("RGBA" if header.may_be_clear else "RGB"))
    if array.shape[2] == 3:
        return array, None
    alpha = array[..., 3]
    return array[..., :3], alpha if alpha.min() < np.iinfo(alpha.dtype).max else None


def _read_deep(file: Path, image: "Image.Image") -> ndarray:
    """An image of 16 bits, H W 3 or H W 4, upright. Pillow reads grey alone without loss, OpenCV all kinds."""
    import cv2

    if image.mode.startswith("I;16"):
        array = np.asarray(image).astype(np.uint16)
    else:
        log = cv2.utils.logging
        level = log.getLogLevel()
        log.setLogLevel(log.LOG_LEVEL_SILENT)  # libtiff's own remarks
        array = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
        log.setLogLevel(level)
        if array is None or array.dtype != np.uint16:
            raise UserError(f"{file} has 16 bits in a form that cannot be read", "save it as PNG")
        array = array[..., [2, 1, 0, 3][: array.shape[2]]] if array.ndim == 3 else array
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return np.ascontiguousarray(_turned(array, exif_of(image).get(ORIENTATION, 1)))


def _turned(array: ndarray, orientation: int) -> ndarray:
    """Turn and mirror an array as EXIF's orientation, 1 to 8, says."""
    if orientation in SIDEWAYS:
        array = array.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return array[::rows, ::columns]


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


def sixteen_bits(frame: ndarray) -> ndarray:
    """Return integers that fill 16 bits; those of eight are widened so that white stays white."""
    return frame if frame.dtype == np.uint16 else frame.astype(np.uint16) * 257


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
