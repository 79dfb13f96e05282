"""Make a mask of a frame from what a user marks on it: boxes, positive and negative points, a painted picture."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy import ndarray

from ..base.errors import InputNotFoundError, UserError
from ..base.notices import warn_user
from . import images, masks, video
from .frame_access import read_frame
from .mask_channels import MaskChannel, choose_channel, peak_value

FRAME_PREFIX = re.compile(r"\s*(\d+)\s*=(.*)", re.DOTALL)
POINT = re.compile(r"(!?)(\d+),(\d+)")
BRUSH_TOLERANCE = 0.12  # how far a painted edge may be off, as a share of the mask's breadth
COLOUR_TOLERANCE = 24  # steps of each Lab channel, of 255, that flood filling accepts as one colour


@dataclass(frozen=True)
class Marks:
    """What is marked on one frame, in pixels of the clip. Empty marks are no mask."""

    boxes: tuple[masks.Box, ...] = ()
    points: tuple[tuple[int, int], ...] = ()  # inside the object
    negative_points: tuple[tuple[int, int], ...] = ()  # outside the object
    brush: ndarray | None = None  # boolean H W: the painted pixels
    is_exact: bool = False  # boxes and brush are the mask, without refinement

    def __add__(self, other: "Marks") -> "Marks":
        brushes = [m.brush for m in (self, other) if m.brush is not None]
        return Marks(
            self.boxes + other.boxes,
            self.points + other.points,
            self.negative_points + other.negative_points,
            np.logical_or.reduce(brushes) if brushes else None,
            self.is_exact or other.is_exact,
        )


def make_anchor(text: str | Path, clip: video.Clip, is_exact: bool = False) -> tuple[int, ndarray]:
    """Return a frame's number and the mask, boolean H W, that a text marks on it.

    text: a box "x,y,width,height"; points "x,y" separated by spaces ("!x,y" is outside the object); or the file of a
    picture whose bright pixels are painted. Each may begin with "N=" for frame N of the clip; the default is the first.
    is_exact: use a box or a painted picture as it is; otherwise it is refined to the edges in the frame.
    Raise UserError if the text has none of these forms, or is outside the clip.
    """
    ((frame, mask),) = make_anchors([text], clip, is_exact).items()
    return frame, mask


def make_anchors(
    texts: Iterable[str | Path], clip: video.Clip, is_exact: bool = False
) -> dict[int, ndarray]:
    """Return masks by frame for several texts, in the order of the frames. Texts of one frame make one mask."""
    marks_by_frame: dict[int, Marks] = {}
    for text in texts:
        frame, marks = parse_marks(text, clip)
        marks_by_frame[frame] = marks_by_frame.get(frame, Marks()) + marks
    return {
        n: segment_marks(read_frame(clip, n), replace(marks_by_frame[n], is_exact=is_exact))
        for n in sorted(marks_by_frame)
    }


FORMS = {
    "box": "--box takes [N=]x,y,width,height",
    "points": '--points takes "[N=]x,y x,y !x,y"',
    "brush": "--brush takes [N=]FILE",
}


def split_frame_number(text: str) -> tuple[int, str]:
    """Return the frame number that a text begins with ("N="), or 0, and the rest of the text."""
    match = None if Path(text).exists() else FRAME_PREFIX.fullmatch(text)
    return (int(match[1]), match[2].strip()) if match else (0, text.strip())


def parse_marks(text: str | Path, clip: video.Clip, kind: str = "") -> tuple[int, Marks]:
    """Return the frame number and the marks of a text.

    kind: "box", "points" or "brush" if only that is accepted. Raise UserError if the text is none of them.
    """
    frame, rest = split_frame_number(str(text))
    if frame >= clip.frames:
        raise UserError(
            f"{str(text)!r} marks frame {frame}, and the clip has frames 0 to {clip.frames - 1}",
            "mark a frame of the clip",
        )
    box = masks.parse_box(rest)
    if box and kind in ("", "box"):
        masks.box_mask(box, clip.size)
        return frame, Marks(boxes=(box,))
    points = _parse_points(rest)
    if points and kind in ("", "points"):
        return frame, _point_marks(points, clip.size)
    if kind in ("", "brush"):
        return frame, Marks(brush=read_brush(rest, clip.size))
    raise UserError(f"{str(text)!r} cannot be read", FORMS[kind])


def _parse_points(text: str) -> list[re.Match[str]]:
    """Return a match for each point of a text; none if any word of it is no point."""
    words = text.replace(";", " ").split()
    matches = [match for match in map(POINT.fullmatch, words) if match]
    return matches if len(matches) == len(words) else []


def _point_marks(matches: Sequence[re.Match[str]], size: tuple[int, int]) -> Marks:
    points = [(sign == "!", (int(x), int(y))) for sign, x, y in (m.groups() for m in matches)]
    for _, (x, y) in points:
        if x >= size[0] or y >= size[1]:
            raise UserError(
                f"the point {x},{y} is not inside the {size[0]}x{size[1]} frame",
                "give x,y in pixels of the clip",
            )
    return Marks(
        points=tuple(point for is_negative, point in points if not is_negative),
        negative_points=tuple(point for is_negative, point in points if is_negative),
    )


def read_brush(path: str | Path, size: tuple[int, int]) -> ndarray:
    """Read a painted picture as boolean H W at the clip's size (width, height): bright pixels are painted."""
    file = Path(path)
    if not file.is_file():
        raise InputNotFoundError(
            f"there is no file {path}, and it is neither a box nor points",
            "give a picture file, a box x,y,width,height or points x,y",
        )
    picture = images.read_with_alpha(file)
    remedy = "fill it with one colour, or save it without transparency"
    channel = MaskChannel()
    if picture[1] is not None:
        channel = choose_channel([picture], str(path), "auto", remedy)
    painted = channel.threshold(picture, size)
    if painted.any() or channel.is_alpha:
        return painted
    peak, limit = peak_value([picture])
    if peak != 1 or file.suffix.lower() in masks.LOSSY_SUFFIXES:
        raise UserError(
            f"nothing is painted in {path}: its brightest value is {peak} of {limit}",
            "paint the object in white",
        )
    warn_user(f"the values of {path} are 0 and 1: 1 is read as painted")
    return MaskChannel(is_label=True).threshold(picture, size)


def segment_marks(frame: ndarray, marks: Marks) -> ndarray:
    """Return the mask, boolean H W, of what is marked on a frame uint8 H W 3, refined to its edges."""
    import cv2

    from . import grabcut

    marked = np.zeros(frame.shape[:2], bool) if marks.brush is None else marks.brush
    for box in marks.boxes:
        marked = marked | masks.box_mask(box, _size(frame))
    if marks.is_exact and marked.any():
        return marked
    mask = grabcut.segment(frame, _make_trimap(frame, marks))
    if marked.any() or not marks.points:
        return mask
    # With points alone, parts of a similar colour elsewhere in the frame are not the object.
    _, components = cv2.connectedComponents(mask.astype(np.uint8))
    chosen = {int(components[y, x]) for x, y in marks.points} - {0}
    return np.isin(components, list(chosen))


def _size(frame: ndarray) -> tuple[int, int]:
    return frame.shape[1], frame.shape[0]


def _make_trimap(frame: ndarray, marks: Marks) -> ndarray:
    """Return what the marks say about each pixel, as `grabcut.segment` takes it."""
    import cv2

    from . import grabcut

    trimap = np.full(frame.shape[:2], grabcut.OUTSIDE, np.uint8)
    if marks.brush is not None:
        trimap = _brush_trimap(marks.brush)
    for box in marks.boxes:
        of_box = grabcut.box_trimap(frame, masks.box_mask(box, _size(frame)))
        trimap = np.where(trimap == grabcut.OUTSIDE, of_box, trimap)
    if not (trimap != grabcut.OUTSIDE).any():
        trimap[:] = grabcut.PROBABLY_OUTSIDE
    radius = max(1, round(min(frame.shape[:2]) / 80))
    for points, probable, certain in (
        (marks.points, grabcut.PROBABLY_INSIDE, grabcut.INSIDE),
        (marks.negative_points, grabcut.PROBABLY_OUTSIDE, grabcut.OUTSIDE),
    ):
        for point in points:
            is_open = (trimap != grabcut.OUTSIDE) & (trimap != grabcut.INSIDE)
            trimap[_flood_fill(frame, point) & is_open] = probable
        for point in points:
            cv2.circle(trimap, point, radius, (certain,), -1)
    return trimap


def _brush_trimap(painted: ndarray) -> ndarray:
    """Return the trimap of a brush, whose edge is uncertain by BRUSH_TOLERANCE."""
    from . import grabcut

    tolerance = BRUSH_TOLERANCE * grabcut.breadth(painted)
    inside, outside = np.uint8(grabcut.PROBABLY_INSIDE), np.uint8(grabcut.PROBABLY_OUTSIDE)
    trimap = np.where(painted, inside, outside)
    trimap[grabcut.erode(painted, tolerance)] = grabcut.INSIDE
    trimap[~grabcut.dilate(painted, tolerance)] = grabcut.OUTSIDE
    return trimap


def _flood_fill(frame: ndarray, point: tuple[int, int]) -> ndarray:
    """Return the connected pixels around a point that have its colour, boolean H W."""
    import cv2

    smooth = cv2.cvtColor(cv2.GaussianBlur(frame, (0, 0), 1), cv2.COLOR_RGB2LAB)
    height, width = frame.shape[:2]
    filled = np.zeros((height + 2, width + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
    steps = (COLOUR_TOLERANCE,) * 3
    cv2.floodFill(smooth, filled, point, (0,), steps, steps, flags)
    return filled[1:-1, 1:-1] > 0
