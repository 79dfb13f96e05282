"""Masks of a few frames carried through a clip: along optical flow, tightened to each frame's edges."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy import ndarray

from . import images, motion, video


def carried(clip: video.Clip, anchors: Mapping[int, ndarray]) -> Iterator[ndarray]:
    """One boolean H W for each frame of a clip. anchors: the masks of some frames, boolean H W at the clip's size.

    Between two anchors the mask is carried forward from one and backward from the other, and joined. Raises ValueError
    for no anchor, or one that is not of the clip.
    """
    from .cut import IN, OUT, PERHAPS_IN, PERHAPS_OUT, breadth, cut, grown, shrunk

    check(clip, anchors)
    before, inside = None, anchors[min(anchors)]
    for i, array in enumerate(video.read(clip)):
        frame = images.eight_bits(array)
        if i in anchors:
            inside = anchors[i]
        elif before is not None and inside.any():
            here, there = frame.astype(np.float32) / 255, before.astype(np.float32) / 255
            moved = motion.warp(inside.astype(np.float32), motion.sharp_dis(here, there)) > 0.5
            reach = max(1, breadth(moved) / 20)
            sketch = np.where(moved, np.uint8(PERHAPS_IN), np.uint8(PERHAPS_OUT))
            sketch[shrunk(moved, reach)] = IN
            sketch[~grown(moved, reach)] = OUT
            inside = cut(frame, sketch)
        before = frame
        yield inside


def check(clip: video.Clip, anchors: Mapping[int, ndarray]) -> None:
    if not anchors:
        raise ValueError("a mask is carried from a frame on which it is marked, and none is")
    for n, inside in anchors.items():
        if n not in range(clip.frames):
            raise ValueError(f"there is no frame {n} in a clip of {clip.frames}")
        if inside.shape != clip.size[::-1]:
            raise ValueError(f"the mask of frame {n} is not of the clip's size")
