"""A result in its source's own samples: where an edit does not show, every plane is the source's, bit for bit.

A plane of halved chroma has one sample for several pixels. It is the edit's only where the edit shows in all of them:
what was not named holds fast, and an edit ends at most one pixel early.
"""

from collections.abc import Callable
from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy import ndarray

from .reading import SCALING, Clip, colour_range, matrix


@dataclass(frozen=True)
class Picture:
    """A frame of a result on its way into a file."""

    rgb: Callable[[], ndarray]  # all of it, H W 3, upright
    own: av.VideoFrame | None = None  # the source's as decoded, where it came from a video
    edited: ndarray | None = None  # what the model made, H W 3, before any mask; None: the source
    alpha: ndarray | None = None  # the edit's weight at each pixel, float32 H W


def picture(frame: ndarray | Picture) -> Picture:
    return frame if isinstance(frame, Picture) else Picture(rgb=lambda: frame)


def is_yuv(pixel_format: str) -> bool:
    known = av.VideoFormat(pixel_format)
    return not (known.is_rgb or known.has_palette)


def frame_of(shown: Picture, clip: Clip, target: str, converter: VideoReformatter) -> av.VideoFrame:
    """A picture in a pixel format, turned back to how its source is stored."""
    turn = clip.rotation // 90
    if shown.own is None or not (is_yuv(target) and is_yuv(clip.pixel_format)):
        return from_rgb(np.rot90(shown.rgb(), -turn), clip, target, converter)
    own = _in_format(shown.own, clip, target, converter)
    if shown.edited is None:
        return own
    edited = from_rgb(np.rot90(shown.edited, -turn), clip, target, converter)
    _lay(own, edited, np.rot90(shown.alpha, -turn))
    return edited


def from_rgb(array: ndarray, clip: Clip, target: str, converter: VideoReformatter) -> av.VideoFrame:
    """An RGB frame in a pixel format, with the clip's matrix and range."""
    layout = "rgb24" if array.dtype == np.uint8 else "rgb48le"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), layout)
    if not is_yuv(target):
        return converter.reformat(frame, format=target, interpolation=SCALING)
    space = matrix(clip)
    return converter.reformat(
        frame,
        format=target,
        src_colorspace=space,
        dst_colorspace=space,
        dst_color_range=colour_range(clip),
        interpolation=SCALING,
    )


def _in_format(
    frame: av.VideoFrame, clip: Clip, target: str, converter: VideoReformatter
) -> av.VideoFrame:
    """A decoded frame in another YUV format; of the same layout, its very samples, in a frame that may be changed."""
    if plain(frame.format.name) != target:
        space, span = matrix(clip), colour_range(clip)
        return converter.reformat(
            frame,
            format=target,
            src_colorspace=space,
            dst_colorspace=space,
            src_color_range=span,
            dst_color_range=span,
            interpolation=SCALING,
        )
    # a copy: the decoder still predicts from its own frame, whose kind would be forced on the encoder too
    copied = av.VideoFrame(frame.width, frame.height, target)
    for number in range(len(frame.planes)):
        plane_of(copied, number)[:] = plane_of(frame, number)
    return copied


def plain(pixel_format: str) -> str:
    """yuvj420p is yuv420p with its range in the name."""
    return pixel_format.replace("yuvj", "yuv")


def plane_of(frame: av.VideoFrame, number: int) -> ndarray:
    """The samples of a plane, h w, in place."""
    plane = frame.planes[number]
    wide = max(component.bits for component in frame.format.components) > 8
    kind = np.dtype(np.uint16 if wide else np.uint8)
    rows = np.frombuffer(plane, kind)
    per_row = plane.line_size // kind.itemsize
    return rows[: per_row * plane.height].reshape(plane.height, per_row)[:, : plane.width]


def _lay(own: av.VideoFrame, edited: av.VideoFrame, alpha: ndarray) -> None:
    """Put the source's samples over an edited frame's where the edit has no weight, and mix them where it has some."""
    for number in range(len(edited.planes)):
        here, there = plane_of(edited, number), plane_of(own, number)
        weight = at_plane(alpha, here.shape)
        if number == 3:  # opacity is no business of an edit
            weight = np.zeros_like(weight)
        mixed = np.rint(there * (1 - weight) + here * weight).astype(here.dtype)
        here[:] = np.where(weight == 0, there, np.where(weight == 1, here, mixed))


def at_plane(alpha: ndarray, shape: tuple[int, int]) -> ndarray:
    """The weight of each sample of a plane: the least of the pixels that it covers."""
    steps = [-(-side // samples) for side, samples in zip(alpha.shape, shape, strict=True)]
    if steps == [1, 1]:
        return alpha
    missing = [
        (0, n * step - side) for n, step, side in zip(shape, steps, alpha.shape, strict=True)
    ]
    padded = np.pad(alpha, missing, mode="edge")
    return padded.reshape(shape[0], steps[0], shape[1], steps[1]).min((1, 3))
