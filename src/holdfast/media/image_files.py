"""What an image file says of itself before it is decoded: size, depth, colour mode, profile; whether it is whole."""

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

ORIENTATION = 0x0112  # of EXIF
FOLDERS = (34665, 34853)  # of EXIF: the picture's own, and the place
# Description, make, model, software, time, author, copyright.
CARRIED = (270, 271, 272, 305, 306, 315, 33432, *FOLDERS)
SIDEWAYS = {5, 6, 7, 8}  # orientations that swap width and height
DEEP = {"RGB", "RGBA", "RGBX", "LA"}  # Pillow reads 8 of their 16 bits; OpenCV reads all
EIGHT_BITS = {
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
CONVERTED = ("CMYK", "LAB")  # modes that become RGB by a rule of thumb
# The system's own files, which are copied with a folder of frames and are no frames.
SYSTEM = {"thumbs.db", "desktop.ini", "ehthumbs.db", "__macosx", "icon\r"}


@dataclass(frozen=True)
class Header:
    """What an image file says of itself."""

    size: tuple[int, int]  # width, height, upright
    mode: str  # Pillow's
    bits: int  # a channel, as they are read: 8 or 16
    stored_bits: int
    may_be_clear: bool  # whether it has an alpha channel or a transparent colour
    profile: bytes = b""  # ICC
    has_exif: bool = False

    @classmethod
    def of(cls, image: "Image.Image", file: Path) -> "Header":
        """Return the header of an image that Pillow opened and did not decode.

        Raises UserError for numbers that are no picture's, and for a file that breaks off.
        """
        stored = _stored_bits(image)  # which is not known of a decoded one
        if _check_whole(image, file):
            image.load()  # a PNG may say after its picture how it is turned
        if image.mode not in EIGHT_BITS and not image.mode.startswith("I;16"):
            kind = "floating-point" if image.mode == "F" else "32-bit or signed"
            raise UserError(f"{file} holds {kind} numbers", "save it with 8 or 16 bits a channel")
        exif, (width, height) = exif_of(image), image.size
        return cls(
            size=(height, width) if exif.get(ORIENTATION) in SIDEWAYS else (width, height),
            mode=image.mode,
            bits=16 if stored > 8 and (image.mode in DEEP or image.mode.startswith("I;16")) else 8,
            stored_bits=stored,
            may_be_clear=image.has_transparency_data,
            profile=image.info.get("icc_profile") or b"",
            has_exif=any(tag in exif for tag in CARRIED),
        )

    @property
    def is_rgb(self) -> bool:
        """Whether the profile, if there is one, is of RGB values, which are what is written."""
        return self.profile[16:20] == b"RGB "

    @property
    def profile_name(self) -> str:
        """What the profile calls itself; empty without one, and for sRGB, which an image without one is taken for."""
        return _name_of(self.profile) if self.profile else ""


def is_system_file(path: Path) -> bool:
    """Return whether a name is hidden (._0001.png, .DS_Store) or one that a system leaves in folders."""
    return path.name.startswith(".") or path.name.lower() in SYSTEM


def exif_of(image: "Image.Image") -> "Image.Exif":
    """Return what a camera wrote, as far as it is known without decoding: Pillow's own method decodes a PNG for it."""
    from PIL import Image

    return Image.Image.getexif(image)


def carried_exif(image: "Image.Image") -> bytes:
    """Return what a camera wrote, without the orientation: the picture is written upright."""
    from PIL import Image

    found, made = exif_of(image), Image.Exif()
    for tag in CARRIED:
        if tag in found:
            made[tag] = found.get_ifd(tag) if tag in FOLDERS else found[tag]
    return made.tobytes()


def _stored_bits(image: "Image.Image") -> int:
    if image.mode.startswith("I;16"):
        return 16
    arguments = image.tile[0][3] if image.tile else ""
    raw = arguments if isinstance(arguments, str) else next(iter(arguments or ("",)))
    return 16 if ";16" in str(raw) else 8


def _check_whole(image: "Image.Image", file: Path) -> bool:
    """Raise UserError for a file that breaks off, without decoding it. Return whether a PNG says more after its
    picture.
    """
    size = file.stat().st_size
    if image.format == "PNG":
        return _check_png(file)
    ends = {
        "JPEG": _end_of_jpeg,
        "WEBP": _end_by_header,
        "BMP": _end_by_header,
        "TIFF": _end_of_tiff,
    }
    end = ends[image.format](image, file) if image.format in ends else 0
    if end > size:
        raise UserError(f"{file} is damaged: it breaks off after {size} bytes")
    return False


def _check_png(file: Path) -> bool:
    late, pictured = False, False
    with file.open("rb") as data:
        data.seek(8)
        while head := data.read(8):
            length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"")
            body, sum_ = data.read(length), data.read(4)
            if len(sum_) < 4 or zlib.crc32(kind + body) != struct.unpack(">I", sum_)[0]:
                raise UserError(f"{file} is damaged: it breaks off, or a part of it is another")
            pictured |= kind == b"IDAT"
            late |= pictured and kind in (b"eXIf", b"zTXt", b"iTXt", b"tEXt")
            if kind == b"IEND":
                return late
    raise UserError(f"{file} is damaged: it breaks off")


def _end_of_jpeg(image: "Image.Image", file: Path) -> int:
    """Past the file's own end where the picture has no end mark."""
    data = file.read_bytes()
    return 0 if data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") else len(data) + 1


def _end_by_header(image: "Image.Image", file: Path) -> int:
    with file.open("rb") as data:
        head = data.read(8)
    if image.format == "BMP":
        return struct.unpack("<I", head[2:6])[0]
    return struct.unpack("<I", head[4:8])[0] + 8


def _end_of_tiff(image: "Image.Image", file: Path) -> int:
    """Of the last strip or tile."""
    tags = image.tag_v2
    for offsets, counts in ((273, 279), (324, 325)):
        if offsets in tags and counts in tags:
            return max(map(sum, zip(tags[offsets], tags[counts], strict=False)), default=0)
    return 0


@functools.lru_cache(maxsize=64)  # the frames of a folder have the same one
def _name_of(profile: bytes) -> str:
    from PIL import ImageCms

    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except (ImageCms.PyCMSError, OSError):
        return "unnamed"
    return "" if "srgb" in name.lower() else name or "unnamed"
