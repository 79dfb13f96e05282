"""Write a frame as an image file of 8 or 16 bits, with the transparency, colour profile and EXIF data of its source."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from numpy import ndarray

from . import images
from .image_files import ImageHeader, exif_without_orientation

# Suffixes of image files; the empty one is a folder of PNG files.
WITH_ALPHA = {"", ".png", ".webp", ".tif", ".tiff"}
SIXTEEN_BIT = {"", ".png", ".tif", ".tiff"}
WITH_METADATA = {"", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}  # colour profile and EXIF
# As close to lossless as each format allows.
QUALITY = {".jpg": {"quality": 97, "subsampling": 0}, ".webp": {"lossless": True}}
QUALITY[".jpeg"] = QUALITY[".jpg"]


def write_image(path: Path, frame: ndarray, source: Path | None, opaque: bool) -> None:
    """Write a frame H W 3 in the format that the suffix selects.

    source: the image that the frame was made from. opaque: drop the source's alpha channel.
    """
    suffix = path.suffix.lower()
    metadata = read_metadata(source) if source else {}
    if suffix not in SIXTEEN_BIT:
        frame = images.to_8_bit(frame)
    alpha = None
    if source and not opaque and suffix in WITH_ALPHA and images.read_header(source).may_have_alpha:
        alpha = images.read_with_alpha(source)[1]
    if alpha is not None:
        convert = images.to_16_bit if frame.dtype == np.uint16 else images.to_8_bit
        frame = np.dstack((frame, convert(alpha)))
    if frame.dtype == np.uint16:
        _write_16_bit(path, frame, metadata)
    else:
        _write_8_bit(path, frame, metadata if suffix in WITH_METADATA else {})


def keeps_metadata(suffix: str, bits: int) -> bool:
    """Return whether an image format keeps colour profile and EXIF data at a depth."""
    return suffix in (WITH_METADATA if bits == 8 else WITH_METADATA - {".tif", ".tiff"})


def read_metadata(source: Path) -> dict[str, bytes]:
    """Return the colour profile (if it is one of RGB) and the EXIF data of an image."""
    metadata = {}
    with images.open_image(source) as image:
        header = ImageHeader.from_image(image, source)
        if header.profile and header.is_rgb:
            metadata["icc_profile"] = header.profile
        if header.has_exif:
            metadata["exif"] = exif_without_orientation(image)
    return metadata


def _write_8_bit(path: Path, frame: ndarray, metadata: dict[str, bytes]) -> None:
    from PIL import Image

    options: dict[str, object] = {**QUALITY.get(path.suffix.lower(), {}), **metadata}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about EXIF data that break its rules
        Image.fromarray(frame).save(path, None, **options)


def _write_16_bit(path: Path, frame: ndarray, metadata: dict[str, bytes]) -> None:
    """Write 16 bits with OpenCV, which keeps no metadata. Insert a PNG's metadata after its header."""
    import cv2

    swapped = np.ascontiguousarray(frame[..., [2, 1, 0, 3][: frame.shape[2]]])
    _, encoded = cv2.imencode(path.suffix.lower(), swapped)
    data = encoded.tobytes()
    if path.suffix.lower() == ".png":
        begin = 8 + 25  # signature and header
        data = data[:begin] + b"".join(_png_chunks(metadata)) + data[begin:]
    path.write_bytes(data)


def _png_chunks(metadata: dict[str, bytes]) -> list[bytes]:
    chunks = []
    if "icc_profile" in metadata:
        body = b"icc\0\0" + zlib.compress(metadata["icc_profile"])
        chunks.append(_png_chunk(b"iCCP", body))
    if "exif" in metadata:
        chunks.append(_png_chunk(b"eXIf", metadata["exif"].removeprefix(b"Exif\0\0")))
    return chunks


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
