"""Write a picture of a few frames with the mask over them."""

from itertools import islice
from pathlib import Path

from ..base.files import atomic_write
from ..media import masks, overlays, previews, video


def write_strip(path: Path, clip: video.Clip, part: range, mask: masks.Mask) -> None:
    """Write a few frames of a part of a clip, side by side, with the mask over them."""
    indices = previews.sample_indices(len(part))
    frames = islice(video.read(clip), part.start, part.start + max(indices) + 1)
    row = [
        overlays.draw_mask(frame, inside)
        for i, (frame, inside) in enumerate(zip(frames, mask.frames(), strict=False))
        if i in indices
    ]
    scale = previews.MAX_WIDTH / len(row) / clip.size[0]
    with atomic_write(path) as temporary:
        previews.draw_strip({"mask": row}, scale).save(temporary)
