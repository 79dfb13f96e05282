"""Find where each pixel of a source lies in the frames of an edited clip.

A placement maps coordinates of source pixels to those of edited pixels, 2x3, with pixel centres at whole numbers. It
begins with the placements that programs produce (stretch, letterbox, crop) and with what features agree on, and is
refined on pairs of frames that show the same moment, all together.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy import ndarray

from .pictures import Size
from .timing import FULL, Box

Free = Literal["shift", "scales"]
FREEDOMS: tuple[Free, ...] = ("shift", "scales")
Pair = tuple[
    ndarray, ndarray
]  # grey frames of source and edited clip that show the same moment, uint8
BAR_LEVEL, BAR_SPREAD = (
    6.0,
    8.0,
)  # grey levels that a bar may vary, from line to line and within one
BAR_STEP = 16.0  # grey levels at its edge
MAX_BAR = 0.35  # of a side
FEATURES, RATIO, REPROJECTION = 1500, 0.8, 1.5
MIN_MATCHES = 24
STRAIGHT_SHARE = 0.9  # of the matches that a placement without rotation has to explain
FLAT_DIFFERENCE = 64.0  # grey levels between pictures without structure that are not alike
PATCH = 9  # pixels of the window in which pictures are compared
# Of correlation, by which a placement has to be better than a more usual one.
MIN_GAIN, DOUBT = 0.004, 0.03  # the second for pictures that are not alike
CERTAIN = 0.97  # correlation above which features are not asked
SLOW = 48.0  # pixels: variation that is slower is left to the colour correction
# Of the steps of a refinement: blur in pixels, and the least standard deviation of a residual in grey levels.
STEPS = ((4.0, 8.0), (2.0, 4.0), (1.5, 2.0), (1.0, 1.0), *[(1.0, 0.3)] * 12)
FOUND = 0.01  # pixels: a refinement ends after a smaller step
STRIDE = 2  # pixels: every second one is compared; blurred ones repeat each other
EDGE = 4.0  # pixels at the border of the edited picture, where bars bleed in
SCALE_PRIOR, MAX_STEP = 1.0, 8.0  # pixels
TURN = 1e-3  # rotation and shear below it are noise
EXACT_SCALE, EXACT_SHIFT = 4e-4, 0.08  # placements that differ less from a usual one are that one


@dataclass(frozen=True)
class Placement:
    """matrix: 2x3, from source to edited pixels. is_usual: a plain stretch, letterbox or crop. score: correlation."""

    matrix: ndarray
    is_usual: bool
    score: float


def find_bars(proxies: ndarray) -> Box:
    """Return where small grey frames f h w have a picture inside bars of one colour, as shares of the frame."""
    sample = proxies[:: max(1, len(proxies) // 48)].astype(np.float32)
    top, bottom = _bar_edges(sample.transpose(1, 0, 2).reshape(sample.shape[1], -1))
    left, right = _bar_edges(sample.transpose(2, 0, 1).reshape(sample.shape[2], -1))
    return left, top, right, bottom


def _bar_edges(lines: ndarray) -> tuple[float, float]:
    """Return where lines, n m, that are not of the colour of both ends begin and end, as shares.

    A sky or a floor is no bar: bars are of one colour, equal at both ends, equally wide, and end abruptly.
    """
    count, level, spread = len(lines), np.median(lines, 1), lines.std(1)
    is_bar = (spread <= BAR_SPREAD) & (np.abs(level - (level[0] + level[-1]) / 2) <= BAR_LEVEL)
    if is_bar.all() or not (is_bar[0] and is_bar[-1]):
        return 0.0, 1.0
    first, last = int(np.argmin(is_bar)), int(np.argmin(is_bar[::-1]))
    # The lines on the edges may be mixtures.
    steps = [np.abs(lines[at] - level[0]).max() for at in (first + 1, -last - 2)]
    if abs(first - last) > 2 or max(first, last) > MAX_BAR * count or min(steps) < BAR_STEP:
        return 0.0, 1.0
    return first / count, 1 - last / count


def usual_placements(source: Size, edited: Size, boxes: tuple[Box, Box]) -> list[ndarray]:
    """Return the placements that programs produce, for clips of these sizes with pictures in these boxes."""
    whole = (FULL, FULL)
    found = [_map_box(source, edited, *whole)]
    for here, there in {whole, (FULL, boxes[1]), (boxes[0], FULL), boxes}:
        found.append(_map_box(source, edited, here, there))
        found.append(_map_centre(source, edited, here, there, max))  # crop
        found.append(_map_centre(source, edited, here, there, min))  # letterbox
    unique: list[ndarray] = []
    for matrix in found:
        if not any(np.abs(matrix - other).max() < 1e-6 for other in unique):
            unique.append(matrix)
    return unique


def _map_box(source: Size, edited: Size, here: Box, there: Box) -> ndarray:
    """Return the placement that stretches a box of the source over a box of the edited clip."""
    rows = []
    for axis in (0, 1):
        start, stop = here[axis] * source[axis], here[axis + 2] * source[axis]
        begin, end = there[axis] * edited[axis], there[axis + 2] * edited[axis]
        scale = (end - begin) / (stop - start)
        rows.append((scale, begin - scale * start))
    return from_scales(rows[0], rows[1])


def _map_centre(source: Size, edited: Size, here: Box, there: Box, choose) -> ndarray:
    """Return the placement of equal scales that puts the centre of a box on that of another."""
    scales, centres = [], []
    for axis in (0, 1):
        start, stop = here[axis] * source[axis], here[axis + 2] * source[axis]
        begin, end = there[axis] * edited[axis], there[axis + 2] * edited[axis]
        scales.append((end - begin) / (stop - start))
        centres.append(((start + stop) / 2, (begin + end) / 2))
    scale = choose(scales)
    return from_scales(*((scale, to - scale * of) for of, to in centres))


def from_scales(x: tuple[float, float], y: tuple[float, float]) -> ndarray:
    """Return a placement from (scale, shift) of each axis in continuous coordinates, where a pixel is one wide."""
    (sx, tx), (sy, ty) = x, y
    return np.array([[sx, 0, tx + (sx - 1) / 2], [0, sy, ty + (sy - 1) / 2]])


def warp(picture: ndarray, matrix: ndarray, size: Size, border: int | None = None) -> ndarray:
    """Return an edited frame as the source's pixels see it. size: of the source."""
    import cv2

    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    mode = cv2.BORDER_REPLICATE if border is None else cv2.BORDER_CONSTANT
    return cv2.warpAffine(
        picture, matrix, size, flags=flags, borderMode=mode, borderValue=border or 0
    )


def coverage(
    matrix: ndarray, source: Size, edited: Size, box: Box = FULL, edge: float = 0.0
) -> ndarray:
    """Return which pixels of the source the edited clip shows in its box, `edge` pixels from its border: H W."""
    x = np.arange(source[0]) * matrix[0, 0] + matrix[0, 2] + matrix[0, 1] * source[1] / 2
    y = np.arange(source[1]) * matrix[1, 1] + matrix[1, 2] + matrix[1, 0] * source[0] / 2
    left, top, right, bottom = (edge * side for edge, side in zip(box, edited * 2, strict=True))
    across = (x >= left + edge - 0.51) & (x <= right - edge - 0.49)
    down = (y >= top + edge - 0.51) & (y <= bottom - edge - 0.49)
    return down[:, None] & across


def find_placement(pairs: Sequence[Pair], boxes: tuple[Box, Box]) -> Placement:
    """Return the placement that makes frames of both clips most alike, the most usual one where several do.

    pairs: of at least one moment, all of the same two sizes.
    """
    source, edited = (picture.shape[1::-1] for picture in pairs[0])
    usual = [Placement(m, True, score(pairs, m)) for m in usual_placements(source, edited, boxes)]
    best = max(usual, key=lambda p: p.score)
    refined = [_refine(pairs, best.matrix, free, boxes[1]) for free in FREEDOMS]
    if max(r.score for r in refined) < CERTAIN:
        features = match_features(pairs)
        if features is not None:
            refined += [_refine(pairs, features, free, boxes[1]) for free in FREEDOMS]
    candidates = [*usual, *refined]
    best_score = max(candidate.score for candidate in candidates)
    least = best_score - margin(best_score)
    chosen = next(c for c in candidates if c.score >= least)
    return next((u for u in usual if _is_same(u.matrix, chosen.matrix, source)), chosen)


def margin(correlation: float) -> float:
    """Return by how much a less usual placement has to be better: by more where pictures are not alike."""
    return MIN_GAIN + DOUBT * (1 - correlation)


def _is_same(one: ndarray, other: ndarray, size: Size) -> bool:
    corners = np.array([[x, y, 1] for x, y in itertools.product((0, size[0]), (0, size[1]))])
    apart = np.abs(corners @ (one - other).T)
    scale = np.abs(one[:, :2] - other[:, :2]).max() / np.abs(one[:, :2]).max()
    return bool(apart.mean() < EXACT_SHIFT * 2 and scale < EXACT_SCALE)


def _refine(pairs: Sequence[Pair], matrix: ndarray, free: Free, box: Box) -> Placement:
    refined = refine(pairs, matrix, free, box)
    return Placement(refined, False, score(pairs, refined))


def score(pairs: Sequence[Pair], matrix: ndarray) -> float:
    """Return how alike the pictures are, the median correlation of small windows with structure, -1 to 1.

    An edit changes fewer than half of the windows, so the median does not see it. Pictures without structure are
    alike where they are equally bright.
    """
    placed = [(source, warp(edited, matrix, source.shape[1::-1])) for source, edited in pairs]
    joined = np.concatenate([local_correlation(*pair) for pair in placed])
    if len(joined):
        return float(np.median(joined))
    apart = float(np.mean([np.abs(pair[0].astype(float) - pair[1]).mean() for pair in placed]))
    return 1 - min(1.0, apart / FLAT_DIFFERENCE)


def local_correlation(one: ndarray, other: ndarray) -> ndarray:
    """Return the correlation of two grey pictures in each window that has structure, n."""
    import cv2

    def mean(values: ndarray) -> ndarray:
        return cv2.blur(values, (PATCH, PATCH))

    a, b = one.astype(np.float32), other.astype(np.float32)
    means = mean(a), mean(b)
    variances = mean(a * a) - means[0] ** 2, mean(b * b) - means[1] ** 2
    joint = mean(a * b) - means[0] * means[1]
    strong = np.maximum(*variances)
    has_structure = strong > max(4.0, float(np.quantile(strong, 0.6)))
    norm = np.sqrt(np.maximum(variances[0], 1) * np.maximum(variances[1], 1))
    return (joint / norm)[has_structure][::PATCH]


def match_features(pairs: Sequence[Pair]) -> ndarray | None:
    """Return the placement that features of all pairs agree on; None where there are too few."""
    import cv2

    found = [match for pair in pairs for match in _feature_matches(*pair)]
    if len(found) < MIN_MATCHES:
        return None
    points = np.array(found, np.float32)
    matrix, inliers = cv2.estimateAffine2D(
        np.ascontiguousarray(points[:, 0]),
        np.ascontiguousarray(points[:, 1]),
        ransacReprojThreshold=REPROJECTION,
    )
    if matrix is None or inliers.sum() < MIN_MATCHES:
        return None
    straight = _fit_scales(points[inliers[:, 0] > 0])
    apart = [
        np.linalg.norm(_place(m, points[:, 0]) - points[:, 1], axis=1) for m in (straight, matrix)
    ]
    counts = [(distance < REPROJECTION).sum() for distance in apart]
    return straight if counts[0] >= STRAIGHT_SHARE * counts[1] else matrix


def _place(matrix: ndarray, points: ndarray) -> ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def _fit_scales(points: ndarray) -> ndarray:
    """Return the placement without rotation that fits matched points n 2 2, by medians that outliers do not move."""
    matrix = np.zeros((2, 3))
    for axis in (0, 1):
        x, y = points[:, 0, axis].astype(float), points[:, 1, axis].astype(float)
        weights = np.ones(len(x))
        for _ in range(5):
            scale, shift = np.polyfit(x, y, 1, w=weights)
            apart = np.abs(y - scale * x - shift)
            weights = 1 / np.maximum(apart, 0.1)
        matrix[axis, axis], matrix[axis, 2] = scale, shift
    return matrix


def _feature_matches(
    source: ndarray, edited: ndarray
) -> Iterator[tuple[Sequence[float], Sequence[float]]]:
    import cv2

    sift = cv2.SIFT.create(FEATURES)
    (points, one), (others, two) = (sift.detectAndCompute(p, None) for p in (source, edited))
    if one is None or two is None or min(len(one), len(two)) < 2:
        return
    for matches in cv2.BFMatcher().knnMatch(one, two, k=2):
        if len(matches) == 2 and matches[0].distance < RATIO * matches[1].distance:
            yield points[matches[0].queryIdx].pt, others[matches[0].trainIdx].pt


def straighten(matrix: ndarray) -> ndarray:
    """Return a placement without rotation and shear where they are noise."""
    turn = np.abs([matrix[0, 1], matrix[1, 0]]).max() / np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    if turn >= TURN:
        return matrix
    straight = matrix.copy()
    straight[0, 1] = straight[1, 0] = 0
    return straight


def refine(pairs: Sequence[Pair], matrix: ndarray, free: Free, box: Box = FULL) -> ndarray:
    """Return the placement near a placement that fits all pairs best.

    free: shift alone, or shift and scales. box: where edited frames have a picture.

    Gauss-Newton on pictures without their slow variation, which colour corrections change. Pixels that do not fit get
    no weight (Tukey), so an edit does not count.
    """
    size, edited_size = (picture.shape[1::-1] for picture in pairs[0])
    for step in STEPS:
        inside = coverage(matrix, size, edited_size, box, EDGE)
        if not inside[::STRIDE, ::STRIDE].any():
            break
        change = _gauss_newton_step(pairs, matrix, free, inside, step)
        matrix = matrix + change
        if step == STEPS[-1] and np.abs(change @ (size[0] / 2, size[1] / 2, 1)).max() < FOUND:
            break
    return matrix


def _detail(picture: ndarray, inside: ndarray) -> ndarray:
    """Return a picture without its slow variation inside a mask, float32."""
    import cv2

    height, width = picture.shape
    coarse = max(1, round(width / SLOW)), max(1, round(height / SLOW))
    values, shown = picture.astype(np.float32), inside.astype(np.float32)
    total, count = (
        cv2.resize(v, coarse, interpolation=cv2.INTER_AREA) for v in (values * shown, shown)
    )
    slow = total.reshape(count.shape) / np.maximum(count, 1e-3)
    slow[count < 1e-3] = float(values[inside].mean())
    return values - cv2.resize(slow, (width, height), interpolation=cv2.INTER_LINEAR)


def _gauss_newton_step(
    pairs: Sequence[Pair],
    matrix: ndarray,
    free: Free,
    inside: ndarray,
    step: tuple[float, float],
) -> ndarray:
    """Return the change of a placement that one step of Gauss-Newton on all pairs gives.

    Scales are held back by what they may move at the sides (SCALE_PRIOR), as far as the pictures do not tell.
    """
    import cv2

    blur, least_sigma = step
    size = pairs[0][0].shape[1::-1]
    x, y = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in size))
    whole, inside = inside, inside[::STRIDE, ::STRIDE]
    x, y = x[::STRIDE, ::STRIDE], y[::STRIDE, ::STRIDE]
    normal, right, variance = np.zeros((4, 4)), np.zeros(4), 0.0
    for source, edited in pairs:
        seen = cv2.GaussianBlur(_detail(warp(edited, matrix, size), whole), (0, 0), blur)
        target = cv2.GaussianBlur(_detail(source, whole), (0, 0), blur)
        mean = (seen + target) / 16
        dx, dy = (cv2.Sobel(mean, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
        target, seen, dx, dy = (values[::STRIDE, ::STRIDE] for values in (target, seen, dx, dy))
        residual, weight = _weigh(target, seen, inside, least_sigma)
        columns = np.stack((dx, dx * x, dy, dy * y)).reshape(4, -1)
        weighted = columns * weight.ravel()
        normal += weighted @ columns.T
        right += weighted @ residual.ravel()
        variance += float((weight * residual**2).sum() / max(float(weight.sum()), 1)) / len(pairs)
    # Neighbouring pixels repeat each other: so many count as one.
    together = 4 * np.pi * (blur**2 + 1) / STRIDE**2
    normal[[1, 3], [1, 3]] += variance * together / SCALE_PRIOR**2
    used = [0, 1, 2, 3] if free == "scales" else [0, 2]
    change = np.zeros(4)
    change[used] = np.linalg.solve(
        normal[np.ix_(used, used)] + 1e-3 * np.eye(len(used)), right[used]
    )
    return _to_matrix(np.clip(change, -MAX_STEP, MAX_STEP), size, matrix)


def _weigh(
    target: ndarray, seen: ndarray, inside: ndarray, least_sigma: float
) -> tuple[ndarray, ndarray]:
    """Return the residual of a pair after its contrast is matched, and Tukey's weight of each pixel."""
    a, b, gain = seen[inside], target[inside], 1.0
    for _ in range(3):  # the contrast of what fits: an edit has another
        weight = _tukey(b - gain * a, least_sigma)
        gain = float((weight * a * b).sum() / max(float((weight * a * a).sum()), 1e-6))
        gain = float(np.clip(gain, 0.5, 2))
    residual = target - gain * seen
    return residual, np.where(inside, _tukey(residual, least_sigma, residual[inside]), 0)


def _tukey(residual: ndarray, least_sigma: float, known: ndarray | None = None) -> ndarray:
    """Return Tukey's weight of each residual. known: those that the standard deviation is taken from."""
    size = np.abs(residual if known is None else known)
    sigma = max(1.4826 * float(np.median(size)), least_sigma)
    ratio = np.minimum(np.abs(residual) / (4.685 * sigma), 1)
    return ((1 - ratio**2) ** 2).astype(np.float32)


def _to_matrix(step: ndarray, size: Size, matrix: ndarray) -> ndarray:
    """Return the change of a placement for a change of shift and scale in source pixels about the middle."""
    change = np.zeros((3, 3))
    for axis in (0, 1):
        half = max((size[axis] - 1) / 2, 1)
        change[axis, axis] = step[2 * axis + 1] / half
        change[axis, 2] = step[2 * axis] - step[2 * axis + 1]
    return (np.vstack((matrix, (0, 0, 1))) @ (np.eye(3) + change))[:2] - matrix
