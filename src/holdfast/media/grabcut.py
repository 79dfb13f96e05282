"""Tighten a rough mask to a picture's edges: GrabCut (Rother et al., SIGGRAPH 2004) by OpenCV, near the mask alone.

A sketch is what is known beforehand, uint8 H W of OpenCV's four values: OUT and IN are certain, PERHAPS_OUT and
PERHAPS_IN a first guess.
"""

import cv2
import numpy as np
from numpy import ndarray

OUTSIDE, INSIDE, PROBABLY_OUTSIDE, PROBABLY_INSIDE = cv2.GC_BGD, cv2.GC_FGD, cv2.GC_PR_BGD, cv2.GC_PR_FGD
# Pixels of a thing's breadth: below the first it is enlarged to the second, above the third shrunk to it. Clusters of
# colours need some pixels, and a large picture takes long.
FEW, WANTED, MANY = 40, 128, 192
SAMPLES = 1500  # pixels of the surroundings that a box is compared with
PLACE = 40.0  # how much a box's breadth of distance counts, in steps of Lab (255)
ALIKE = (
    6.0,
    30.0,
)  # steps of Lab below which a pixel is like its surroundings, at least and at most


def segment(frame: ndarray, trimap: ndarray, rounds: int = 5) -> ndarray:
    """The mask, boolean H W, of a frame uint8 H W 3: found at a size that suits the thing, then at the frame's own.

    Where a sketch leaves nothing open it is the sketch's own.
    """
    near = margin_slices(trimap != OUTSIDE)
    if near is None:
        return trimap == INSIDE
    found = np.zeros(trimap.shape, bool)
    part, known = np.ascontiguousarray(frame[near]), np.ascontiguousarray(trimap[near])
    scale = _scale(breadth(known != OUTSIDE))
    if scale == 1:
        found[near] = _cut(part, known, rounds)
        return found
    size = tuple(max(1, round(scale * side)) for side in known.shape[::-1])
    shape = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    other = cv2.resize(part, size, interpolation=shape)
    rough = _cut(other, cv2.resize(known, size, interpolation=cv2.INTER_NEAREST), rounds)
    share = cv2.resize(rough.astype(np.float32), known.shape[::-1], interpolation=cv2.INTER_AREA)
    found[near] = refine(part, share >= 0.5, max(1.0, 1 / scale), known)
    return found


def refine(
    frame: ndarray, mask: ndarray, reach: float, trimap: ndarray | None = None
) -> ndarray:
    """A mask, boolean H W, whose outline lies at most so many pixels from that of `inside`; what a sketch is certain of
    stays.
    """
    certain = np.where(mask, np.uint8(PROBABLY_INSIDE), np.uint8(PROBABLY_OUTSIDE))
    certain[erode(mask, reach)] = INSIDE
    certain[~dilate(mask, reach)] = OUTSIDE
    if trimap is not None:
        sure = (trimap == INSIDE) | (trimap == OUTSIDE)
        certain[sure] = trimap[sure]
    near = margin_slices(certain != OUTSIDE)
    if near is None:
        return certain == INSIDE
    found = np.zeros(mask.shape, bool)
    found[near] = _cut(np.ascontiguousarray(frame[near]), certain[near], 2)
    return found


def _cut(frame: ndarray, sketch: ndarray, rounds: int) -> ndarray:
    """As the picture is, all of it."""
    sure = (sketch == INSIDE) | (sketch == PROBABLY_INSIDE)
    if not sure.any() or sure.all():
        return sure
    cv2.setRNGSeed(0)  # its clusters begin at random
    marks, back, front = sketch.copy(), np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(frame, marks, None, back, front, rounds, cv2.GC_INIT_WITH_MASK)
    return (marks == INSIDE) | (marks == PROBABLY_INSIDE)


def box_trimap(frame: ndarray, inside: ndarray) -> ndarray:
    """The sketch of a box, boolean H W: what in it is like its surroundings is perhaps no part of the thing."""
    sketch = np.where(inside, np.uint8(PROBABLY_INSIDE), np.uint8(OUTSIDE))
    near = margin_slices(inside)
    if near is None or inside[near].all():
        return sketch
    part, within = np.ascontiguousarray(frame[near]), inside[near].astype(np.uint8)
    scale = WANTED / breadth(inside)
    size = tuple(max(1, round(scale * side)) for side in within.shape[::-1])
    shape = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = cv2.resize(part, size, interpolation=shape)
    like = _like_beside(picture, cv2.resize(within, size, interpolation=cv2.INTER_NEAREST) > 0)
    large = cv2.resize(like, within.shape[::-1], interpolation=cv2.INTER_AREA) >= 0.5
    sketch[near][large & (within > 0)] = PROBABLY_OUTSIDE
    return sketch


def _like_beside(frame: ndarray, within: ndarray) -> ndarray:
    """1 for each pixel within a colour like whose own is found beside, and not far away, else 0: float32 H W."""
    lab = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB).astype(np.float32)  # all three up to 255
    rows, columns = np.mgrid[0 : lab.shape[0], 0 : lab.shape[1]].astype(np.float32)
    far = PLACE / breadth(within)
    about = np.dstack((lab, far * rows, far * columns))
    others = about[~within]
    drawn = np.random.default_rng(0).permutation(len(others))[:SAMPLES]
    apart = np.zeros(within.shape, np.float32)
    apart[within] = _apart(about[within], others[drawn])
    apart = cv2.GaussianBlur(apart, (0, 0), 1.5)
    steps = np.clip(3 * apart[within], 0, 255).astype(np.uint8)[None]
    split, _ = cv2.threshold(steps, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return (within & (apart <= np.clip(0.8 * split / 3, *ALIKE))).astype(np.float32)


def _apart(points: ndarray, others: ndarray) -> ndarray:
    """How far each point, n d, is from its third nearest among some others, m d."""
    found = []
    for some in np.array_split(points, 1 + len(points) // 2048):
        squared = (some**2).sum(1)[:, None] - 2 * some @ others.T + (others**2).sum(1)
        third = min(2, len(others) - 1)
        found.append(np.partition(squared, third, axis=1)[:, third])
    return np.sqrt(np.maximum(np.concatenate(found), 0))


def margin_slices(some: ndarray) -> tuple[slice, slice] | None:
    """The part of a picture with some pixels, boolean H W, and half as much again beside; None for none."""
    x, y, width, height = cv2.boundingRect(some.astype(np.uint8))
    if not width:
        return None
    beside = max(8, round(0.6 * max(width, height)))
    rows = slice(max(0, y - beside), y + height + beside)
    return rows, slice(max(0, x - beside), x + width + beside)


def _scale(broad: float) -> int | float:
    if broad < FEW:
        return -(-WANTED // max(1, int(broad)))
    return min(1, MANY / broad)


def disc_kernel(radius: float) -> ndarray:
    """What to dilate or erode with."""
    side = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def dilate(inside: ndarray, radius: float) -> ndarray:
    return cv2.dilate(inside.astype(np.uint8), disc_kernel(radius)) > 0


def erode(inside: ndarray, radius: float) -> ndarray:
    """What lies beyond the frame counts as inside where its edge is."""
    return cv2.erode(inside.astype(np.uint8), disc_kernel(radius)) > 0


def breadth(inside: ndarray) -> float:
    """The side of a square of a mask's area, in pixels."""
    return float(np.sqrt(inside.sum()))
