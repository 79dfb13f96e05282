"""What a user marks on a frame, as a mask on that frame: boxes, points inside and beside, a painted picture."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy import ndarray

from . import images, masks, video

PLACED = re.compile(r"\s*(\d+)\s*=(.*)", re.DOTALL)
POINT = re.compile(r"(!?)(\d+),(\d+)")


@dataclass(frozen=True)
class Marks:
    """What is marked on one frame, in pixels of the clip. Nothing marked is no mask."""

    boxes: tuple[tuple[int, int, int, int], ...] = ()  # x, y, width, height
    points: tuple[tuple[int, int], ...] = ()  # inside
    beside: tuple[tuple[int, int], ...] = ()  # outside
    brush: ndarray | None = None  # boolean H W: what was painted over
    exact: bool = False  # boxes and brush are the mask as they are

    def __add__(self, other: "Marks") -> "Marks":
        painted = [m.brush for m in (self, other) if m.brush is not None]
        return Marks(
            self.boxes + other.boxes,
            self.points + other.points,
            self.beside + other.beside,
            np.logical_or.reduce(painted) if painted else None,
            self.exact or other.exact,
        )


def anchor(text: str | Path, clip: video.Clip, exact: bool = False) -> tuple[int, ndarray]:
    """A frame's number and its mask, boolean H W, of a text: a box "x,y,width,height", points "x,y" with spaces between
    them ("!x,y" is beside the thing), or a picture's file in which what is painted is bright; each may begin with
    "N=" for frame N of the clip, else it is of the first.

    exact: a box or a painted picture is the mask as it is; else it is tightened to the frame's edges. Raises
    ValueError for what is none of that, or is not within the clip.
    """
    ((frame, inside),) = anchors([text], clip, exact).items()
    return frame, inside


def anchors(
    texts: Iterable[str | Path], clip: video.Clip, exact: bool = False
) -> dict[int, ndarray]:
    """As `anchor`, of several texts, in the order of their frames: those of one frame together are one mask."""
    found: dict[int, Marks] = {}
    for text in texts:
        frame, marks = parsed(text, clip)
        found[frame] = found.get(frame, Marks()) + marks
    return {n: marked(at(clip, n), replace(found[n], exact=exact)) for n in sorted(found)}


def parsed(text: str | Path, clip: video.Clip) -> tuple[int, Marks]:
    """A text as marks, and the number of the frame that they are on. Raises ValueError."""
    placed = None if Path(text).exists() else PLACED.fullmatch(str(text))
    frame, rest = (int(placed[1]), placed[2].strip()) if placed else (0, str(text).strip())
    if frame >= clip.frames:
        raise ValueError(f"{text!r} is of frame {frame}, and the clip has {clip.frames}, from 0 on")
    box = masks.BOX.fullmatch(rest)
    if box:
        numbers = tuple(int(n) for n in box.groups())
        masks.boxed(numbers, clip.size)
        return frame, Marks(boxes=(numbers,))
    words = rest.replace(";", " ").split()
    points = [POINT.fullmatch(word) for word in words]
    if points and all(points):
        return frame, _points(points, clip.size)
    return frame, Marks(brush=painted(rest, clip.size))


def _points(found: list[re.Match], size: tuple[int, int]) -> Marks:
    places = [(bool(sign), (int(x), int(y))) for sign, x, y in (m.groups() for m in found)]
    for _, (x, y) in places:
        if x >= size[0] or y >= size[1]:
            raise ValueError(f"the point {x},{y} is not within the {size[0]}x{size[1]} frame")
    inside = tuple(place for beside, place in places if not beside)
    return Marks(points=inside, beside=tuple(place for beside, place in places if beside))


def painted(path: str | Path, size: tuple[int, int]) -> ndarray:
    """A painted picture as boolean H W at the clip's size (width, height): bright is inside."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{str(path)!r} is no box x,y,w,h, no points x,y and no file")
    return masks.bright(images.read(file), size)


def at(clip: video.Clip, number: int) -> ndarray:
    """A frame of a clip by its number, uint8 H W 3."""
    return images.eight_bits(next(islice(video.read(clip), number, None)))


def marked(frame: ndarray, marks: Marks) -> ndarray:
    """The mask, boolean H W, of what is marked on a frame uint8 H W 3, tightened to its edges."""
    from . import cut

    size = frame.shape[1::-1]
    filled = np.zeros(frame.shape[:2], bool) if marks.brush is None else marks.brush
    for box in marks.boxes:
        filled = filled | masks.boxed(box, size)
    if marks.exact and filled.any():
        return filled
    sketch = np.full(frame.shape[:2], cut.OUT, np.uint8)
    sketch[filled] = cut.PERHAPS_IN
    if not filled.any():
        sketch[:] = cut.PERHAPS_OUT
    radius = max(2, round(min(size) / 60))
    import cv2

    for place in marks.points:
        cv2.circle(sketch, place, radius, cut.IN, -1)
    for place in marks.beside:
        cv2.circle(sketch, place, radius, cut.OUT, -1)
    return cut.cut(frame, sketch, rounds=5)
