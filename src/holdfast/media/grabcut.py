"""Segment an object with GrabCut (Rother et al., SIGGRAPH 2004) by OpenCV, in the neighbourhood of a rough mask.

A trimap is a first segmentation, uint8 H W with OpenCV's four values: INSIDE and OUTSIDE are certain,
PROBABLY_INSIDE and PROBABLY_OUTSIDE are a guess.
"""

import cv2
import numpy as np
from numpy import ndarray

OUTSIDE, INSIDE = cv2.GC_BGD, cv2.GC_FGD
PROBABLY_OUTSIDE, PROBABLY_INSIDE = cv2.GC_PR_BGD, cv2.GC_PR_FGD
# Breadth of an object in pixels: below SMALL it is enlarged to WORKING, above LARGE it is shrunk to LARGE. Colour
# clusters need some pixels, and a large picture takes long.
SMALL_BREADTH, WORKING_BREADTH, LARGE_BREADTH = 40, 128, 192
MAX_SAMPLES = 1500  # pixels of the surroundings that a box is compared with
POSITION_WEIGHT = 40.0  # steps of Lab (of 255) that a distance of one box's breadth counts
SIMILARITY_RANGE = (
    6.0,
    30.0,
)  # smallest and largest distance in Lab that counts as the same colour


def segment(frame: ndarray, trimap: ndarray, rounds: int = 5) -> ndarray:
    """Return the mask, boolean H W, of a frame uint8 H W 3: found at a size that suits the object, then at full size.

    Pixels of which the trimap is certain keep its value.
    """
    near = margin_slices(trimap != OUTSIDE)
    if near is None:
        return trimap == INSIDE
    mask = np.zeros(trimap.shape, bool)
    crop, local_trimap = np.ascontiguousarray(frame[near]), np.ascontiguousarray(trimap[near])
    scale = _working_scale(breadth(local_trimap != OUTSIDE))
    if scale == 1:
        mask[near] = _run_grabcut(crop, local_trimap, rounds)
        return mask
    size = _scaled_size(local_trimap, scale)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(crop, size, interpolation=interpolation)
    scaled_trimap = cv2.resize(local_trimap, size, interpolation=cv2.INTER_NEAREST)
    rough = _run_grabcut(scaled, scaled_trimap, rounds).astype(np.float32)
    share = cv2.resize(rough, local_trimap.shape[::-1], interpolation=cv2.INTER_AREA)
    mask[near] = refine(crop, share >= 0.5, max(1.0, 1 / scale), local_trimap)
    return mask


def _scaled_size(array: ndarray, scale: float) -> tuple[int, int]:
    """Return the width and height of an array H W after scaling."""
    height, width = array.shape[:2]
    return max(1, round(scale * width)), max(1, round(scale * height))


def refine(frame: ndarray, mask: ndarray, reach: float, trimap: ndarray | None = None) -> ndarray:
    """Return a mask, boolean H W, whose outline moves by at most `reach` pixels to the edges of the frame.

    Pixels of which a trimap is certain keep its value.
    """
    narrow = np.where(mask, np.uint8(PROBABLY_INSIDE), np.uint8(PROBABLY_OUTSIDE))
    narrow[erode(mask, reach)] = INSIDE
    narrow[~dilate(mask, reach)] = OUTSIDE
    if trimap is not None:
        is_certain = (trimap == INSIDE) | (trimap == OUTSIDE)
        narrow[is_certain] = trimap[is_certain]
    near = margin_slices(narrow != OUTSIDE)
    if near is None:
        return narrow == INSIDE
    refined = np.zeros(mask.shape, bool)
    refined[near] = _run_grabcut(np.ascontiguousarray(frame[near]), narrow[near], 2)
    return refined


def _run_grabcut(frame: ndarray, trimap: ndarray, rounds: int) -> ndarray:
    """Segment the whole picture at its own size."""
    inside = (trimap == INSIDE) | (trimap == PROBABLY_INSIDE)
    if not inside.any() or inside.all():
        return inside
    cv2.setRNGSeed(0)  # the colour clusters start at random
    labels, background, foreground = trimap.copy(), np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(frame, labels, (0, 0, 0, 0), background, foreground, rounds, cv2.GC_INIT_WITH_MASK)
    return (labels == INSIDE) | (labels == PROBABLY_INSIDE)


def box_trimap(frame: ndarray, box: ndarray) -> ndarray:
    """Return the trimap of a box, boolean H W: pixels that look like the surroundings are probably outside."""
    trimap = np.where(box, np.uint8(PROBABLY_INSIDE), np.uint8(OUTSIDE))
    near = margin_slices(box)
    if near is None or box[near].all():
        return trimap
    crop, inside = np.ascontiguousarray(frame[near]), box[near].astype(np.uint8)
    scale = WORKING_BREADTH / breadth(box)
    size = _scaled_size(inside, scale)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(crop, size, interpolation=interpolation)
    scaled_inside = cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST) > 0
    similar = _similar_to_surroundings(scaled, scaled_inside)
    share = cv2.resize(similar, inside.shape[::-1], interpolation=cv2.INTER_AREA)
    trimap[near][(share >= 0.5) & (inside > 0)] = PROBABLY_OUTSIDE
    return trimap


def _similar_to_surroundings(frame: ndarray, inside: ndarray) -> ndarray:
    """Return 1 for each pixel inside whose colour also occurs outside and not far away, else 0: float32 H W."""
    lab = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB).astype(np.float32)  # all three up to 255
    rows, columns = np.mgrid[0 : lab.shape[0], 0 : lab.shape[1]].astype(np.float32)
    weight = POSITION_WEIGHT / breadth(inside)
    features = np.dstack((lab, weight * rows, weight * columns))
    surroundings = features[~inside]
    chosen = np.random.default_rng(0).permutation(len(surroundings))[:MAX_SAMPLES]
    distance = np.zeros(inside.shape, np.float32)
    distance[inside] = _third_nearest_distance(features[inside], surroundings[chosen])
    distance = cv2.GaussianBlur(distance, (0, 0), 1.5)
    steps = np.clip(3 * distance[inside], 0, 255).astype(np.uint8)[None]
    split, _ = cv2.threshold(steps, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    limit = np.clip(0.8 * split / 3, *SIMILARITY_RANGE)
    return (inside & (distance <= limit)).astype(np.float32)


def _third_nearest_distance(points: ndarray, others: ndarray) -> ndarray:
    """Return the distance of each point, n d, to its third nearest among others, m d."""
    distances = []
    for chunk in np.array_split(points, 1 + len(points) // 2048):
        squared = (chunk**2).sum(1)[:, None] - 2 * chunk @ others.T + (others**2).sum(1)
        third = min(2, len(others) - 1)
        distances.append(np.partition(squared, third, axis=1)[:, third])
    return np.sqrt(np.maximum(np.concatenate(distances), 0))


def margin_slices(mask: ndarray) -> tuple[slice, slice] | None:
    """Return the rows and columns of a mask, boolean H W, with a margin of 0.6 of its longer side; None if empty."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if not width:
        return None
    margin = max(8, round(0.6 * max(width, height)))
    rows = slice(max(0, y - margin), y + height + margin)
    return rows, slice(max(0, x - margin), x + width + margin)


def _working_scale(object_breadth: float) -> int | float:
    if object_breadth < SMALL_BREADTH:
        return -(-WORKING_BREADTH // max(1, int(object_breadth)))
    return min(1, LARGE_BREADTH / object_breadth)


def disc_kernel(radius: float) -> ndarray:
    """Return a disc-shaped kernel for cv2.dilate and cv2.erode."""
    side = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def dilate(mask: ndarray, radius: float) -> ndarray:
    """Return a mask grown by a radius in pixels."""
    return cv2.dilate(mask.astype(np.uint8), disc_kernel(radius)) > 0


def erode(mask: ndarray, radius: float) -> ndarray:
    """Return a mask shrunk by a radius in pixels. It does not shrink at the frame's edge."""
    return cv2.erode(mask.astype(np.uint8), disc_kernel(radius)) > 0


def breadth(mask: ndarray) -> float:
    """Return the side, in pixels, of a square with the mask's area."""
    return float(np.sqrt(mask.sum()))
