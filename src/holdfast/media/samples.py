"""A result in its source's own samples: outside the edit, every plane is the source's, bit for bit.

A sample of subsampled chroma covers several pixels. It belongs to the edit only where the edit covers all of them. So
the rest stays identical, and an edit ends at most one pixel early.
"""

from collections.abc import Callable
from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy import ndarray

from .reading import SCALING, Clip, colour_matrix, colour_range


@dataclass(frozen=True)
class OutputFrame:
    """A frame of a result on its way into a file.

    rgb: returns the whole frame, H W 3, upright.
    source: the source's frame as decoded, where it came from a video.
    edited: what the model made, H W 3, before any mask; None where the frame is the source's.
    alpha: the edit's weight at each pixel, float32 H W.
    """

    rgb: Callable[[], ndarray]
    source: av.VideoFrame | None = None
    edited: ndarray | None = None
    alpha: ndarray | None = None


def as_output_frame(frame: ndarray | OutputFrame) -> OutputFrame:
    """Return a frame H W 3 as an OutputFrame."""
    return frame if isinstance(frame, OutputFrame) else OutputFrame(rgb=lambda: frame)


def is_yuv(pixel_format: str) -> bool:
    """Return whether samples are luma, with or without chroma."""
    layout = av.VideoFormat(pixel_format)
    return not (layout.is_rgb or layout.has_palette)


def has_chroma(pixel_format: str) -> bool:
    """Return whether samples are luma and chroma, which a matrix converts to RGB."""
    return is_yuv(pixel_format) and len(av.VideoFormat(pixel_format).components) > 2


def to_video_frame(
    frame: OutputFrame, clip: Clip, target: str, converter: VideoReformatter
) -> av.VideoFrame:
    """Return an output frame in a pixel format, rotated back to how its source is stored."""
    undo = clip.orientation.undo
    if frame.source is None or clip.background:
        return encode_rgb(undo(frame.rgb()), clip, target, converter)
    if not (is_yuv(target) and is_yuv(clip.pixel_format)):
        encoded = encode_rgb(undo(frame.rgb()), clip, target, converter)
        return _copy_alpha(encoded, frame.source, converter)
    source = _convert_layout(frame.source, clip, target, converter)
    if frame.edited is not None:
        assert frame.alpha is not None  # an edited frame has weights
        edited = encode_rgb(undo(frame.edited), clip, target, converter)
        blend_planes(edited, source, undo(frame.alpha))
    return source


def _copy_alpha(
    encoded: av.VideoFrame, source: av.VideoFrame, converter: VideoReformatter
) -> av.VideoFrame:
    """Return the encoded frame with the source's alpha channel, where both have one. An edit never changes it."""
    if not all(has_alpha(frame.format.name) for frame in (encoded, source)):
        return encoded
    converted = converter.reformat(source, format=encoded.format.name, interpolation=SCALING)
    if len(encoded.planes) == 4:
        plane_array(encoded, 3)[:] = plane_array(converted, 3)
        return encoded
    array, alpha = encoded.to_ndarray(), converted.to_ndarray()
    array[..., 3] = alpha[..., 3]
    return av.VideoFrame.from_ndarray(array, encoded.format.name)


def has_alpha(pixel_format: str) -> bool:
    """Return whether a pixel format has an alpha channel."""
    return any(component.is_alpha for component in av.VideoFormat(pixel_format).components)


def encode_rgb(
    array: ndarray, clip: Clip, target: str, converter: VideoReformatter
) -> av.VideoFrame:
    """Return an RGB frame H W 3 in a pixel format, with the clip's matrix and range."""
    layout = "rgb24" if array.dtype == np.uint8 else "rgb48le"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), layout)
    if not is_yuv(target):
        return converter.reformat(frame, format=target, interpolation=SCALING)
    space = colour_matrix(clip)
    return converter.reformat(
        frame,
        format=target,
        src_colorspace=space,
        dst_colorspace=space,
        dst_color_range=colour_range(clip),
        interpolation=SCALING,
    )


def _convert_layout(
    frame: av.VideoFrame, clip: Clip, target: str, converter: VideoReformatter
) -> av.VideoFrame:
    """Return a decoded frame in a YUV format. If it already has that format, return its samples in a writable frame."""
    if strip_range_prefix(frame.format.name) != target:
        space, span = colour_matrix(clip), colour_range(clip)
        return converter.reformat(
            frame,
            format=target,
            src_colorspace=space,
            dst_colorspace=space,
            src_color_range=span,
            dst_color_range=span,
            interpolation=SCALING,
        )
    frame.make_writable()  # copies where the decoder still predicts from it
    frame.pict_type = 0  # the encoder chooses the types of frames, not the source
    return frame


def strip_range_prefix(pixel_format: str) -> str:
    """Return yuv420p for yuvj420p, which is the same layout with its range in the name."""
    return pixel_format.replace("yuvj", "yuv")


def is_planar(pixel_format: str) -> bool:
    """Return whether every component has its own plane in this machine's byte order, as `plane_array` needs."""
    components = av.VideoFormat(pixel_format).components
    planes = {component.plane for component in components}
    return len(planes) == len(components) and not pixel_format.endswith("be")


def subsampling(pixel_format: str) -> tuple[int, int]:
    """Return how many pixels, across and down, share a sample of chroma: (2, 2) is 4:2:0."""
    layout = av.VideoFormat(pixel_format)
    across, down = layout.chroma_width(64), layout.chroma_height(64)
    return (64 // across, 64 // down) if across and down else (1, 1)


def holds_samples(layout: str, own: str) -> bool:
    """Return whether a layout holds the samples of another one unchanged, however they are packed."""
    if not is_yuv(own):
        return not is_yuv(layout)
    if not is_yuv(layout):
        return False
    kinds = [
        (has_chroma(name), subsampling(name) if has_chroma(name) else None, bit_depth(name))
        for name in (layout, own)
    ]
    return kinds[0] == kinds[1]


def bit_depth(pixel_format: str) -> int:
    """Return the bits of a pixel format's deepest channel."""
    return max(component.bits for component in av.VideoFormat(pixel_format).components)


def plane_array(frame: av.VideoFrame, number: int) -> ndarray:
    """Return a view of the samples of a plane, h w. Writing to it changes the frame."""
    plane = frame.planes[number]
    is_deep = max(component.bits for component in frame.format.components) > 8
    dtype = np.dtype(np.uint16 if is_deep else np.uint8)
    rows = np.frombuffer(memoryview(plane), dtype)
    per_row = plane.line_size // dtype.itemsize
    return rows[: per_row * plane.height].reshape(plane.height, per_row)[:, : plane.width]


def blend_planes(edited: av.VideoFrame, source: av.VideoFrame, alpha: ndarray) -> None:
    """Blend an edited frame's samples into the source's, in place, by the edit's weight H W.

    own' = round(own * (1 - w) + edited * w), w the least weight of the pixels that a sample covers.
    """
    for number in range(min(3, len(source.planes))):  # a fourth plane is the alpha channel
        here, there = plane_array(source, number), plane_array(edited, number)
        weight = downsample_weight(alpha, here.shape)
        rows, columns = np.flatnonzero(weight.any(1)), np.flatnonzero(weight.any(0))
        if len(rows):  # only the rectangle that changes: the rest is not computed
            part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            share = weight[part]
            # exact where the weight is 0 or 1
            here[part] = np.rint(here[part] * (1 - share) + there[part] * share)


def downsample_weight(alpha: ndarray, shape: tuple[int, ...]) -> ndarray:
    """Return the weight of each sample of a plane: the least weight of the pixels that it covers."""
    steps = [-(-side // samples) for side, samples in zip(alpha.shape, shape, strict=True)]
    if steps == [1, 1]:
        return alpha
    missing = [
        (0, n * step - side) for n, step, side in zip(shape, steps, alpha.shape, strict=True)
    ]
    padded = np.pad(alpha, missing, mode="edge")
    places = [padded[y :: steps[0], x :: steps[1]] for y, x in np.ndindex(*steps)]
    return np.minimum.reduce(places)
