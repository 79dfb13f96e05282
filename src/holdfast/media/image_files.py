"""The header of an image file, read without decoding: size, depth, colour mode, profile; is the file complete?"""

import functools
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

ORIENTATION = 0x0112  # EXIF's tag
EXIF_FOLDERS = (34665, 34853)  # of the camera's settings, and of the place
# Description, make, model, software, time, author, copyright: the EXIF tags that are copied to a result.
COPIED_TAGS = (270, 271, 272, 305, 306, 315, 33432, *EXIF_FOLDERS)
SWAPPING_ORIENTATIONS = {5, 6, 7, 8}  # these swap width and height
OPENCV_MODES = {"RGB", "RGBA", "RGBX", "LA"}  # Pillow reads 8 of their 16 bits, OpenCV all of them
EIGHT_BIT_MODES = {
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "RGBa",
    "La",
    "CMYK",
    "YCbCr",
    "LAB",
}
APPROXIMATED_MODES = ("CMYK", "LAB")  # these become RGB by an approximate rule
# Files of an operating system or file manager, copied along with a folder of frames.
SYSTEM_NAMES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "__macosx", "icon\r"}


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself before it is decoded."""

    size: tuple[int, int]  # width, height, upright
    mode: str  # Pillow's
    bits: int  # a channel, as decoded: 8 or 16
    stored_bits: int
    may_have_alpha: bool  # it has an alpha channel or a transparent colour
    profile: bytes = b""  # ICC
    has_exif: bool = False

    @classmethod
    def from_image(cls, image: "Image.Image", file: Path) -> "ImageHeader":
        """Return the header of an image that Pillow opened but did not decode.

        Raise UserError for numbers that are not colours, and for a file that ends early.
        """
        stored = _stored_bits(image)  # a decoded image no longer says
        if _check_complete(image, file):
            image.load()  # a PNG may give its orientation after its pixels
        if image.mode not in EIGHT_BIT_MODES and not image.mode.startswith("I;16"):
            kind = "floating-point" if image.mode == "F" else "32-bit or signed"
            raise UserError(f"{file} holds {kind} numbers", "save it with 8 or 16 bits a channel")
        exif, (width, height) = read_exif(image), image.size
        is_deep = stored > 8 and (image.mode in OPENCV_MODES or image.mode.startswith("I;16"))
        swaps = exif.get(ORIENTATION) in SWAPPING_ORIENTATIONS
        return cls(
            size=(height, width) if swaps else (width, height),
            mode=image.mode,
            bits=16 if is_deep else 8,
            stored_bits=stored,
            may_have_alpha=image.has_transparency_data,
            profile=image.info.get("icc_profile") or b"",
            has_exif=any(tag in exif for tag in COPIED_TAGS),
        )

    @property
    def is_rgb(self) -> bool:
        """Return whether the profile describes RGB values. Only RGB values are written."""
        return self.profile[16:20] == b"RGB "

    @property
    def profile_name(self) -> str:
        """Return the profile's own name; empty for sRGB, which readers assume, and where there is no profile."""
        return _profile_name(self.profile) if self.profile else ""


def is_system_file(path: Path) -> bool:
    """Return whether a file is hidden (._0001.png, .DS_Store) or one that an operating system leaves in folders."""
    return path.name.startswith(".") or path.name.lower() in SYSTEM_NAMES


def read_exif(image: "Image.Image") -> "Image.Exif":
    """Return the EXIF data that are known without decoding. Pillow's own method for PNG decodes the image."""
    from PIL import Image

    return Image.Image.getexif(image)


def exif_without_orientation(image: "Image.Image") -> bytes:
    """Return the EXIF data to copy, without the orientation: pictures are written upright."""
    from PIL import Image

    exif, copied = read_exif(image), Image.Exif()
    for tag in COPIED_TAGS:
        if tag in exif:
            copied[tag] = exif.get_ifd(tag) if tag in EXIF_FOLDERS else exif[tag]
    return copied.tobytes()


def _stored_bits(image: "Image.Image") -> int:
    if image.mode.startswith("I;16"):
        return 16
    tiles = getattr(image, "tile", [])  # of files only; other images have none
    arguments = tiles[0][3] if tiles else ""
    raw = arguments if isinstance(arguments, str) else next(iter(arguments or ("",)))
    return 16 if ";16" in str(raw) else 8


def _check_complete(image: "Image.Image", file: Path) -> bool:
    """Raise UserError for a file that ends early, without decoding it.

    Return whether a PNG has text or EXIF data after its pixels.
    """
    size = file.stat().st_size
    if image.format == "PNG":
        return _check_png(file)
    ends = {"JPEG": _jpeg_end, "WEBP": _header_end, "BMP": _header_end, "TIFF": _tiff_end}
    find_end = ends.get(image.format or "")
    if find_end and find_end(image, file) > size:
        raise UserError(f"{file} is damaged: it ends early, after {size} bytes")
    return False


def _check_png(file: Path) -> bool:
    has_late_data, has_pixels = False, False
    with file.open("rb") as data:
        data.seek(8)
        while head := data.read(8):
            length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"")
            body, checksum = data.read(length), data.read(4)
            is_complete = len(checksum) == 4
            if not is_complete or zlib.crc32(kind + body) != struct.unpack(">I", checksum)[0]:
                raise UserError(f"{file} is damaged: it ends early, or its checksum is wrong")
            has_pixels |= kind == b"IDAT"
            has_late_data |= has_pixels and kind in (b"eXIf", b"zTXt", b"iTXt", b"tEXt")
            if kind == b"IEND":
                return has_late_data
    raise UserError(f"{file} is damaged: it ends early")


def _jpeg_end(image: "Image.Image", file: Path) -> int:
    """Return an offset past the end of the file where the picture has no end marker, otherwise 0."""
    data = file.read_bytes()
    return 0 if data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") else len(data) + 1


def _header_end(image: "Image.Image", file: Path) -> int:
    with file.open("rb") as data:
        head = data.read(8)
    if image.format == "BMP":
        return struct.unpack("<I", head[2:6])[0]
    return struct.unpack("<I", head[4:8])[0] + 8


def _tiff_end(image: "Image.Image", file: Path) -> int:
    """Return the offset at which the last strip or tile ends."""
    from PIL.TiffImagePlugin import TiffImageFile

    assert isinstance(image, TiffImageFile)
    tags = image.tag_v2
    for offsets, counts in ((273, 279), (324, 325)):
        if offsets in tags and counts in tags:
            return max(map(sum, zip(tags[offsets], tags[counts], strict=False)), default=0)
    return 0


@functools.lru_cache(maxsize=64)  # the frames of a folder share one profile
def _profile_name(profile: bytes) -> str:
    from PIL import ImageCms

    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except (ImageCms.PyCMSError, OSError):
        return "unnamed"
    return "" if "srgb" in name.lower() else name or "unnamed"
