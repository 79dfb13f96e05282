"""Learn from sampled pairs of frames what an editor did to the whole picture: its colours, its sharpness, its noise."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from . import change, colour
from .alignment import matched_moments
from .change import Noise
from .colour import ColourMap
from .frames import ConformedFrames
from .pictures import resize

SAMPLES = 12  # frames
BLURS = (0.0, 0.5, 0.8, 1.2, 1.7, 2.4)  # pixels, that are tried
STRIDE = 3  # pixels: every third counts for the noise
EDGE = 3.0  # edited pixels at the border that are not measured
# Amplitude that a change needs: a share of the main change's, a multiple of the noise, and a limit in grey levels.
MAIN_SHARE, NOISE_FACTOR, MAX_LEAST = 0.35, 5.0, 28.0


@dataclass(frozen=True)
class Calibration:
    """What holds for a whole edited clip.

    colours: from edited colours to the source's. blur: pixels by which the source is blurred before it is compared,
    since the edited clip is not as sharp. noise: of frames that the edited clip has; interpolated: of those between.
    quiet_level: root mean square of the difference in the quiet area, in grey levels. least_amplitude: mean difference
    that a part of the picture needs to count as edited. soft_level: of the difference averaged over a few pixels.
    """

    colours: ColourMap
    blur: float
    noise: Noise
    interpolated: Noise
    quiet_level: float
    least_amplitude: float
    soft_level: float


def calibrate(frames: ConformedFrames) -> Calibration:
    """Return what sampled frames show."""
    inside = frames.coverage(EDGE)
    if not inside.any():  # a tiny picture
        inside = np.ones_like(inside)
    exact = [i for i, _ in matched_moments(frames.alignment.timing.main, SAMPLES)]
    pairs = list(_pairs(frames, exact))
    colours = fit_colours(pairs, inside)
    corrected = [(source, colours.apply(edited)) for source, edited in pairs]
    blur = min(BLURS, key=lambda b: _sharpness_cost(corrected, b, inside))
    noise = _learn_noise(corrected, blur, inside)
    levels = _measure_levels(corrected, blur, inside, noise)
    between = [i for i in range(len(frames.positions)) if _is_between(frames, i)]
    interpolated = noise
    if between:
        chosen = np.array(between)[np.linspace(0, len(between) - 1, SAMPLES // 2).astype(int)]
        sampled = ((s, colours.apply(e)) for s, e in _pairs(frames, sorted(set(chosen))))
        interpolated = _learn_noise(list(sampled), blur, inside)
    return Calibration(colours, blur, noise, interpolated, *levels)


def _measure_levels(
    pairs: list[tuple[ndarray, ndarray]], blur: float, inside: ndarray, noise: Noise
) -> tuple[float, float, float]:
    """Return the level of the noise, the least amplitude of a change, and the level of averaged noise, in grey levels."""
    masks, quiet, averaged = [], [], []
    for source, edited in pairs:
        apart = change.difference(soften(source, blur), edited)
        luma = change.luma(source)
        distance = noise.distance(apart, change.detail(luma), luma)
        mask = change.connect(distance) & inside
        masks.append((mask, apart))
        calm = inside & ~mask
        if calm.any():
            quiet.append(float((apart[calm] ** 2).sum(1).mean()))
            averaged.append(float(np.median((change.average(apart)[calm] ** 2).sum(1))))
    level, soft_level = (float(np.sqrt(np.median(v))) if v else 255.0 for v in (quiet, averaged))
    main = change.main_amplitude(masks)
    least = min(MAIN_SHARE * main, NOISE_FACTOR * level, MAX_LEAST)
    return level, least, max(soft_level, change.MIN_SIGMA)


def _is_between(frames: ConformedFrames, number: int) -> bool:
    return not np.isnan(frames.positions[number]) and not frames.is_exact(number)


def _pairs(frames: ConformedFrames, numbers: list[int]) -> Iterator[tuple[ndarray, ndarray]]:
    for number in numbers:
        edited = frames.read(number)
        if edited is not None:
            yield frames.source.read(number), edited


def fit_colours(pairs: list[tuple[ndarray, ndarray]], inside: ndarray) -> ColourMap:
    """Return the map of colours. It is fitted on small pictures, where noise is averaged."""
    size = colour.small_size(inside.shape[::-1])
    shown = resize(inside.astype(np.uint8) * 255, size) == 255
    small = [tuple(resize(picture, size)[shown] for picture in pair) for pair in pairs]
    return colour.fit_colours(small)


def soften(source: ndarray, blur: float) -> ndarray:
    """Return a source frame as sharp as the edited clip, float32."""
    import cv2

    picture = source.astype(np.float32)
    return cv2.GaussianBlur(picture, (0, 0), blur) if blur else picture


def _sharpness_cost(
    pairs: list[tuple[ndarray, ndarray]], blur: float, inside: ndarray
) -> float:
    """Return the median difference where the source has detail."""
    values = []
    for source, edited in pairs[:: max(1, len(pairs) // 4)]:
        apart = np.abs(soften(source, blur) - edited).sum(2)[inside]
        amount = change.detail(change.luma(source))[inside]
        values.append(float(np.median(apart[amount >= np.quantile(amount, 0.7)])))
    return float(np.mean(values))


def _learn_noise(
    pairs: list[tuple[ndarray, ndarray]], blur: float, inside: ndarray
) -> Noise:
    shown = inside[::STRIDE, ::STRIDE]
    samples = []
    for source, edited in pairs:
        luma = change.luma(source)
        values = change.difference(soften(source, blur), edited), change.detail(luma), luma
        samples.append(change.Samples(*(v[::STRIDE, ::STRIDE][shown] for v in values)))
    return change.learn_noise(samples)
