"""Pictures of a run for the page: a strip, the source next to the result, and how an edit looks so far."""

from typing import Any

import numpy as np

from ..base.files import whole
from ..media import showing, video
from ..media.images import eight_bits, to_array
from .runs import SIDE, STRIP, Run


def write_looks(run: Run, clip: video.Clip) -> None:
    """Write a strip of source and result, and both as one clip that every browser plays."""
    both = {"source": clip, "edited": video.probe(run.output)}
    frames = [map(eight_bits, video.read(file)) for file in both.values()]
    with whole(run.folder / SIDE) as part:
        part.write_bytes(showing.small(frames, clip.size, float(clip.rate)))
    wanted = showing.evenly(clip.frames)
    rows = {name: some(file, wanted) for name, file in both.items()}
    with whole(run.folder / STRIP) as part:
        showing.strip(rows, showing.WIDTH / len(wanted) / clip.size[0]).save(part)


def some(clip: video.Clip, wanted: list[int]) -> list[np.ndarray]:
    """Frames of a clip by their places, H W 3 uint8."""
    return [eight_bits(frame) for i, frame in enumerate(video.read(clip)) if i in wanted]


def preview(clean: Any, backbone: Any, size: tuple[int, int]) -> np.ndarray:
    """The first frame of a latent 1 c f h w, at a clip's size (width, height)."""
    import torch

    from ..media.fit import resize

    with torch.no_grad():
        frames = next(iter(backbone.decode(clean[:, :, :1])))
        return to_array(resize(frames[:1].float().cpu(), size[::-1])[0], 8)
