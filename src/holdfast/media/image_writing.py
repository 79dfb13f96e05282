"""Write a frame as an image file: 8 or 16 bits, with the opacity, colour profile and camera data of its source."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from numpy import ndarray

from . import images
from .image_files import Header, carried_exif

SEEN_THROUGH = {"", ".png", ".webp", ".tif", ".tiff"}  # images, and the folder of them
DEEP = {"", ".png", ".tif", ".tiff"}  # of 16 bits
DESCRIBED = {"", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}  # with profile and camera data
# A photograph comes back as it was, as far as its kind can.
QUALITY = {".jpg": {"quality": 97, "subsampling": 0}, ".webp": {"lossless": True}}
QUALITY[".jpeg"] = QUALITY[".jpg"]


def save(path: Path, frame: ndarray, source: Path | None, opaque: bool) -> None:
    """Write a frame H W 3 under a name whose ending says its kind.

    source: the image that it was made from. opaque: leave out its opacity.
    """
    suffix = path.suffix.lower()
    described = describe(source) if source else {}
    if suffix not in DEEP:
        frame = images.eight_bits(frame)
    alpha = None
    if source and not opaque and suffix in SEEN_THROUGH and images.read_header(source).may_be_clear:
        alpha = images.read_layers(source)[1]
    if alpha is not None:
        alter = images.sixteen_bits if frame.dtype == np.uint16 else images.eight_bits
        frame = np.dstack((frame, alter(alpha)))
    if frame.dtype == np.uint16:
        _save_deep(path, frame, described)
    else:
        _save_plain(path, frame, described if suffix in DESCRIBED else {})


def holds_description(suffix: str, bits: int) -> bool:
    """Return whether a kind of image keeps profile and camera data at a depth."""
    return suffix in (DESCRIBED if bits == 8 else DESCRIBED - {".tif", ".tiff"})


def describe(source: Path) -> dict[str, bytes]:
    """Return the colour profile and the camera data of an image, as far as they suit RGB."""
    found = {}
    with images.opened(source) as image:
        header = Header.of(image, source)
        if header.profile and header.is_rgb:
            found["icc_profile"] = header.profile
        if header.has_exif:
            found["exif"] = carried_exif(image)
    return found


def _save_plain(path: Path, frame: ndarray, described: dict[str, bytes]) -> None:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, of camera data that break its rules
        Image.fromarray(frame).save(path, **QUALITY.get(path.suffix.lower(), {}), **described)


def _save_deep(path: Path, frame: ndarray, described: dict[str, bytes]) -> None:
    """OpenCV writes 16 bits, and no profile: a PNG's is put in after its header."""
    import cv2

    swapped = np.ascontiguousarray(frame[..., [2, 1, 0, 3][: frame.shape[2]]])
    _, coded = cv2.imencode(path.suffix.lower(), swapped)
    data = coded.tobytes()
    if path.suffix.lower() == ".png":
        begin = 8 + 25  # signature and header
        data = data[:begin] + b"".join(_chunks(described)) + data[begin:]
    path.write_bytes(data)


def _chunks(described: dict[str, bytes]) -> list[bytes]:
    made = []
    if "icc_profile" in described:
        body = b"icc\0\0" + zlib.compress(described["icc_profile"])
        made.append(_chunk(b"iCCP", body))
    if "exif" in described:
        made.append(_chunk(b"eXIf", described["exif"].removeprefix(b"Exif\0\0")))
    return made


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
