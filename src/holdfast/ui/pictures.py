"""Pictures of a run for the page: a strip, source and result side by side, and a preview of the current state."""

from typing import Any

import numpy as np

from ..base.files import atomic_write
from ..media import previews, video
from ..media.images import to_8_bit, to_array
from .runs import SIDE_BY_SIDE, STRIP, Run


def write_pictures(run: Run, clip: video.Clip) -> None:
    """Write a strip of source and result, and both side by side as a clip that every browser plays."""
    both = {"source": clip, "edited": video.probe(run.output)}
    frames = [map(to_8_bit, video.read(file)) for file in both.values()]
    with atomic_write(run.folder / SIDE_BY_SIDE) as part:
        part.write_bytes(previews.encode_preview(frames, clip.size, float(clip.rate)))
    indices = previews.sample_indices(clip.frames)
    rows = {name: read_frames(file, indices) for name, file in both.items()}
    with atomic_write(run.folder / STRIP) as part:
        previews.draw_strip(rows, previews.MAX_WIDTH / len(indices) / clip.size[0]).save(part)


def read_frames(clip: video.Clip, indices: list[int]) -> list[np.ndarray]:
    """Return frames of a clip by their indices, H W 3 uint8."""
    return [to_8_bit(frame) for i, frame in enumerate(video.read(clip)) if i in indices]


def decode_preview(clean: Any, backbone: Any, size: tuple[int, int]) -> np.ndarray:
    """Return the first frame of a latent 1 c f h w, at a clip's size (width, height)."""
    import torch

    from ..media.fitting import resize

    height, width = size[::-1]
    with torch.no_grad():
        frames = next(iter(backbone.decode(clean[:, :, :1])))
        return to_array(resize(frames[:1].float().cpu(), (height, width))[0], 8)
