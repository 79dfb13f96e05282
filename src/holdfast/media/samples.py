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


def has_chroma(pixel_format: str) -> bool:
    """Return whether samples are luma and chroma, which a matrix makes RGB of."""
    return is_yuv(pixel_format) and len(av.VideoFormat(pixel_format).components) > 2


def frame_of(shown: Picture, clip: Clip, target: str, converter: VideoReformatter) -> av.VideoFrame:
    """A picture in a pixel format, turned back to how its source is stored."""
    stored = clip.orientation.turn_back
    if shown.own is None or clip.background:
        return from_rgb(stored(shown.rgb()), clip, target, converter)
    if not (is_yuv(target) and is_yuv(clip.pixel_format)):
        made = from_rgb(stored(shown.rgb()), clip, target, converter)
        return _with_opacity(made, shown.own, converter)
    own = _in_format(shown.own, clip, target, converter)
    if shown.edited is not None:
        edited = from_rgb(stored(shown.edited), clip, target, converter)
        lay(edited, own, stored(shown.alpha))
    return own


def _with_opacity(
    made: av.VideoFrame, own: av.VideoFrame, converter: VideoReformatter
) -> av.VideoFrame:
    """Opacity is no business of an edit: it is the source's."""
    if not all(has_opacity(frame.format.name) for frame in (made, own)):
        return made
    known = converter.reformat(own, format=made.format.name, interpolation=SCALING)
    if len(made.planes) == 4:
        plane_of(made, 3)[:] = plane_of(known, 3)
        return made
    array, alpha = made.to_ndarray(), known.to_ndarray()
    array[..., 3] = alpha[..., 3]
    return av.VideoFrame.from_ndarray(array, made.format.name)


def has_opacity(pixel_format: str) -> bool:
    return any(component.is_alpha for component in av.VideoFormat(pixel_format).components)


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
    frame.make_writable()  # a copy where the decoder still predicts from it
    frame.pict_type = 0  # the source's kinds of frames are not forced on the encoder
    return frame


def plain(pixel_format: str) -> str:
    """yuvj420p is yuv420p with its range in the name."""
    return pixel_format.replace("yuvj", "yuv")


def is_planar(pixel_format: str) -> bool:
    """Whether every component has a plane of its own, in this machine's order of bytes: `plane_of` reads no other."""
    planes = {component.plane for component in av.VideoFormat(pixel_format).components}
    return len(planes) == len(av.VideoFormat(pixel_format).components) and not (
        pixel_format.endswith("be")
    )


def subsampling(pixel_format: str) -> tuple[int, int]:
    """Return how many pixels, across and down, share a sample of chroma: (2, 2) is 4:2:0."""
    known = av.VideoFormat(pixel_format)
    across, down = known.chroma_width(64), known.chroma_height(64)
    return (64 // across, 64 // down) if across and down else (1, 1)


def holds_samples(layout: str, own: str) -> bool:
    """Whether a layout holds the samples of another one unchanged, however they are packed."""
    if not is_yuv(own):
        return not is_yuv(layout)
    if not is_yuv(layout):
        return False
    kinds = [
        (has_chroma(name), subsampling(name) if has_chroma(name) else None, bits_of(name))
        for name in (layout, own)
    ]
    return kinds[0] == kinds[1]


def bits_of(pixel_format: str) -> int:
    return max(component.bits for component in av.VideoFormat(pixel_format).components)


def plane_of(frame: av.VideoFrame, number: int) -> ndarray:
    """The samples of a plane, h w, in place."""
    plane = frame.planes[number]
    wide = max(component.bits for component in frame.format.components) > 8
    kind = np.dtype(np.uint16 if wide else np.uint8)
    rows = np.frombuffer(plane, kind)
    per_row = plane.line_size // kind.itemsize
    return rows[: per_row * plane.height].reshape(plane.height, per_row)[:, : plane.width]


def lay(edited: av.VideoFrame, own: av.VideoFrame, alpha: ndarray) -> None:
    """Put an edited frame's samples into the source's, as far as the edit has weight there."""
    for number in range(min(3, len(own.planes))):  # the fourth is opacity, no business of an edit
        here, there = plane_of(own, number), plane_of(edited, number)
        weight = at_plane(alpha, here.shape)
        here[:] = np.rint(here * (1 - weight) + there * weight)  # exact where the weight is 0 or 1


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
