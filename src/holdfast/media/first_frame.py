"""Read the edited first frame that a user made in an image editor, and check that it fits the clip."""

import math
from pathlib import Path

from torch import Tensor

from ..base.errors import InputNotFoundError, UserError
from ..base.notices import warn_user
from . import images
from .fitting import Fit, resize

ASPECT_TOLERANCE = 0.02  # log ratio of the sides; image editors round sizes
PIXEL_TOLERANCE = 12 / 255  # a larger difference is more than an image editor's own compression
CHANGED_SHARE = 0.9  # a frame with more changed pixels than this is perhaps another picture


def check(path: str, clip_size: tuple[int, int]) -> None:
    """Raise UserError if a file is no image, or has another aspect ratio than a clip of this width and height."""
    if not Path(path).is_file():
        raise InputNotFoundError(f"there is no image {path}")
    width, height = images.size(Path(path))
    if abs(math.log(width * clip_size[1] / (height * clip_size[0]))) > ASPECT_TOLERANCE:
        raise UserError(
            f"{path} is {width}x{height}, the clip's frames are {clip_size[0]}x{clip_size[1]}",
            "give an edited frame of the clip's aspect ratio",
        )


def read(path: str, fit: Fit, source_frame: Tensor) -> Tensor:
    """Read an image file as the model takes it, 3 H W in [0, 1].

    source_frame: the clip's own first frame, in the same form.
    Raise UserError if the file is no image or has another aspect ratio. Warn if nearly every pixel differs: the frame
    should be an edit of the clip's first frame, not another picture.
    """
    check(path, (fit.size[1], fit.size[0]))
    frame = images.to_tensor(images.read(Path(path)))
    edited = resize(frame[None], fit.model_size)[0]
    changed = (edited - source_frame).abs().amax(0) > PIXEL_TOLERANCE
    if changed.float().mean() > CHANGED_SHARE:
        warn_user(
            f"{path} differs nearly everywhere from the clip's first frame, "
            "whose motion it should follow; was it made from that frame?"
        )
    return edited
