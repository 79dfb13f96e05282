"""Verify a written file: decode it and compare it with the source where the edit must not show."""

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy import ndarray

from ..media import images, samples, video
from ..metrics.base import MAX_PSNR_DB, capped_psnr, nanmean

FileMetrics = dict[str, float | bool | None]
StoredFrame = av.VideoFrame | ndarray


def measure_file(source: video.Clip, path: Path, alphas: Iterable[ndarray]) -> FileMetrics:
    """Compare a written file with its source where the edit's alpha is 0. alphas: H W a frame, in [0, 1].

    psnr_outside: in RGB, the mean over frames, as the metric masked_psnr has it. max_abs_outside: the largest
    difference in RGB, of 1. luma_psnr_outside: of the first plane. samples_equal_outside: whether the samples of every
    plane equal the source's; a sample counts as outside where any pixel that it covers is. The last two are None where
    the files store their samples in different ways, and all are None where the alpha is nowhere 0.
    """
    written = video.probe(path)
    converters = [(clip, VideoReformatter()) for clip in (source, written)]
    repack = VideoReformatter()
    metrics = OutsideMetrics(have_comparable_samples(source, written))
    for one, other, alpha in zip(
        video.read_stored(source), video.read_stored(written), alphas, strict=True
    ):
        planar = None
        if metrics.is_comparable:
            one, other = planar = _make_planar(one, other, repack)
            if not alpha.any() and have_equal_samples(*planar):
                metrics.add_equal()
                continue
        if (alpha == 0).any():
            rgb = [video.to_rgb(f, *to) for f, to in zip((one, other), converters, strict=True)]
            if rgb[0].dtype != rgb[1].dtype:  # the file has fewer bits than its source
                rgb = [images.to_16_bit(frame) for frame in rgb]
            metrics.add(rgb[0], rgb[1], alpha == 0)
            if planar:
                metrics.add_samples(*planar, source.orientation.undo(alpha))
    return metrics.to_dict()


def _make_planar(
    source: StoredFrame, written: StoredFrame, repack: VideoReformatter
) -> tuple[av.VideoFrame, av.VideoFrame]:
    """Return two frames of comparable clips with the same planes: a packed source is converted to the file's format."""
    assert isinstance(source, av.VideoFrame)
    assert isinstance(written, av.VideoFrame)
    formats = {samples.strip_range_prefix(frame.format.name) for frame in (source, written)}
    if len(formats) > 1:
        source = repack.reformat(source, format=written.format.name)
    return source, written


def have_comparable_samples(source: video.Clip, written: video.Clip) -> bool:
    """Return whether the samples of two videos can be compared one by one."""
    if any(clip.files or clip.is_animation for clip in (source, written)):
        return False
    before, after = (samples.strip_range_prefix(clip.pixel_format) for clip in (source, written))
    turns = [(o.quarter_turns, o.is_mirrored) for o in (source.orientation, written.orientation)]
    is_lossless = before == after or (
        samples.is_yuv(before) and samples.holds_samples(after, before)
    )
    return is_lossless and samples.is_planar(after) and turns[0] == turns[1]


def have_equal_samples(one: av.VideoFrame, other: av.VideoFrame) -> bool:
    """Return whether all planes of two frames are equal."""
    pairs = ((samples.plane_array(f, n) for f in (one, other)) for n in range(len(one.planes)))
    return all(np.array_equal(a, b) for a, b in pairs)


class OutsideMetrics:
    """Accumulate the differences outside the edit, frame by frame.

    is_comparable: whether the two files' samples can be compared one by one.
    """

    def __init__(self, is_comparable: bool):
        self.is_comparable = is_comparable
        self.psnr: list[float] = []
        self.luma_psnr: list[float] = []
        self.max_difference, self.is_equal = 0.0, True

    def add_equal(self) -> None:
        """Add a frame whose samples are equal: then its RGB is equal too, and comparing that costs more."""
        self.psnr.append(MAX_PSNR_DB)
        self.luma_psnr.append(MAX_PSNR_DB)

    def add(self, source: ndarray, written: ndarray, outside: ndarray) -> None:
        """Add the RGB of a frame, H W 3. outside: H W boolean."""
        square, largest = _measure_difference(source, written, outside)
        self.psnr.append(capped_psnr(square / 3))
        self.max_difference = max(self.max_difference, largest)

    def add_samples(self, source: av.VideoFrame, written: av.VideoFrame, alpha: ndarray) -> None:
        """Add the planes of a frame. alpha: H W, in the orientation in which the frames are stored."""
        for number, component in enumerate(source.format.components[: len(source.planes)]):
            before, after = (samples.plane_array(frame, number) for frame in (source, written))
            outside = samples.downsample_weight(alpha, before.shape) == 0
            if outside.any():
                peak = 2**component.bits - 1
                square, largest = _measure_difference(before, after, outside, peak)
                self.is_equal &= largest == 0
                if number == 0:
                    self.luma_psnr.append(capped_psnr(square))

    def to_dict(self) -> FileMetrics:
        """Return the metrics of all frames, under the names of the manifest."""
        has_rgb = bool(self.psnr)
        has_samples = has_rgb and self.is_comparable
        return {
            "psnr_outside": round(nanmean(self.psnr), 3) if has_rgb else None,
            "max_abs_outside": self.max_difference if has_rgb else None,
            "luma_psnr_outside": round(nanmean(self.luma_psnr), 3)
            if has_samples and self.luma_psnr
            else None,
            "samples_equal_outside": self.is_equal if has_samples else None,
        }


def _measure_difference(
    one: ndarray, other: ndarray, outside: ndarray, peak: int | None = None
) -> tuple[float, float]:
    """Return the mean squared difference over the pixels outside (summed over channels), and the largest difference.

    one, other: integers of one type, H W or H W 3; both results are relative to `peak`, by default the type's largest.
    """
    import cv2

    peak, where = peak or np.iinfo(one.dtype).max, outside.astype(np.uint8)
    square = cv2.norm(one, other, cv2.NORM_L2SQR, where) / outside.sum() / peak**2
    return square, cv2.norm(one, other, cv2.NORM_INF, where) / peak
