"""Masks: from files, a box or cells of latents; grown, hulled, feathered; to the latent grid; and the exact composite.

A mask says where an edit may show. A file is a video, a folder of frames or one image for all frames; bright is
inside. It may have any size, length one or the clip's, and any colour mode. Values above half are inside.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..backbones._cards import Grid
from ..errors import UserError
from ..notes import note
from . import video
from .fit import Fit

BOX = re.compile(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*")  # x, y, width, height
ASPECT = 0.02  # by how much the ratio of a mask's sides may differ in silence: sizes are rounded


@dataclass(frozen=True)
class Shape:
    """What is made of a rough mask, in this order."""

    invert: bool = False
    outline: str = "given"  # given, or each frame's convex hull or bounding box
    grow: int = 0  # pixels; negative shrinks
    feather: int = 0  # pixels over which the edit fades out, outside the mask

    def of(self, inside: np.ndarray) -> np.ndarray:
        """A frame's mask, boolean H W, inverted, outlined and grown."""
        import cv2

        inside = inside != self.invert
        if self.outline != "given" and inside.any():
            points = cv2.findNonZero(inside.astype(np.uint8))
            corners = (
                cv2.convexHull(points)
                if self.outline == "hull"
                else _corners(cv2.boundingRect(points))
            )
            inside = cv2.fillConvexPoly(np.zeros(inside.shape, np.uint8), corners, 1) > 0
        if self.grow > 0:
            return _within(inside, self.grow)
        return ~_within(~inside, -self.grow) if self.grow else inside


def _within(inside: np.ndarray, reach: int) -> np.ndarray:
    """The pixels that lie at most so far from one that is inside: as fast for any reach."""
    return _distance(inside) <= reach if inside.any() else inside


def _distance(inside: np.ndarray) -> np.ndarray:
    """How far each pixel is from the nearest one inside, of which there is one; float32 H W, 0 within."""
    import cv2

    outside = (~inside).astype(np.uint8)
    return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _corners(box: tuple[int, int, int, int]) -> np.ndarray:
    x, y, width, height = box
    return np.array(
        [(x, y), (x + width - 1, y), (x + width - 1, y + height - 1), (x, y + height - 1)], np.int32
    )


@dataclass(frozen=True)
class Mask:
    """One mask a frame. `read` begins anew each time; a shape is made of what it gives, boolean H W."""

    read: Callable[[], Iterator[np.ndarray]]
    shape: Shape

    def frames(self) -> Iterator[np.ndarray]:
        """One boolean H W a frame."""
        return (self.shape.of(inside) for inside in self.read())

    def alphas(self) -> Iterator[np.ndarray]:
        """The edit's weight at each pixel, float32 H W: 1 inside, 0 from `feather` pixels outside on."""
        return (_feathered(inside, self.shape.feather) for inside in self.frames())


def _feathered(inside: np.ndarray, width: int) -> np.ndarray:
    if not width or inside.all() or not inside.any():
        return inside.astype(np.float32)
    return np.clip(1 - _distance(inside) / (width + 1), 0, 1).astype(np.float32)


def bind(path: str | Path, clip: video.Clip, part: range, shape: Shape | None = None) -> Mask:
    """Open a mask for a part of a clip: a box "x,y,width,height" in pixels of the clip, or a file.

    A file may be as long as the clip, as long as the part, or one frame for all. Raises ValueError for another length,
    and for a box that is not in the frame; warns where one frame too many is dropped and where the mask is empty,
    full, or perhaps inverted.
    """
    shape = shape or Shape()
    if shape.feather < 0:
        raise UserError(f"feather is a width in pixels, 0 or more, not {shape.feather}")
    box = BOX.fullmatch(str(path))
    if box:
        inside = boxed(tuple(int(n) for n in box.groups()), clip.size)
        return sensible(Mask(lambda: repeat(inside, len(part)), shape), path)
    file = video.probe(path)
    whole, part_only = (clip.frames, clip.frames + 1), (len(part), len(part) + 1)
    if file.frames not in (1, *whole, *part_only):
        raise UserError(
            f"the mask {path} has {file.frames} frames; "
            f"the clip has {clip.frames}, the edited part {len(part)}"
        )
    if file.frames in (whole[1], part_only[1]) and file.frames != clip.frames:
        note(f"the mask {path} has one frame too many; the last is dropped")
    if abs(math.log(file.size[0] * clip.size[1] / (file.size[1] * clip.size[0]))) > ASPECT:
        sizes = ["{}x{}".format(*size) for size in (file.size, clip.size)]
        note(f"the mask {path} is {sizes[0]}, the clip {sizes[1]}: it is stretched to fit")
    skip = part.start if file.frames > 1 and file.frames in whole else 0
    return sensible(Mask(lambda: _read(file, clip.size, skip, len(part)), shape), path)


def boxed(numbers: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    """A box x, y, width, height as boolean H W, of a frame of this width and height. Raises ValueError."""
    x, y, width, height = numbers
    if not (width and height) or x + width > size[0] or y + height > size[1]:
        raise UserError(
            f"the box {x},{y},{width},{height} is not within the {size[0]}x{size[1]} frame; give x,y,width,height"
        )
    inside = np.zeros(size[::-1], bool)
    inside[y : y + height, x : x + width] = True
    return inside


def _read(file: video.Clip, size: tuple[int, int], skip: int, count: int) -> Iterator[np.ndarray]:
    inside = None
    for array in islice(video.read(file), skip, skip + count):
        inside = bright(array, size)
        yield inside
    if file.frames == 1:
        yield from repeat(inside, count - 1)


def bright(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where a picture H W 3 is above half, boolean, at a size (width, height)."""
    import cv2

    above = array.max(axis=2) > (127 if array.dtype == np.uint8 else 32767)
    return cv2.resize(above.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0


def sensible(mask: Mask, name: str | Path) -> Mask:
    """The mask; notes where it cannot be what was meant."""
    share = float(np.mean([inside.mean() for inside in mask.frames()]))
    if share == 0:
        note(f"the mask {name} is empty: nothing will change")
    elif share == 1:
        note(f"the mask {name} is full: all may change")
    elif share > 0.75:
        note(
            f"the mask {name} lets {share:.0%} of the picture change; "
            "if it is inverted, use --invert-mask"
        )
    return mask


def cell_side(grid: Grid, fitted: Fit) -> float:
    """How many of the clip's pixels a latent cell covers, along the side where it covers more."""
    sides = zip(grid.stride[1:], fitted.size, fitted.model_size, strict=True)
    return max(stride * size / model_size for stride, size, model_size in sides)


def from_cells(cells: Tensor, grid: Grid, fitted: Fit, shape: Shape) -> Mask:
    """A mask on latents, f h w boolean, at the clip's own size and length."""

    def read() -> Iterator[np.ndarray]:
        for i in range(fitted.frames):
            group = -(-i // grid.stride[0])  # the first latent frame holds one frame alone
            cell = cells[group]
            whole = functional.interpolate(cell[None, None].float(), fitted.size, mode="nearest")
            yield whole[0, 0].numpy() > 0

    return sensible(Mask(read, shape), "auto")


def to_latent(frames: Iterable[np.ndarray], grid: Grid, shape: tuple[int, int, int]) -> Tensor:
    """Masks H W, one a frame, to 1 1 f h w: a latent cell is inside where any pixel of any of its frames is."""
    cells = torch.zeros(shape)
    last = 0
    for i, frame in enumerate(frames):
        whole = torch.from_numpy(frame.astype(np.float32))[None]
        seen = functional.adaptive_max_pool2d(whole, shape[1:])[0]
        last = min(-(-i // grid.stride[0]), shape[0] - 1)
        cells[last] = torch.maximum(cells[last], seen)
    cells[last + 1 :] = seen  # a clip that was padded, with its last frame
    return cells[None, None]


def composite(source: np.ndarray, edited: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """The edit where alpha lets it through. Where alpha is 0 the source's pixels themselves. Integer arrays H W 3."""
    if alpha is None:
        return edited
    weight = alpha[..., None]
    blended = np.rint(source * (1 - weight) + edited * weight).astype(source.dtype)
    return np.where(weight == 0, source, np.where(weight == 1, edited, blended))
