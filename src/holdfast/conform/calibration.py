"""Learn from sampled pairs of frames what an editor did to the whole picture: its colours, its sharpness, its noise."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

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
RESAMPLED_LEAST = 12.0  # grey levels: resampling twice rings at sharp outlines
GRAIN, CLEAN = 0.8, 1.0  # pixels; grey levels of noise below which nothing is blurred
EDGE = 3.0  # edited pixels at the border that are not measured
# Amplitude that a change needs: a share of the main change's, a multiple of the noise, and a limit in grey levels.
MAIN_SHARE, NOISE_FACTOR, MAX_LEAST = 0.35, 8.0, 28.0


@dataclass(frozen=True)
class Levels:
    """Differences of a kind of frames, in grey levels.

    noise: standard deviations. quiet: root mean square in the quiet area. least: mean that a part of the picture needs
    to count as edited. soft: in the quiet area, averaged over a few pixels. main: mean of the main change.
    """

    noise: Noise
    quiet: float
    least: float
    soft: float
    main: float


@dataclass(frozen=True)
class Calibration:
    """What holds for a whole edited clip.

    colours: from edited colours to the source's. blur: pixels by which the source is blurred before it is compared,
    since the edited clip is not as sharp. grain: pixels by which differences are blurred, against noise. exact: of
    frames that the edited clip has; between: of interpolated ones.
    """

    colours: ColourMap
    blur: float
    grain: float
    exact: Levels
    between: Levels


def calibrate(frames: ConformedFrames) -> Calibration:
    """Return what sampled frames show."""
    inside = frames.coverage(edge=EDGE)
    if not inside.any():  # a tiny picture
        inside = np.ones_like(inside)
    exact = [i for i, _ in matched_moments(frames.alignment.timing.main, SAMPLES)]
    pairs = list(_pairs(frames, exact))
    colours = fit_colours(pairs, inside)
    corrected = [(source, colours.apply(edited)) for source, edited in pairs]
    blur = min(BLURS, key=lambda b: _sharpness_cost(corrected, b, inside))
    grain, levels = GRAIN, _measure_levels(corrected, blur, GRAIN, inside)
    if levels.quiet < CLEAN:
        grain, levels = 0.0, _measure_levels(corrected, blur, 0.0, inside)
    if frames.is_resampled:
        levels = replace(levels, least=max(levels.least, RESAMPLED_LEAST))
    between = [i for i in range(len(frames.positions)) if _is_between(frames, i)]
    if not between:
        return Calibration(colours, blur, grain, levels, levels)
    chosen = np.array(between)[np.linspace(0, len(between) - 1, SAMPLES).astype(int)]
    sampled = [(s, colours.apply(e)) for s, e in _pairs(frames, sorted(set(chosen)))]
    middle = _measure_levels(sampled, blur, grain, inside)
    # Interpolation errs at outlines that move, by more than the noise of still areas shows.
    least = min(MAX_LEAST, max(middle.least, MAIN_SHARE * middle.main))
    return Calibration(colours, blur, grain, levels, replace(middle, least=least))


def _measure_levels(
    pairs: list[tuple[ndarray, ndarray]], blur: float, grain: float, inside: ndarray
) -> Levels:
    """Return the noise of sampled pairs, and the levels that follow from it."""
    noise = _learn_noise(pairs, blur, grain, inside)
    masks, quiet, averaged = [], [], []
    for source, edited in pairs:
        apart = change.difference(soften(source, blur), edited, grain)
        luma = change.luma(source)
        distance = noise.distance(apart, change.detail(luma), luma)
        mask = change.connect(distance) & inside
        masks.append((mask, apart))
        calm = inside & ~mask
        if calm.any():
            quiet.append(float((apart[calm] ** 2).sum(1).mean()))
            averaged.append(float(np.median((change.average(apart)[calm] ** 2).sum(1))))
    level, soft = (float(np.sqrt(np.median(v))) if v else 255.0 for v in (quiet, averaged))
    main = change.main_amplitude(masks)
    least = min(MAIN_SHARE * main, NOISE_FACTOR * level, MAX_LEAST)
    return Levels(noise, level, least, max(soft, change.MIN_SIGMA), main)


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
    small = [(resize(s, size)[shown], resize(e, size)[shown]) for s, e in pairs]
    return colour.fit_colours(small)


def soften(source: ndarray, blur: float) -> ndarray:
    """Return a source frame as sharp as the edited clip, float32."""
    import cv2

    picture = source.astype(np.float32)
    return cv2.GaussianBlur(picture, (0, 0), blur) if blur else picture


def _sharpness_cost(pairs: list[tuple[ndarray, ndarray]], blur: float, inside: ndarray) -> float:
    """Return the median difference where the source has detail."""
    values = []
    for source, edited in pairs[:: max(1, len(pairs) // 4)]:
        apart = np.abs(soften(source, blur) - edited).sum(2)[inside]
        amount = change.detail(change.luma(source))[inside]
        values.append(float(np.median(apart[amount >= np.quantile(amount, 0.7)])))
    return float(np.mean(values))


def _learn_noise(
    pairs: list[tuple[ndarray, ndarray]], blur: float, grain: float, inside: ndarray
) -> Noise:
    shown = inside[::STRIDE, ::STRIDE]
    samples = []
    for source, edited in pairs:
        luma = change.luma(source)
        values = change.difference(soften(source, blur), edited, grain), change.detail(luma), luma
        samples.append(change.Samples(*(v[::STRIDE, ::STRIDE][shown] for v in values)))
    return change.learn_noise(samples)
