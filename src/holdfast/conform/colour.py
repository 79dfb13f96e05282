"""Find the colours that an editor changed in the whole picture, and undo them.

c' = A curve(c) + b: a curve for each channel, then a 3x3 matrix and an offset. Both are fitted to pixels of frames that
show the same moment, on small averaged pictures, with weights that leave out what was edited. Colours that the
unedited area does not hold are not corrected by a guess: the curve continues straight there, and the matrix stays the
identity in directions without evidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy import ndarray

from .pictures import Size

KNOTS = 33  # of a curve, evenly spaced from 0 to 255
SMOOTHNESS = 4e-3  # weight of a curve's bends, and of its distance from the identity
IDENTITY = 5e-4  # weight of a slope's distance from 1: beyond the colours that occur, a curve keeps its distance
MATRIX_PRIOR = 5.0  # grey levels of colour variation below which a direction has no evidence
GAIN_PRIOR, OFFSET_PRIOR = 12.0, 0.02  # of one frame's own correction
ROUNDS = 8
MAX_PIXELS = 12_000
MIN_IMPROVEMENT = 0.12  # share of the cost by which a more complex map has to be better
MAX_RESIDUAL, FLOOR = 24.0, 0.3  # grey levels: what differs more was edited; rounding
EDITED_SIGMAS, EDITED_LEVELS = 4.0, 20.0  # residuals of pixels that were edited
GAMMAS = np.exp(np.arange(-16, 17) / 32)  # that are tried
BINS = 8  # of a channel, for the frequency of colours
TUKEY = 4.685
MIN_SIGMA = 0.5  # grey levels
SIDE = 160  # pixels of the longer side of the pictures that colours are fitted on


@dataclass(frozen=True)
class ColourMap:
    """From edited colours to the source's. curves: 3 KNOTS; matrix: 3 3; offset: 3; all in grey levels 0 to 255."""

    curves: ndarray
    matrix: ndarray
    offset: ndarray

    @property
    def is_identity(self) -> bool:
        """Return whether nothing changes by half a grey level."""
        knots = np.linspace(0, 255, KNOTS)
        grey = np.stack([np.interp(knots, knots, curve) for curve in self.curves], 1)
        return bool(
            np.abs(grey @ self.matrix.T + self.offset - knots[:, None]).max() < 0.5
        ) and bool(np.abs(self.matrix - np.eye(3)).max() < 0.004)

    def apply_to(self, colours: ndarray) -> ndarray:
        """Return colours n 3 in grey levels, corrected."""
        return apply_curves(colours, self.curves) @ self.matrix.T + self.offset

    def apply(self, picture: ndarray, gain: ndarray | None = None) -> ndarray:
        """Return a picture H W 3 with its colours corrected, float32 in the picture's own units.

        gain: 3 2, each channel's gain and offset of this frame.
        """
        import cv2

        peak = 255 if picture.dtype == np.uint8 else 65535
        levels = np.arange(peak + 1) * (255 / peak)
        curve = [np.interp(levels, np.linspace(0, 255, KNOTS), c) for c in self.curves]
        table = np.stack(curve, 1).astype(np.float32)
        matrix, offset = self.matrix, self.offset
        if gain is not None:
            matrix, offset = gain[:, :1] * matrix, gain[:, 0] * offset + gain[:, 1]
        curved = cv2.merge([table[:, c][picture[..., c]] for c in range(3)])
        joined = np.hstack((matrix, offset[:, None])).astype(np.float32)
        return cv2.transform(curved, joined) * np.float32(peak / 255)


Kind = Literal["gamma", "curves", "matrix"]
KINDS: tuple[Kind, ...] = ("gamma", "curves", "matrix")
IDENTITY_MAP = ColourMap(np.tile(np.linspace(0, 255, KNOTS), (3, 1)), np.eye(3), np.zeros(3))
NO_GAIN = np.array([[1.0, 0.0]] * 3)


def small_size(size: Size) -> Size:
    """Return the size of the pictures that colours are fitted on."""
    scale = min(1.0, SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def fit_colours(pairs: Sequence[tuple[ndarray, ndarray]]) -> ColourMap:
    """Return the map that brings edited colours to the source's. pairs: n 3 each, source and edited, in grey levels.

    The simplest map that explains the pictures is chosen: none, gamma curves, free curves, or those and a matrix.
    Rare colours count as
    much as frequent ones, so that a map does not bend colours that only a small object has.
    """
    step = max(1, sum(len(pair[0]) for pair in pairs) // MAX_PIXELS)
    source, edited = (
        np.concatenate([pair[k][::step] for pair in pairs]).astype(np.float64) for k in (0, 1)
    )
    unedited = _find_unedited(source, edited)
    source, edited = source[unedited], edited[unedited]
    balance = _balance(edited)
    best, best_cost = IDENTITY_MAP, _cost(source - edited, balance)
    for kind in KINDS:
        found = _fit(source, edited, balance, kind)
        cost = _cost(source - found.apply_to(edited), balance)
        if cost < (1 - MIN_IMPROVEMENT) * best_cost:
            best, best_cost = found, cost
    return best


def _find_unedited(source: ndarray, edited: ndarray) -> ndarray:
    """Return which pixels n are not edited, as far as a gain and an offset for each channel tell."""
    weights = _trimmed_weights(source - edited)
    for _ in range(ROUNDS):
        gain = fit_gain(source, edited, weights)
        residual = source - (edited * gain[:, 0] + gain[:, 1])
        weights = tukey_weights(residual)
    size = np.abs(residual).max(1)
    limit = max(EDITED_SIGMAS * 1.4826 * float(np.median(size)), EDITED_LEVELS)
    return size <= limit


def _balance(colours: ndarray) -> ndarray:
    """Return a weight for each pixel, so that a colour counts by the root of its frequency. Their mean is 1."""
    bins = np.clip(colours / 256 * BINS, 0, BINS - 1).astype(np.intp) @ np.array((1, BINS, BINS**2))
    counts = np.bincount(bins, minlength=BINS**3)
    weights = 1 / np.sqrt(counts[bins])
    return weights / weights.mean()


def _cost(residual: ndarray, balance: ndarray) -> float:
    """Return the weighted mean of truncated residuals in grey levels."""
    size = np.minimum(np.abs(residual).mean(1), MAX_RESIDUAL)
    return float((size * balance).mean()) + FLOOR


def _fit(source: ndarray, edited: ndarray, balance: ndarray, kind: Kind) -> ColourMap:
    result, weights = IDENTITY_MAP, balance * _trimmed_weights(source - edited)
    fit_curve = _fit_gamma if kind == "gamma" else _fit_curve
    for _ in range(ROUNDS // 2 if kind == "gamma" else ROUNDS):
        curves = np.stack([fit_curve(edited[:, c], source[:, c], weights) for c in range(3)])
        result = ColourMap(curves, np.eye(3), np.zeros(3))
        if kind == "matrix":
            matrix, offset = _fit_matrix(apply_curves(edited, curves), source, weights)
            result = ColourMap(curves, matrix, offset)
        weights = balance * tukey_weights(source - result.apply_to(edited))
    return result


def _fit_gamma(edited: ndarray, source: ndarray, weights: ndarray) -> ndarray:
    """Return the knots of source = 255 (a edited + b)^(1/gamma), which also holds for colours that do not occur.

    For each gamma, a and b follow from linear regression of (source / 255)^gamma.
    """
    best, best_cost = np.linspace(0, 255, KNOTS), np.inf
    total = max(float(weights.sum()), 1e-9)
    for gamma in GAMMAS:
        powers = (np.clip(source, 0, 255) / 255) ** gamma
        mx, my = (float((weights * v).sum()) / total for v in (edited, powers))
        variance = float((weights * (edited - mx) ** 2).sum()) / total
        if variance < 1:
            continue
        a = float((weights * (edited - mx) * (powers - my)).sum()) / total / variance
        values = 255 * np.clip(a * (edited - mx) + my, 0, 1) ** (1 / gamma)
        cost = float((weights * np.abs(values - source)).sum()) / total
        if cost < best_cost and a > 0:
            line = a * (np.linspace(0, 255, KNOTS) - mx) + my
            best, best_cost = 255 * np.clip(line, 0, 1.2) ** (1 / gamma), cost
    return best


def _trimmed_weights(difference: ndarray) -> ndarray:
    """Return weight 1 for the half of the pixels that differ least from the most usual difference."""
    apart = np.abs(difference - np.median(difference, 0)).sum(1)
    return (apart <= np.median(apart)).astype(float)


def tukey_weights(residual: ndarray) -> ndarray:
    """Return Tukey's biweight of residuals n 3, by their largest channel in standard deviations."""
    size = np.abs(residual)
    sigma = np.maximum(1.4826 * np.median(size, 0), MIN_SIGMA)
    ratio = (size / sigma).max(1) / TUKEY
    return np.where(ratio < 1, (1 - ratio**2) ** 2, 0.0)


def _fit_curve(edited: ndarray, source: ndarray, weights: ndarray) -> ndarray:
    """Return the values of a curve at its knots: least squares with few bends, rising everywhere."""
    position = np.clip(edited / 255 * (KNOTS - 1), 0, KNOTS - 1)
    low = np.minimum(position.astype(int), KNOTS - 2)
    share = position - low
    total = max(float(weights.sum()), 1.0)
    left, right = weights * (1 - share), weights * share
    a = np.zeros((KNOTS, KNOTS))
    np.add.at(a, (low, low), left * (1 - share))
    np.add.at(a, (low, low + 1), left * share)
    np.add.at(a, (low + 1, low), left * share)
    np.add.at(a, (low + 1, low + 1), right * share)
    b = np.bincount(low, left * source, KNOTS) + np.bincount(low + 1, right * source, KNOTS)
    bends = np.diff(np.eye(KNOTS), 2, axis=0)
    knots = np.linspace(0, 255, KNOTS)
    slopes = np.diff(np.eye(KNOTS), 1, axis=0)
    a = a / total + SMOOTHNESS * bends.T @ bends + IDENTITY * slopes.T @ slopes
    b = b / total + IDENTITY * slopes.T @ (slopes @ knots)
    return np.maximum.accumulate(np.linalg.solve(a + 1e-9 * np.eye(KNOTS), b))


def apply_curves(colours: ndarray, curves: ndarray) -> ndarray:
    """Return colours n 3 after their channels' curves."""
    knots = np.linspace(0, 255, KNOTS)
    return np.stack([np.interp(colours[:, c], knots, curves[c]) for c in range(3)], 1)


def _fit_matrix(edited: ndarray, source: ndarray, weights: ndarray) -> tuple[ndarray, ndarray]:
    """Return a matrix and an offset: ridge regression towards the identity."""
    total = max(float(weights.sum()), 1.0)
    means = [(weights[:, None] * values).sum(0) / total for values in (edited, source)]
    x, y = edited - means[0], source - means[1]
    weighted = weights[:, None] * x
    covariance = weighted.T @ x / total + MATRIX_PRIOR**2 * np.eye(3)
    change = np.linalg.solve(covariance, weighted.T @ (y - x) / total).T
    matrix = np.eye(3) + change
    return matrix, means[1] - matrix @ means[0]


def fit_gain(source: ndarray, edited: ndarray, weights: ndarray) -> ndarray:
    """Return each channel's own gain and offset of one frame, 3 2. source, edited: n 3; edited already corrected."""
    total = float(weights.sum())
    if total < 1:
        return NO_GAIN
    result = []
    for c in range(3):
        x, y = edited[:, c], source[:, c]
        mx, my = (float((weights * v).sum()) / total for v in (x, y))
        variance = float((weights * (x - mx) ** 2).sum()) / total + GAIN_PRIOR**2
        slope = 1 + float((weights * (x - mx) * (y - my - x + mx)).sum()) / total / variance
        evidence = total / (total + OFFSET_PRIOR * len(x))
        result.append((slope, (my - slope * mx) * evidence))
    return np.array(result)
