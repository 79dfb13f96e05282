"""Read a clip's frames at any size, upright and in eight bits, for measuring."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy import ndarray

from ..media import images, video
from ..media.reading import SCALING, colour_matrix, colour_range

Size = tuple[int, int]  # width, height
PROXY_SIZE = (128, 72)


def read_scaled(clip: video.Clip, size: Size, is_deep: bool = False) -> Iterator[ndarray]:
    """Yield the clip's frames at a size (width, height), upright, H W 3: uint8, or uint16 if is_deep."""
    converter = VideoReformatter()
    stored = (size[1], size[0]) if clip.orientation.swaps_sides else size
    for frame in video.read_stored(clip):
        if isinstance(frame, VideoFrame) and not clip.background:
            yield _scale_stored(frame, clip, stored, converter, "rgb48le" if is_deep else "rgb24")
        else:
            rgb = video.to_rgb(frame, clip, converter)
            yield resize(images.to_16_bit(rgb) if is_deep else images.to_8_bit(rgb), size)


def _scale_stored(
    frame: VideoFrame, clip: video.Clip, size: Size, converter: VideoReformatter, layout: str
) -> ndarray:
    if size == (frame.width, frame.height):
        interpolation = SCALING
    else:
        interpolation = Interpolation.AREA if size[0] < frame.width else Interpolation.BICUBIC
    rgb = converter.reformat(
        frame,
        *size,
        format=layout,
        src_colorspace=colour_matrix(clip),
        src_color_range=colour_range(clip),
        interpolation=interpolation,
    )
    return np.ascontiguousarray(clip.orientation.apply(rgb.to_ndarray()))


def resize(picture: ndarray, size: Size) -> ndarray:
    """Return a picture at a size (width, height): averaged where it shrinks, bicubic where it grows."""
    import cv2

    if picture.shape[1::-1] == size:
        return picture
    shrinks = size[0] < picture.shape[1]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def seconds(clip: video.Clip) -> ndarray:
    """Return the presentation time of each frame in seconds, float64."""
    return np.array([float(time * clip.time_base) for time in clip.times])


def read_proxies(clip: video.Clip, folder: Path) -> ndarray:
    """Return small grey frames of a whole clip, uint8 f h w, in a file: memory does not grow with the clip."""
    import cv2

    width, height = PROXY_SIZE
    file = tempfile.NamedTemporaryFile(dir=folder, suffix=".proxies", delete=False)  # noqa: SIM115
    proxies = np.memmap(file, np.uint8, "w+", shape=(clip.frames, height, width))
    for i, frame in enumerate(read_scaled(clip, PROXY_SIZE)):
        proxies[i] = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return proxies
