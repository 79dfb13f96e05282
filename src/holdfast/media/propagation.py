"""Propagate the masks of a few frames through a whole clip, forwards and backwards, one frame at a time.

The clip is tracked at a small size (`two_layer_tracker.py`); the small maps are then refined to the edges of the full
frame. Memory holds one frame and, while a mask is tracked backwards, a run of small frames and the compressed maps up
to the next anchor.
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

BUFFER_BYTES = 2**26  # of small frames that are kept in memory while tracking backwards


class Tracker(Protocol):
    """Follows an object from frame to frame. Frames are H W 3 float32 in [0, 1]."""

    def mark(self, frame: ndarray, inside: ndarray) -> None:
        """Restart from another mask of the object, boolean H W."""
        ...

    def follow(self, frame: ndarray) -> ndarray:
        """Return the probability that each pixel of the next frame is the object, float32 H W in [0, 1]."""
        ...


@dataclass(frozen=True)
class TrackerFactory:
    """How to create a tracker from a frame and its mask, and the size of the frames that it takes."""

    create: Callable[[ndarray, ndarray], Tracker] = TwoLayerTracker
    side: int = 256  # the largest shorter side of a frame, in pixels


def propagate(
    clip: video.Clip,
    anchors: Mapping[int, ndarray],
    part: range | None = None,
    tracker: TrackerFactory | None = None,
) -> Iterator[ndarray]:
    """Yield one mask, boolean H W, for each frame of a clip or of a part of it.

    anchors: masks by frame, boolean H W at the clip's size; on these frames they are the result. Between two anchors
    the mask is tracked forwards from one and backwards from the other, and the two are blended. Before the first
    anchor it is only tracked backwards, after the last only forwards.
    Raise UserError if there is no anchor, or if an anchor does not fit the clip.
    """
    check_anchors(clip, anchors)
    part = range(clip.frames) if part is None else part
    factory = tracker or TrackerFactory()
    numbers = sorted(anchors)
    start = min(part.start, numbers[0])
    forward_tracker, last_anchor = None, start - 1
    backward = _track_backwards(clip, anchors[numbers[0]], range(start, numbers[0]), factory)
    for i, array in enumerate(islice(video.read(clip), start, part.stop), start):
        frame = images.to_8_bit(array)
        small = _shrink(frame, factory.side)
        if i in anchors:
            mask, last_anchor = anchors[i], i
            forward_tracker = _mark(forward_tracker, small, mask, factory)
            following = next((n for n in numbers if n > i), i)
            backward = _track_backwards(clip, anchors[following], range(i + 1, following), factory)
        else:
            forward = forward_tracker.follow(_to_float(small)) if forward_tracker else None
            mask = _enlarge(_blend(forward, backward, i, last_anchor), frame)
        if i in part:
            yield mask


def check_anchors(clip: video.Clip, anchors: Mapping[int, ndarray]) -> None:
    """Raise UserError if the masks do not fit this clip."""
    if not anchors:
        raise UserError("no frame has a mask to propagate", "mark the object on a frame")
    for n, mask in anchors.items():
        if n not in range(clip.frames):
            raise UserError(
                f"frame {n} does not exist (0 to {clip.frames - 1})", "mark a frame of the clip"
            )
        if mask.shape != clip.size[::-1]:
            sizes = "{}x{}".format(*mask.shape[::-1]), "{}x{}".format(*clip.size)
            raise UserError(
                f"the mask of frame {n} is {sizes[0]}, the clip {sizes[1]}",
                "give a mask of the clip's size",
            )


def _shrink(frame: ndarray, side: int) -> ndarray:
    height, width = frame.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return frame
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def _to_float(small: ndarray) -> ndarray:
    return small.astype(np.float32) / 255


def _mark(
    tracker: Tracker | None, small: ndarray, mask: ndarray, factory: TrackerFactory
) -> Tracker:
    """Return a tracker that starts from this mask: the same one, or a new one if there is none."""
    size = small.shape[1], small.shape[0]
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    if tracker is None:
        return factory.create(_to_float(small), share >= 0.5)
    tracker.mark(_to_float(small), share >= 0.5)
    return tracker


def _track_backwards(
    clip: video.Clip, mask: ndarray, frames: range, factory: TrackerFactory
) -> dict[int, bytes]:
    """Return compressed maps of consecutive frames, tracked backwards from the mask of the frame after them."""
    maps: dict[int, bytes] = {}
    if not frames:
        return maps
    tracker, longest = None, max(8, BUFFER_BYTES // (4 * factory.side**2))
    for stop in range(frames.stop + 1, frames.start, -longest):
        start = max(frames.start, stop - longest)
        run = list(_small_frames(clip, range(start, stop), factory.side))
        for i in range(stop - 1, start - 1, -1):
            if tracker is None:
                tracker = _mark(None, run[i - start], mask, factory)
            else:
                maps[i] = _compress(tracker.follow(_to_float(run[i - start])))
    return maps


def _small_frames(clip: video.Clip, part: range, side: int) -> Iterator[ndarray]:
    """Yield small frames of a part. Earlier frames are decoded but not converted."""
    converter = VideoReformatter()
    for frame in islice(video.read_stored(clip), part.start, part.stop):
        yield _shrink(images.to_8_bit(video.to_rgb(frame, clip, converter)), side)


def _compress(probability: ndarray) -> bytes:
    """Return a map quantised to 255 steps and compressed, with its height."""
    steps = np.rint(255 * probability).astype(np.uint8)
    return zlib.compress(len(steps).to_bytes(4) + steps.tobytes(), 1)


def _decompress(data: bytes) -> ndarray:
    plain = zlib.decompress(data)
    steps = np.frombuffer(plain[4:], np.uint8).reshape(int.from_bytes(plain[:4]), -1)
    return steps.astype(np.float32) / 255


def _blend(
    forward: ndarray | None, backward: dict[int, bytes], i: int, last_anchor: int
) -> ndarray:
    """Return the map of frame i, weighted towards the nearer anchor, and drop it from the backward maps."""
    if i not in backward:
        assert forward is not None  # every frame is after one anchor or before another
        return forward
    next_anchor = max(backward) + 1
    tracked_back = _decompress(backward.pop(i))
    if forward is None:
        return tracked_back
    position = (i - last_anchor) / (next_anchor - last_anchor)
    return (1 - position) * forward + position * tracked_back


def _enlarge(probability: ndarray, frame: ndarray) -> ndarray:
    """Return the frame's mask, boolean H W, from a small map, refined to the frame's edges if the map is coarser."""
    scale = frame.shape[0] / probability.shape[0]
    if scale <= 1:
        return probability > 0.5
    size = frame.shape[1], frame.shape[0]
    mask = cv2.resize(probability, size, interpolation=cv2.INTER_LINEAR) > 0.5
    return refine(frame, mask, scale / 2)
