"""What of a source is kept in the file that was written: decoded again and compared where nothing was to change."""

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy import ndarray

from ..media import images, samples, video
from ..metrics.base import CAP, capped, mean

FileMetrics = dict[str, float | bool | None]


def measure_file(source: video.Clip, path: Path, alphas: Iterable[ndarray]) -> FileMetrics:
    """Of a written file, where the edit's weight, H W a frame, is 0; None where it is 0 nowhere.

    psnr_outside: as the metric masked_psnr has it, in RGB, mean over frames; max_abs_outside: the largest difference
    there, of 1. luma_psnr_outside: of the first plane; samples_equal_outside: whether every plane's own samples are
    the source's (one counts as outside where any of the pixels that it covers is); both None where the two files'
    samples are not laid out alike.
    """
    written = video.probe(path)
    ways = [(clip, VideoReformatter()) for clip in (source, written)]
    found = OutsideMetrics(have_comparable_samples(source, written))
    repacked = VideoReformatter()
    for one, other, alpha in zip(video.read_stored(source), video.read_stored(written), alphas, strict=True):
        if found.laid_alike and len({samples.strip_range_prefix(f.format.name) for f in (one, other)}) > 1:
            one = repacked.reformat(one, format=other.format.name)  # packed: planes to compare
        if found.laid_alike and not alpha.any() and have_equal_samples(one, other):
            found.decibels.append(
                CAP
            )  # what is equal in samples is in RGB too, and that costs more to see
            found.luma.append(CAP)
        elif (alpha == 0).any():
            rgb = [video.to_rgb(f, *way) for f, way in zip((one, other), ways, strict=True)]
            if rgb[0].dtype != rgb[1].dtype:  # a file of fewer bits than its source
                rgb = [images.to_16_bit(frame) for frame in rgb]
            found.add(rgb, alpha == 0)
            if found.laid_alike:
                found.add_samples(one, other, source.orientation.undo(alpha))
    return found.to_dict()


def have_comparable_samples(source: video.Clip, written: video.Clip) -> bool:
    """Whether two videos' samples can be compared one by one."""
    if any(clip.files or clip.is_animation for clip in (source, written)):
        return False
    names = [samples.strip_range_prefix(clip.pixel_format) for clip in (source, written)]
    ways = [(o.quarter_turns, o.is_mirrored) for o in (source.orientation, written.orientation)]
    holds = names[0] == names[1] or (
        samples.is_yuv(names[0]) and samples.holds_samples(names[1], names[0])
    )
    return holds and samples.is_planar(names[1]) and ways[0] == ways[1]


def have_equal_samples(one: av.VideoFrame, other: av.VideoFrame) -> bool:
    pairs = ((samples.plane_array(f, n) for f in (one, other)) for n in range(len(one.planes)))
    return all(np.array_equal(*pair) for pair in pairs)


class OutsideMetrics:
    """Sums over frames."""

    def __init__(self, laid_alike: bool):
        self.laid_alike = laid_alike
        self.decibels: list[float] = []
        self.luma: list[float] = []
        self.worst, self.equal = 0.0, True

    def add(self, pair: list[ndarray], outside: ndarray) -> None:
        square, worst = _measure_difference(*pair, outside)
        self.decibels.append(capped(square / 3))
        self.worst = max(self.worst, worst)

    def add_samples(self, own: av.VideoFrame, made: av.VideoFrame, alpha: ndarray) -> None:
        """alpha: as the frames are stored."""
        for number, component in enumerate(own.format.components[: len(own.planes)]):
            here, there = (samples.plane_array(frame, number) for frame in (own, made))
            outside = samples.downsample_weight(alpha, here.shape) == 0
            if outside.any():
                square, worst = _measure_difference(here, there, outside, 2**component.bits - 1)
                self.equal &= worst == 0
                if number == 0:
                    self.luma.append(capped(square))

    def to_dict(self) -> FileMetrics:
        seen, laid = bool(self.decibels), bool(self.decibels) and self.laid_alike
        return {
            "psnr_outside": round(mean(self.decibels), 3) if seen else None,
            "max_abs_outside": self.worst if seen else None,
            "luma_psnr_outside": round(mean(self.luma), 3) if laid and self.luma else None,
            "samples_equal_outside": self.equal if laid else None,
        }


def _measure_difference(
    one: ndarray, other: ndarray, outside: ndarray, peak: int | None = None
) -> tuple[float, float]:
    """Of integer arrays, where `outside`: the mean over pixels of the squared difference (of all colours), and the
    largest, of 1.
    """
    import cv2

    peak, where = peak or np.iinfo(one.dtype).max, outside.astype(np.uint8)
    square = cv2.norm(one, other, cv2.NORM_L2SQR, where) / outside.sum() / peak**2
    return square, cv2.norm(one, other, cv2.NORM_INF, where) / peak
