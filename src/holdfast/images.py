"""Image files as frames: which ones a folder holds, their size, reading them upright at eight bits; GIFs."""

import itertools
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def listed(path: Path) -> tuple[list[Path], tuple[int, int]]:
    """The images of a folder (or the one image) in natural order, and their common size, width and height.

    Raises ValueError where there are none, or where they differ in size or share a name.
    """
    files = [path] if path.is_file() else [f for f in path.iterdir() if f.suffix.lower() in SUFFIXES]
    files.sort(key=lambda f: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", f.name)])
    if not files:
        raise ValueError(f"{path} has no images ({', '.join(sorted(SUFFIXES))})")
    sizes = {size(f): f for f in reversed(files)}
    if len({f.stem for f in files}) < len(files):
        raise ValueError(f"{path} has images of the same name and different kinds; keep one kind")
    if len(sizes) > 1:
        (a, b), *_ = itertools.pairwise(sizes.items())
        raise ValueError(f"the images of {path} differ in size: {a[1].name} is {a[0]}, {b[1].name} is {b[0]}")
    return files, next(iter(sizes))


def size(file: Path) -> tuple[int, int]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            return ImageOps.exif_transpose(image).size
    except UnidentifiedImageError as error:
        raise ValueError(f"{file} is not an image that can be read") from error


def read(file: Path) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # Pillow would clip 16-bit grey, not scale it
                return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[..., None], 3, axis=2)
            return np.asarray(upright.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def eight_bits(frame: np.ndarray) -> np.ndarray:
    return frame if frame.dtype == np.uint8 else (frame >> 8).astype(np.uint8)


def write_gif(path: Path, size: tuple[int, int], times: list[int], frames: Iterable[np.ndarray]) -> None:
    """A GIF with a palette for each frame; times in hundredths of a second, as the format has them. size: width, height."""
    from PIL import Image

    with av.open(str(path), "w") as out:
        stream = out.add_stream("gif", rate=100)
        stream.width, stream.height, stream.pix_fmt = *size, "pal8"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 100)
        for i, array in enumerate(frames):
            image = Image.fromarray(eight_bits(array)).quantize(256)
            colours = np.zeros((256, 4), np.uint8)
            used = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
            colours[:, 0], colours[: len(used), 1:] = 255, used
            frame = av.VideoFrame.from_ndarray((np.asarray(image), colours), "pal8")
            frame.pts, frame.time_base = times[i], stream.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
