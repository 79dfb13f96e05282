"""Masks of a few frames carried through a whole clip, both ways, a frame at a time.

A clip is followed at a small size (`layers.py`); what is found there is tightened to the edges of the frame itself. In
memory are one frame and, where a mask is carried back, a run of small frames and the packed maps up to the next mark.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy import ndarray

from ..base.errors import UserError
from . import images, video
from .grabcut import refine
from .two_layer_tracker import TwoLayerTracker

BUFFER_BYTES = 2**26  # bytes of small frames that are held to be gone through backwards


class Tracker(Protocol):
    """What goes along with a marked thing. Frames are H W 3 float32 in [0, 1]."""

    def mark(self, frame: ndarray, inside: ndarray) -> None:
        """Begin anew with another mark, boolean H W."""

    def follow(self, frame: ndarray) -> ndarray:
        """How surely each pixel of the next frame is the thing, float32 H W in [0, 1]."""


@dataclass(frozen=True)
class TrackerFactory:
    """Where a follower comes from, of a frame and its mark, and the size that it works at."""

    create: Callable[[ndarray, ndarray], Tracker] = TwoLayerTracker
    side: int = 256  # pixels of the frame's shorter side, at most


def propagate(
    clip: video.Clip,
    anchors: Mapping[int, ndarray],
    part: range | None = None,
    tracker: TrackerFactory | None = None,
) -> Iterator[ndarray]:
    """One boolean H W for each frame of a clip, or of a part of it. anchors: the masks of some frames, boolean H W at
    the clip's size; on those frames they are the result.

    Between two anchors the mask is carried forward from one and backward from the other, and joined; before the first
    it is carried back alone, after the last forward. Raises ValueError for no anchor, or one that is not of the clip.
    """
    check_anchors(clip, anchors)
    part = range(clip.frames) if part is None else part
    tracker = tracker or TrackerFactory()
    marked = sorted(anchors)
    first = min(part.start, marked[0])
    along, last, back = (
        None,
        first - 1,
        _back(clip, anchors[marked[0]], range(first, marked[0]), tracker),
    )
    frames = islice(video.read(clip), first, part.stop)
    for i, array in enumerate(frames, first):
        frame = images.to_8_bit(array)
        small = _small(frame, tracker.side)
        if i in anchors:
            inside, last = anchors[i], i
            along = _marked(along, small, inside, tracker)
            onward = next((n for n in marked if n > i), i)
            back = _back(clip, anchors[onward], range(i + 1, onward), tracker)
        else:
            ahead = along.follow(_floats(small)) if along else None
            inside = _tight(_joined(ahead, back, i, last), frame)
        if i in part:
            yield inside


def check_anchors(clip: video.Clip, anchors: Mapping[int, ndarray]) -> None:
    """Raises ValueError for masks that are not of this clip."""
    if not anchors:
        raise UserError("a mask is carried from a frame on which it is marked, and none is")
    for n, inside in anchors.items():
        if n not in range(clip.frames):
            raise UserError(f"there is no frame {n} in a clip of {clip.frames}")
        if inside.shape != clip.size[::-1]:
            sizes = "{}x{}".format(*inside.shape[::-1]), "{}x{}".format(*clip.size)
            raise UserError(f"the mask of frame {n} is {sizes[0]}, the clip {sizes[1]}")


def _small(frame: ndarray, side: int) -> ndarray:
    height, width = frame.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return frame
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def _floats(small: ndarray) -> ndarray:
    return small.astype(np.float32) / 255


def _marked(along: Tracker | None, small: ndarray, inside: ndarray, using: TrackerFactory) -> Tracker:
    """A follower that goes on from a mark."""
    size = small.shape[1::-1]
    share = cv2.resize(inside.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    if along is None:
        return using.create(_floats(small), share >= 0.5)
    along.mark(_floats(small), share >= 0.5)
    return along


def _back(clip: video.Clip, inside: ndarray, over: range, using: TrackerFactory) -> dict[int, bytes]:
    """Packed maps of some frames in a row, carried back from the mask of the one that follows them."""
    found: dict[int, bytes] = {}
    if not over:
        return found
    along, longest = None, max(8, BUFFER_BYTES // (4 * using.side**2))
    for stop in range(over.stop + 1, over.start, -longest):
        start = max(over.start, stop - longest)
        run = list(_run(clip, range(start, stop), using.side))
        for i in range(stop - 1, start - 1, -1):
            if along is None:
                along = _marked(None, run[i - start], inside, using)
            else:
                found[i] = _packed(along.follow(_floats(run[i - start])))
    return found


def _run(clip: video.Clip, part: range, side: int) -> Iterator[ndarray]:
    """Small frames of a part. Those before it are decoded and no more."""
    converter = VideoReformatter()
    for frame in islice(video.read_stored(clip), part.start, part.stop):
        yield _small(images.to_8_bit(video.to_rgb(frame, clip, converter)), side)


def _packed(seen: ndarray) -> bytes:
    """A map in 255 steps, with its height."""
    steps = np.rint(255 * seen).astype(np.uint8)
    return zlib.compress(len(steps).to_bytes(4) + steps.tobytes(), 1)


def _unpacked(data: bytes) -> ndarray:
    plain = zlib.decompress(data)
    steps = np.frombuffer(plain[4:], np.uint8).reshape(int.from_bytes(plain[:4]), -1)
    return steps.astype(np.float32) / 255


def _joined(ahead: ndarray | None, back: dict[int, bytes], i: int, last: int) -> ndarray:
    """What both ways say of frame i, nearer marks more. last: the mark before it; back ends before the next."""
    if i not in back:
        return ahead
    onward = max(back) + 1
    behind = _unpacked(back.pop(i))
    if ahead is None:
        return behind
    way = (i - last) / (onward - last)
    return (1 - way) * ahead + way * behind


def _tight(seen: ndarray, frame: ndarray) -> ndarray:
    """A small map as the frame's mask, boolean H W: tightened to the frame's edges where the map is coarser."""
    scale = frame.shape[0] / seen.shape[0]
    if scale <= 1:
        return seen > 0.5
    inside = cv2.resize(seen, frame.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    return refine(frame, inside, scale / 2)
