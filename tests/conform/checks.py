"""What tests of `keep` check: the source outside the exact change, the edit inside it."""

import cv2
import numpy as np

import holdfast

from . import scenes

COUNT = 10  # frames of the clips
FAR = 9  # pixels around the exact change in which a delivered frame may differ


def keep(source, edited, **options):
    """Keep a change of clips in memory, or in files."""
    rates = {}
    if isinstance(source, np.ndarray):
        rates["rate"] = 10
    if isinstance(edited, np.ndarray):
        rates["edited_rate"] = options.pop("edited_rate", 10)
    return holdfast.keep(source, edited, **rates, **options)


def dilate(masks, radius):
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    return np.stack([cv2.dilate(m.astype(np.uint8), kernel) > 0 for m in masks])


def erode(masks, side):
    return np.stack(
        [cv2.erode(m.astype(np.uint8), np.ones((side, side), np.uint8)) > 0 for m in masks]
    )


def overlap_of(kept, exact=None):
    """The overlap of all found masks with the exact change."""
    exact = scenes.changes(range(COUNT)) if exact is None else exact
    return scenes.overlap(np.stack(list(kept.masks())), exact)


def assert_outside_is_the_source(result, source, exact):
    outside = ~dilate(exact, FAR)
    assert np.array_equal(result[outside], source[outside])


def error_inside(result, truth, exact):
    apart = result[exact].astype(float) - truth[exact]
    return float(np.abs(apart).mean())
