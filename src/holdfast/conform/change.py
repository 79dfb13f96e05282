"""Find where an edited clip differs from its source by more than its noise.

The noise of codecs and autoencoders grows with the detail of a picture. It is learned from the quiet area: for each
level of detail, the standard deviation of luma and chroma differences. A pixel's distance is its difference in those
units. Hysteresis joins weak differences to strong ones, and a vote along the flow removes what lasts one frame.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy import ndarray

# Rows: luma, blue and red difference (BT.601) of RGB.
TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)
DETAIL_KNOTS = np.array(
    [0.0, 1.5, 3, 6, 12, 24, 48]
)  # local standard deviation of luma, grey levels
WINDOW = 5  # pixels in which detail is measured
MIN_SIGMA = 0.45  # grey levels: rounding
QUIET = 4.0  # distance below which a pixel is quiet while the noise is learned
LUMA_EDGES = (12, 48, 128, 224)  # of ranges of brightness: codecs and curves clip at both ends
RANGE_FACTOR, RANGE_MORE = 2.0, 2.5  # by which a range may be noisier than all; grey levels
MIN_SAMPLES = 50
# Where this share of the pixels differs by less than so many grey levels, the clip has no noise.
CLEAN_SHARE, CLEAN_LEVEL = 0.8, 1.0
FIRST_QUANTILE = 0.35  # before edited pixels are left out
NORMAL_QUANTILES = {FIRST_QUANTILE: 0.4538, 0.5: 0.6745}  # of the absolute value
ROUNDS = 5
STRONG, WEAK = 7.0, 4.0
SOFT, SOFT_BLUR = 4.0, 4.0  # standard deviations, pixels
EDGE_SHARE, EDGE_REACH = (
    0.4,
    3,
)  # of the largest difference nearby, at which an outline lies; pixels
BLURRED_LEVEL = 3.0  # grey levels of noise of a clip that is blurred as well


@dataclass(frozen=True)
class Noise:
    """Standard deviations of the difference in luma and chroma, in grey levels.

    sigma: at each of LUMA_EDGES' ranges and DETAIL_KNOTS, 5 7 3.
    """

    sigma: ndarray

    def distance(self, difference: ndarray, detail: ndarray, luma: ndarray) -> ndarray:
        """Return the length of a difference H W 3 in standard deviations, H W. detail, luma: of the source, H W."""
        steps = np.linspace(0, DETAIL_KNOTS[-1], 256)
        index = np.minimum(detail * (255 / DETAIL_KNOTS[-1]), 255).astype(np.int32)
        index += 256 * _luma_range(luma)
        total = np.zeros(detail.shape, np.float32)
        for c in range(3):
            rows = [np.interp(steps, DETAIL_KNOTS, 1 / row[:, c]) for row in self.sigma]
            total += (difference[..., c] * np.concatenate(rows).astype(np.float32)[index]) ** 2
        return np.sqrt(total)


def _luma_range(luma: ndarray) -> ndarray:
    return np.digitize(np.arange(256), LUMA_EDGES).astype(np.int32)[luma]


def luma(source: ndarray) -> ndarray:
    """Return the luma of a picture, uint8 H W."""
    import cv2

    return cv2.cvtColor(source, cv2.COLOR_RGB2GRAY)


def difference(source: ndarray, edited: ndarray, blur: float = 0.0) -> ndarray:
    """Return the difference of two pictures H W 3 in grey levels, as luma and chroma, float32, blurred by pixels."""
    import cv2

    apart = cv2.transform(edited.astype(np.float32) - source.astype(np.float32), TO_YCC)
    return cv2.GaussianBlur(apart, (0, 0), blur) if blur else apart


def detail(luma: ndarray) -> ndarray:
    """Return the standard deviation of luma around each pixel, in grey levels, float32 H W."""
    import cv2

    values = luma.astype(np.float32)
    mean = cv2.blur(values, (WINDOW, WINDOW))
    return np.sqrt(np.maximum(cv2.blur(values * values, (WINDOW, WINDOW)) - mean**2, 0))


@dataclass(frozen=True)
class Samples:
    """Pixels of compared frames: difference n 3, detail n and luma n of the source."""

    difference: ndarray
    detail: ndarray
    luma: ndarray

    def at(self, where: ndarray) -> "Samples":
        return Samples(self.difference[where], self.detail[where], self.luma[where])


def learn_noise(samples: Sequence[Samples]) -> Noise:
    """Return the noise of sampled pixels of any number of pictures, less than half of them edited."""
    joined = Samples(
        *(np.concatenate([getattr(s, f.name) for s in samples]) for f in fields(Samples))
    )
    if not len(joined.detail):
        return Noise(np.full((len(LUMA_EDGES) + 1, len(DETAIL_KNOTS), 3), MIN_SIGMA))
    # A clip that is exact nearly everywhere has no noise: what differs was edited.
    most = float(np.quantile(np.abs(joined.difference).max(1), CLEAN_SHARE))
    doubt = min(1.0, most / CLEAN_LEVEL)
    usual = _sigma(joined, _base_sigma(joined.difference, FIRST_QUANTILE), doubt)
    noise = Noise(np.tile(usual, (len(LUMA_EDGES) + 1, 1, 1)))
    ranges = _luma_range(joined.luma)
    for _ in range(ROUNDS):
        distance = noise.distance(joined.difference[None], joined.detail[None], joined.luma[None])
        quiet = joined.at(distance[0] < QUIET)
        if len(quiet.detail) < MIN_SAMPLES:
            break
        usual = _sigma(quiet, _base_sigma(quiet.difference, 0.5), doubt, 0.5)
        # A range of brightness may hold nothing but the edit: it may be noisier than all, but not much.
        limit = (1 + doubt * (RANGE_FACTOR - 1)) * usual + doubt * RANGE_MORE
        rows = [
            np.clip(_sigma(joined.at(ranges == k), limit[0], 1.0, default=usual), usual, limit)
            for k in range(len(LUMA_EDGES) + 1)
        ]
        noise = Noise(np.stack(rows))
    return noise


def _base_sigma(difference: ndarray, quantile: float) -> ndarray:
    """Return the standard deviation of each channel from a quantile of absolute differences n 3."""
    found = np.quantile(np.abs(difference), quantile, axis=0) / NORMAL_QUANTILES[quantile]
    return np.maximum(found, MIN_SIGMA)


def _sigma(
    samples: Samples,
    base: ndarray,
    doubt: float,
    quantile: float = FIRST_QUANTILE,
    default: ndarray | None = None,
) -> ndarray:
    """Return standard deviations at the knots, 7 3.

    base: of all samples. Detail may raise it only so far, from not at all (doubt 0) to several times (doubt 1): at some
    level of detail there may be nothing but the edit.
    default: for knots with too few samples.
    """
    rows = []
    middles = (DETAIL_KNOTS[1:] + DETAIL_KNOTS[:-1]) / 2
    knot = np.digitize(samples.detail, middles)
    for k, amount in enumerate(DETAIL_KNOTS):
        near, limit = knot == k, base + doubt * (base * (0.5 + amount / 4) + 0.6)
        if near.sum() >= MIN_SAMPLES:
            rows.append(np.minimum(_base_sigma(samples.difference[near], quantile), limit))
        else:
            rows.append(base * (1 + doubt * amount / 24) if default is None else default[k])
    return np.stack(rows)


def connect(distance: ndarray, strong: float = STRONG, weak: float = WEAK) -> ndarray:
    """Return the pixels above `weak` that are connected to one above `strong`, boolean H W."""

    candidates = (distance > weak).astype(np.uint8)
    count, labels = label_parts(candidates > 0)
    has_strong = np.zeros(count, bool)
    has_strong[labels[distance > strong]] = True
    has_strong[0] = False
    return has_strong[labels]


def label_parts(mask: ndarray) -> tuple[int, ndarray]:
    """Return the number of connected parts of a mask, with the outside, and the part of each pixel; 0 is outside."""
    import cv2

    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return count, np.asarray(labels, np.intp)


def select(mask: ndarray, difference: ndarray, least: float, min_area: int) -> ndarray:
    """Return a mask without parts that are small, or differ in the mean by less than `least` grey levels.

    What is thinner than five pixels has to differ twice as much, also where it touches a larger part: codecs,
    autoencoders and resampling move outlines.
    """
    import cv2

    size = np.sqrt((difference**2).sum(2))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    body = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0
    mask = mask & (body | (size >= 2 * least))
    count, labels = label_parts(mask)
    areas = np.bincount(labels.ravel(), minlength=count)
    is_kept = (areas >= min_area) & (amplitudes(labels, count, difference) >= least)
    is_kept[0] = False
    return is_kept[labels]


def amplitudes(labels: ndarray, count: int, difference: ndarray) -> ndarray:
    """Return the mean length of the difference in each part, in grey levels."""
    size = np.sqrt((difference**2).sum(2))
    total = np.bincount(labels.ravel(), size.ravel(), minlength=count)
    return total / np.maximum(np.bincount(labels.ravel(), minlength=count), 1)


def main_amplitude(masks: Iterable[tuple[ndarray, ndarray]]) -> float:
    """Return the amplitude of the main change: the 80 % quantile over all pixels of the amplitude of their part.

    masks: with their differences.
    """

    values, weights = [], []
    for mask, apart in masks:
        count, labels = label_parts(mask)
        values.append(amplitudes(labels, count, apart)[1:])
        weights.append(np.bincount(labels.ravel(), minlength=count)[1:])
    value, weight = np.concatenate(values), np.concatenate(weights)
    if not len(value):
        return 0.0
    order = np.argsort(value)
    position = np.searchsorted(np.cumsum(weight[order]), 0.8 * weight.sum())
    return float(value[order][min(position, len(order) - 1)])


def keep_supported(mask: ndarray, support: ndarray, share: float) -> ndarray:
    """Return the parts of a mask that lie in `support` with at least a share of their pixels."""

    count, labels = label_parts(mask)
    areas = np.bincount(labels.ravel(), minlength=count)
    inside = np.bincount(labels[support].ravel(), minlength=count)
    is_kept = inside >= share * np.maximum(areas, 1)
    is_kept[0] = False
    return is_kept[labels]


def extend_softly(mask: ndarray, difference: ndarray, level: float) -> ndarray:
    """Return a mask with weak differences that touch it, such as shadows and reflections.

    level: standard deviation of differences in the quiet area after they are averaged, in grey levels.
    """

    if not mask.any():
        return mask
    size = np.sqrt((average(difference) ** 2).sum(2))
    weak = size > SOFT * level
    count, labels = label_parts(weak | mask)
    touches = np.zeros(count, bool)
    touches[labels[mask]] = True
    touches[0] = False
    return touches[labels]


def average(difference: ndarray) -> ndarray:
    """Return a difference averaged over a few pixels, in which weak changes of an area stand out."""
    import cv2

    return cv2.GaussianBlur(difference, (0, 0), SOFT_BLUR)


def trim_edges(mask: ndarray, difference: ndarray, level: float) -> ndarray:
    """Return a mask whose outline lies where the difference falls to about half: blur has spread it.

    level: of the noise, in grey levels. A clip without noise is not blurred either.
    """
    import cv2

    size = np.sqrt((difference**2).sum(2))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * EDGE_REACH + 1,) * 2)
    largest = cv2.dilate(size, kernel)
    inner = cv2.erode(mask.astype(np.uint8), kernel, borderValue=1) > 0
    share = EDGE_SHARE * min(1.0, level / BLURRED_LEVEL)
    return inner | (mask & (size >= share * largest))


def replicate_border(values: ndarray, safe: ndarray) -> ndarray:
    """Return values H W or H W c with those outside a safe rectangle (boolean H W) replaced by its nearest ones.

    Resampling and codecs spoil the border of a picture.
    """
    import cv2

    rows, columns = np.flatnonzero(safe.any(1)), np.flatnonzero(safe.any(0))
    if not len(rows):
        return values
    height, width = safe.shape
    inner = values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    edges = rows[0], height - 1 - rows[-1], columns[0], width - 1 - columns[-1]
    return cv2.copyMakeBorder(inner, *edges, cv2.BORDER_REPLICATE) if any(edges) else values


def close(mask: ndarray, radius: int) -> ndarray:
    """Return a mask with gaps up to twice the radius closed."""
    import cv2

    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0
