"""Rough masks, as a user would give them: a method sees one, and the metrics keep the tight mask.

`+mask:box` is each frame's bounding box, `+mask:hull` its convex hull, `+mask:growN` the mask grown by N pixels, and
`+mask:scribble` a thin stroke inside the mask that follows it through the clip.
"""

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from ..media import masks, video
from .datasets.base import Case

OUTLINES = ("box", "hull")  # that an EditTask draws by itself
SCRIBBLE = "scribble"
GROW = re.compile(r"grow([1-9]\d{0,4})")
WAYPOINTS = 4  # of a stroke, after the mask's innermost pixel
WIDTH_SHARE = 0.08  # a stroke's width, of the square root of the mask's area


def parse_rough_mask(text: str) -> str:
    """Return the name of a rough mask. Raise UserError for another text."""
    if text in (*OUTLINES, SCRIBBLE) or GROW.fullmatch(text):
        return text
    raise UserError(
        f"{text!r} is not a rough mask", "use box, hull, scribble, or growN with N pixels"
    )


def mask_fields(rough: str, mask: str | None, folder: Path) -> dict[str, Any]:
    """Return the fields of EditTask that show a method a rough mask; the mask itself where `rough` is empty.

    folder: of the cell, where `write_scribble` writes.
    """
    if rough == SCRIBBLE:
        return {"mask": str(scribble_path(folder))}
    if grow := GROW.fullmatch(rough):
        return {"mask": mask, "grow": int(grow[1])}
    return {"mask": mask, **({"outline": rough} if rough else {})}


def scribble_path(folder: Path) -> Path:
    return folder / "scribble.mkv"


def write_scribble(case: Case, folder: Path, seed: int) -> None:
    """Write the scribble of a case's mask into a cell's folder. It depends on the case's name and the seed alone."""
    assert case.mask is not None, "a plan applies +mask to cases with a mask only"
    clip = video.probe(case.clip)
    mask = masks.open_mask(case.mask, clip, range(clip.frames), allow_any=True)
    rng = np.random.default_rng([seed, zlib.crc32(case.name.encode())])
    waypoints = rng.random((WAYPOINTS, 2))
    strokes = (draw_scribble(inside, waypoints) for inside in mask.frames())
    frames = [np.repeat(stroke[..., None] * np.uint8(255), 3, axis=2) for stroke in strokes]
    video.write_frames(scribble_path(folder), frames, clip.rate, "lossless-rgb")


def draw_scribble(mask: ndarray, waypoints: ndarray) -> ndarray:
    """Return a thin stroke inside a mask, boolean H W; empty for an empty mask.

    waypoints: k 2, x and y as shares of the mask's bounding box. The stroke begins at the mask's innermost pixel and
    runs past the mask's pixels that are nearest to the waypoints; what leaves the mask is cut off.
    """
    import cv2

    if not mask.any():
        return mask.copy()
    inside = mask.astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    pixels = np.argwhere(mask)[:, ::-1]  # n 2, x and y
    low, high = pixels.min(0), pixels.max(0)
    places = low + waypoints * (high - low)
    nearest = [pixels[((pixels - place) ** 2).sum(1).argmin()] for place in places]
    line = np.array([(column, row), *nearest], np.int32)
    width = max(1, round(WIDTH_SHARE * len(pixels) ** 0.5))
    return mask & (cv2.polylines(np.zeros_like(inside), [line], False, (1,), width) > 0)
