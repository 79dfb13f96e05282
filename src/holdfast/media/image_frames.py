"""Which frames of an image file follow each other in time, and which are a stand-in or another one in small."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

KINDS = (
    "WEBP",
    "PNG",
    "AVIF",
    "TIFF",
    "GIF",
)  # Pillow's names; other files hold versions of one picture
SUBFILE = 254  # TIFF's tag: what a page is
SMALLER, MASK = 1, 4  # a page that is another one in small, or another's mask


def frame_numbers(image: "Image.Image") -> list[int]:
    """Return the numbers, as Pillow seeks them, of the frames of an image that is open."""
    count = getattr(image, "n_frames", 1) if image.format in KINDS else 1
    if count > 1 and getattr(
        image, "default_image", False
    ):  # for readers that know of no animation
        return list(range(1, count))
    if image.format != "TIFF" or count == 1:
        return list(range(count))
    kinds = []
    for number in range(count):
        image.seek(number)
        kinds.append(image.tag_v2.get(SUBFILE, 0))
    image.seek(0)
    return [n for n, kind in enumerate(kinds) if not kind & (SMALLER | MASK)] or [0]


def check_still(image: "Image.Image", file: Path) -> None:
    """Raise UserError where one picture is wanted and a file holds several."""
    count = len(frame_numbers(image))
    if count > 1:
        what = "holds" if image.format == "TIFF" else "is animated: it holds"
        raise UserError(
            f"{file} {what} {count} frames, and one picture is wanted here",
            f"take one out of it with holdfast frame {file} --at N -o FRAME.png",
        )
