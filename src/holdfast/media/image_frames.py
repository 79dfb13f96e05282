"""Which frames of an image file follow each other in time, and which are a fallback, a thumbnail or a mask."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

# Pillow's names. In other formats several frames are versions of one picture.
ANIMATED_FORMATS = ("WEBP", "PNG", "AVIF", "TIFF", "GIF")
SUBFILE_TAG = 254  # TIFF's tag for the kind of a page
REDUCED, MASK = 1, 4  # kinds of pages: a smaller version of another page, and another page's mask


def frame_numbers(image: "Image.Image") -> list[int]:
    """Return the numbers, as Pillow seeks them, of the frames of an open image."""
    from PIL.TiffImagePlugin import TiffImageFile

    count = getattr(image, "n_frames", 1) if image.format in ANIMATED_FORMATS else 1
    has_fallback = getattr(image, "default_image", False)  # for readers without animation
    if count > 1 and has_fallback:
        return list(range(1, count))
    if not isinstance(image, TiffImageFile) or image.format != "TIFF" or count == 1:
        return list(range(count))
    kinds = []
    for number in range(count):
        image.seek(number)
        kinds.append(image.tag_v2.get(SUBFILE_TAG, 0))
    image.seek(0)
    return [n for n, kind in enumerate(kinds) if not kind & (REDUCED | MASK)] or [0]


def check_still(image: "Image.Image", file: Path) -> None:
    """Raise UserError where a file holds several frames."""
    count = len(frame_numbers(image))
    if count > 1:
        verb = "holds" if image.format == "TIFF" else "is animated: it holds"
        raise UserError(
            f"{file} {verb} {count} frames, but one picture is needed",
            f"extract one with holdfast frame {file} --at N -o FRAME.png",
        )
