"""What a user marks on a frame, as a mask on that frame: boxes, points inside and beside, a painted picture."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from ..base.notices import note
from . import images, masks, video
from .frame_access import read_frame
from .mask_channels import MaskChannel, choose_channel, peak_value

PLACED = re.compile(r"\s*(\d+)\s*=(.*)", re.DOTALL)
ROUGH = 0.12  # of its breadth, how far a painted edge may be off
RUNS = 24  # steps of a channel of Lab, of 255, that one colour runs over
POINT = re.compile(r"(!?)(\d+),(\d+)")


@dataclass(frozen=True)
class Marks:
    """What is marked on one frame, in pixels of the clip. Nothing marked is no mask."""

    boxes: tuple[tuple[int, int, int, int], ...] = ()  # x, y, width, height
    points: tuple[tuple[int, int], ...] = ()  # inside
    negative_points: tuple[tuple[int, int], ...] = ()  # outside
    brush: ndarray | None = None  # boolean H W: what was painted over
    is_exact: bool = False  # boxes and brush are the mask as they are

    def __add__(self, other: "Marks") -> "Marks":
        painted = [m.brush for m in (self, other) if m.brush is not None]
        return Marks(
            self.boxes + other.boxes,
            self.points + other.points,
            self.negative_points + other.negative_points,
            np.logical_or.reduce(painted) if painted else None,
            self.is_exact or other.is_exact,
        )


def make_anchor(text: str | Path, clip: video.Clip, is_exact: bool = False) -> tuple[int, ndarray]:
    """A frame's number and its mask, boolean H W, of a text: a box "x,y,width,height", points "x,y" with spaces between
    them ("!x,y" is beside the thing), or a picture's file in which what is painted is bright; each may begin with
    "N=" for frame N of the clip, else it is of the first.

    exact: a box or a painted picture is the mask as it is; else it is tightened to the frame's edges. Raises
    ValueError for what is none of that, or is not within the clip.
    """
    ((frame, inside),) = make_anchors([text], clip, is_exact).items()
    return frame, inside


def make_anchors(
    texts: Iterable[str | Path], clip: video.Clip, is_exact: bool = False
) -> dict[int, ndarray]:
    """As `anchor`, of several texts, in the order of their frames: those of one frame together are one mask."""
    found: dict[int, Marks] = {}
    for text in texts:
        frame, marks = parse_marks(text, clip)
        found[frame] = found.get(frame, Marks()) + marks
    return {n: segment_marks(at(clip, n), replace(found[n], exact=is_exact)) for n in sorted(found)}


FORMS = {
    "box": "--box takes [N=]x,y,width,height",
    "points": '--points takes "[N=]x,y x,y !x,y"',
    "brush": "--brush takes [N=]FILE",
}


def split_frame_number(text: str) -> tuple[int, str]:
    """The frame that a text begins with, N=, else 0; and the rest."""
    placed = None if Path(text).exists() else PLACED.fullmatch(text)
    return (int(placed[1]), placed[2].strip()) if placed else (0, text.strip())


def parse_marks(text: str | Path, clip: video.Clip, kind: str = "") -> tuple[int, Marks]:
    """A text as marks, and the number of the frame that they are on. kind: box, points or brush, where it must be one.

    Raises ValueError.
    """
    frame, rest = split_frame_number(str(text))
    if frame >= clip.frames:
        raise UserError(f"{text!r} is of frame {frame}, and the clip has {clip.frames}, from 0 on")
    box = masks.BOX.fullmatch(rest)
    points = [POINT.fullmatch(word) for word in rest.replace(";", " ").split()]
    if box and kind in ("", "box"):
        numbers = tuple(int(n) for n in box.groups())
        masks.box_mask(numbers, clip.size)
        return frame, Marks(boxes=(numbers,))
    if points and all(points) and kind in ("", "points"):
        return frame, _points(points, clip.size)
    if kind in ("", "brush"):
        return frame, Marks(brush=read_brush(rest, clip.size))
    raise UserError(f"{FORMS[kind]}, not {str(text)!r}")


def _points(found: list[re.Match], size: tuple[int, int]) -> Marks:
    places = [(bool(sign), (int(x), int(y))) for sign, x, y in (m.groups() for m in found)]
    for _, (x, y) in places:
        if x >= size[0] or y >= size[1]:
            raise UserError(f"the point {x},{y} is not within the {size[0]}x{size[1]} frame")
    inside = tuple(place for beside, place in places if not beside)
    return Marks(points=inside, negative_points=tuple(place for beside, place in places if beside))


def read_brush(path: str | Path, size: tuple[int, int]) -> ndarray:
    """A painted picture as boolean H W at the clip's size (width, height): bright is inside."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"there is no file {path}, and it is no box x,y,w,h and no points x,y")
    pair = images.read_with_alpha(file)
    way = "fill it with one colour, or save it without transparency"
    layer = MaskChannel() if pair[1] is None else choose_channel([pair], str(path), "auto", way)
    inside = layer.inside(pair, size)
    if not (inside.any() or layer.is_alpha):
        peak, most = peak_value([pair])
        if peak != 1 or file.suffix.lower() in (".jpg", ".jpeg", ".webp"):
            raise UserError(
                f"nothing is painted in {path}: its brightest value is {peak} of {most}",
                "paint what is meant in white",
            )
        note(f"the values of {path} are 0 and 1: 1 is taken for painted")
        inside = MaskChannel(is_label=True).inside(pair, size)
    return inside


def at(clip: video.Clip, number: int) -> ndarray:
    """A frame of a clip by its number, uint8 H W 3."""
    return read_frame(clip, number)


def segment_marks(frame: ndarray, marks: Marks) -> ndarray:
    """The mask, boolean H W, of what is marked on a frame uint8 H W 3, tightened to its edges."""
    import cv2

    from . import grabcut

    whole = np.zeros(frame.shape[:2], bool) if marks.brush is None else marks.brush
    for box in marks.boxes:
        whole = whole | masks.box_mask(box, frame.shape[1::-1])
    if marks.is_exact and whole.any():
        return whole
    sketch = _sketched(frame, marks)
    inside = grabcut.segment(frame, sketch)
    if whole.any() or not marks.points:
        return inside
    _, parts = cv2.connectedComponents(inside.astype(np.uint8))  # alike, but elsewhere: not meant
    meant = {int(parts[y, x]) for x, y in marks.points} - {0}
    return np.isin(parts, list(meant))


def _sketched(frame: ndarray, marks: Marks) -> ndarray:
    """What the marks say of each pixel, as `cut` takes it."""
    import cv2

    from . import grabcut

    sketch = np.full(frame.shape[:2], grabcut.OUTSIDE, np.uint8)
    if marks.brush is not None:
        sketch = _brushed(marks.brush)
    for box in marks.boxes:
        of_box = grabcut.box_trimap(frame, masks.box_mask(box, frame.shape[1::-1]))
        sketch = np.where(sketch == grabcut.OUTSIDE, of_box, sketch)
    if not (sketch != grabcut.OUTSIDE).any():
        sketch[:] = grabcut.PROBABLY_OUTSIDE
    radius = max(1, round(min(frame.shape[:2]) / 80))
    for places, perhaps, sure in (
        (marks.points, grabcut.PROBABLY_INSIDE, grabcut.INSIDE),
        (marks.negative_points, grabcut.PROBABLY_OUTSIDE, grabcut.OUTSIDE),
    ):
        for place in places:
            sketch[_alike(frame, place) & (sketch != grabcut.OUTSIDE) & (sketch != grabcut.INSIDE)] = perhaps
        for place in places:
            cv2.circle(sketch, place, radius, sure, -1)
    return sketch


def _brushed(painted_over: ndarray) -> ndarray:
    """Paint is rough: its edge may lie some way off."""
    from . import grabcut

    rough = ROUGH * grabcut.breadth(painted_over)
    sketch = np.where(painted_over, np.uint8(grabcut.PROBABLY_INSIDE), np.uint8(grabcut.PROBABLY_OUTSIDE))
    sketch[grabcut.erode(painted_over, rough)] = grabcut.INSIDE
    sketch[~grabcut.dilate(painted_over, rough)] = grabcut.OUTSIDE
    return sketch


def _alike(frame: ndarray, place: tuple[int, int]) -> ndarray:
    """The pixels around a place that its colour runs into, boolean H W."""
    import cv2

    smooth = cv2.cvtColor(cv2.GaussianBlur(frame, (0, 0), 1), cv2.COLOR_RGB2LAB)
    height, width = frame.shape[:2]
    filled = np.zeros((height + 2, width + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
    steps = (RUNS,) * 3
    cv2.floodFill(smooth, filled, place, 0, steps, steps, flags)
    return filled[1:-1, 1:-1] > 0
