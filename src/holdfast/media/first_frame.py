"""The edited first frame that a user brings: from any image editor, brought to the clip, or refused with the cure."""

import math
from pathlib import Path

from torch import Tensor

from ..base.errors import InputNotFoundError, UserError
from ..base.notices import note
from . import images
from .fitting import Fit, resize

ASPECT = 0.02  # by how much the sides' ratio may differ: editors round sizes
CHANGED = 12 / 255  # of a pixel's value, above what an editor's own compression does


def read(path: str, fit: Fit, source_frame: Tensor) -> Tensor:
    """An image file as the model takes it, 3 H W in [0, 1].

    shown: the clip's own first frame, likewise. Raises ValueError for a file that is none, or of another aspect ratio.
    Notes where the two differ everywhere: an edit of this frame is asked for, not another picture.
    """
    if not Path(path).is_file():
        raise InputNotFoundError(f"there is no image {path}")
    width, height = images.size(Path(path))
    if abs(math.log(width * fit.size[0] / (height * fit.size[1]))) > ASPECT:
        raise UserError(
            f"{path} is {width}x{height}; the clip's frames are {fit.size[1]}x{fit.size[0]}, "
            "and an edited frame needs their aspect ratio"
        )
    frame = images.to_tensor(images.read(Path(path)))
    wanted = resize(frame[None], fit.model_size)[0]
    moved = (wanted - source_frame).abs().amax(0) > CHANGED
    if moved.float().mean() > 0.9:
        note(
            f"{path} differs nearly everywhere from the clip's first frame, "
            "whose motion it is to follow; was it made from that frame?"
        )
    return wanted
