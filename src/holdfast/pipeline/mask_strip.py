"""A picture of a few frames with the mask over them."""

from itertools import islice
from pathlib import Path

from ..base.files import whole
from ..media import masks, overlaid, showing, video


def write_strip(path: Path, clip: video.Clip, part: range, mask: masks.Mask) -> None:
    """Write a few frames of a part of a clip with the mask over them, side by side, as a picture."""
    wanted = showing.evenly(len(part))
    frames = islice(video.read(clip), part.start, part.start + max(wanted) + 1)
    row = [
        overlaid.overlay(frame, inside)
        for i, (frame, inside) in enumerate(zip(frames, mask.frames(), strict=False))
        if i in wanted
    ]
    with whole(path) as made:
        showing.strip({"mask": row}, showing.WIDTH / len(row) / clip.size[0]).save(made)
