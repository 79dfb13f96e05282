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

from ..base.errors import UserError
from ..base.notices import note
from . import video
from .clip_format import ClipFormat
from .fitting import Fit
from .mask_channels import ChannelChoice, ColourAndAlpha, MaskChannel, choose_channel, peak_value

BOX = re.compile(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*")  # x, y, width, height
EXACT = ("gray", "rgb", "bgr", "gbr", "pal", "mono")  # layouts whose small values are meant
ASPECT = 0.02  # by how much the ratio of a mask's sides may differ in silence: sizes are rounded


@dataclass(frozen=True)
class MaskShape:
    """What is made of a rough mask, in this order."""

    invert: bool = False
    outline: str = "given"  # given, or each frame's convex hull or bounding box
    grow: int = 0  # pixels; negative shrinks
    feather: int = 0  # pixels over which the edit fades out, outside the mask

    def apply(self, inside: np.ndarray) -> np.ndarray:
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

    def describe(self) -> str:
        """What was done to the mask, as a sentence names it."""
        done = ["inverted"] * self.invert
        done += [f"outlined by its {self.outline}"] * (self.outline != "given")
        done += [f"{'grown' if self.grow > 0 else 'shrunk'} by {abs(self.grow)} pixels"] * bool(
            self.grow
        )
        return f"once it is {' and '.join(done)}" if done else "no pixel is inside"


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
    shape: MaskShape

    def frames(self) -> Iterator[np.ndarray]:
        """One boolean H W a frame."""
        return (self.shape.apply(inside) for inside in self.read())

    def alphas(self) -> Iterator[np.ndarray]:
        """The edit's weight at each pixel, float32 H W: 1 inside, 0 from `feather` pixels outside on."""
        return (_feathered(inside, self.shape.feather) for inside in self.frames())


def _feathered(inside: np.ndarray, width: int) -> np.ndarray:
    if not width or inside.all() or not inside.any():
        return inside.astype(np.float32)
    return np.clip(1 - _distance(inside) / (width + 1), 0, 1).astype(np.float32)


def open_mask(
    source: str | Path,
    clip: video.Clip,
    part: range,
    shape: MaskShape | None = None,
    allow_any: bool = False,
    channel: ChannelChoice = "auto",
) -> Mask:
    """Open a mask for a part of a clip: a box "x,y,width,height" in pixels of the clip, or a file.

    A file may be as long as the clip, as long as the part, or one frame for all. channel: which of its layers has the
    shape. Raises UserError for another length, for a box that is not in the frame, and, without allow_any, for a mask
    that is empty or full. Warns where one frame too many is dropped and where the mask is perhaps inverted.
    """
    shape = shape or MaskShape()
    if shape.feather < 0:
        raise UserError(f"feather is a width in pixels, 0 or more, not {shape.feather}")
    box = BOX.fullmatch(str(source))
    if box:
        inside = box_mask(tuple(int(n) for n in box.groups()), clip.size)
        return check_extent(Mask(lambda: repeat(inside, len(part)), shape), source, allow_any)
    file = video.probe(source)
    _check_length(file, clip, part)
    if abs(math.log(file.size[0] * clip.size[1] / (file.size[1] * clip.size[0]))) > ASPECT:
        sizes = ["{}x{}".format(*size) for size in (file.size, clip.size)]
        note(f"the mask {source} is {sizes[0]}, the clip {sizes[1]}: it is stretched to fit")
    opened = _MaskFile(file, clip.size, part, file.frames > 1 and file.frames >= clip.frames)
    layer = _layer(opened, channel)
    mask = Mask(lambda: opened.read(layer), shape)
    return check_extent(mask, source, allow_any, lambda: opened.describe_empty(layer))


def _check_length(file: video.Clip, clip: video.Clip, part: range) -> None:
    whole, part_only = (clip.frames, clip.frames + 1), (len(part), len(part) + 1)
    if file.frames not in (1, *whole, *part_only):
        raise UserError(
            f"the mask {file.path} has {file.frames} frames; "
            f"the clip has {clip.frames}, the edited part {len(part)}"
        )
    if file.frames in (whole[1], part_only[1]) and file.frames != clip.frames:
        note(f"the mask {file.path} has one frame too many; the last is dropped")


@dataclass(frozen=True)
class _MaskFile:
    """The frames of a file that are the masks of a part of a clip."""

    file: video.Clip
    size: tuple[int, int]  # width, height, of the clip
    part: range
    is_whole: bool  # as long as the clip, not as its part

    def pairs(self) -> Iterator[ColourAndAlpha]:
        skip = self.part.start if self.is_whole else 0
        return islice(video.read_with_alpha(self.file), skip, skip + len(self.part))

    def read(self, layer: MaskChannel) -> Iterator[np.ndarray]:
        inside = None
        for pair in self.pairs():
            inside = layer.inside(pair, self.size)
            yield inside
        if self.file.frames == 1:
            yield from repeat(inside, len(self.part) - 1)

    def describe_empty(self, layer: MaskChannel) -> str:
        if layer.is_alpha:
            return "it is transparent everywhere"
        return "its brightest value is {} of {}".format(*peak_value(self.pairs()))


def _layer(opened: _MaskFile, channel: ChannelChoice) -> MaskChannel:
    """Which layer of a file has the shape; labels 0 and 1 are known where nothing else can be meant."""
    file, layer = opened.file, MaskChannel()
    if file.has_transparency:
        way = "say which is meant with --mask-channel colour or --mask-channel alpha"
        layer = choose_channel(opened.pairs(), str(file.path), channel, way)
    elif channel == "alpha":
        raise UserError(f"the mask {file.path} has no alpha: it is solid everywhere")
    exact = file.pixel_format.startswith(EXACT) and not any(
        f.suffix.lower() in (".jpg", ".jpeg", ".webp") for f in file.files
    )
    if layer.is_alpha or not exact or any(inside.any() for inside in opened.read(layer)):
        return layer
    if peak_value(opened.pairs())[0] != 1:
        return layer
    note(f"the values of the mask {file.path} are 0 and 1: 1 is taken for inside")
    return MaskChannel(is_label=True)


def box_mask(box: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    """A box x, y, width, height as boolean H W, of a frame of this width and height. Raises ValueError."""
    x, y, width, height = box
    if not (width and height) or x + width > size[0] or y + height > size[1]:
        raise UserError(
            f"the box {x},{y},{width},{height} is not within the {size[0]}x{size[1]} frame; give x,y,width,height"
        )
    inside = np.zeros(size[::-1], bool)
    inside[y : y + height, x : x + width] = True
    return inside


def threshold(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where a picture H W 3 is above half, boolean, at a size (width, height)."""
    return MaskChannel().inside((picture, None), size)


def check_extent(
    mask: Mask,
    name: str | Path,
    allow_any: bool,
    describe_empty: Callable[[], str] = lambda: "no pixel is inside",
) -> Mask:
    """Return the mask. Raise UserError where no pixel is inside it, or every pixel of every frame; with allow_any a
    note says so. Note where it is perhaps inverted.
    """
    raw, shares = False, []
    for inside in mask.read():
        raw |= bool(inside.any())
        shares.append(float(mask.shape.apply(inside).mean()))
    share = float(np.mean(shares))
    if share == 0:
        why = mask.shape.describe() if raw or mask.shape.invert else describe_empty()
        _stop_or_note(f"the mask {name} is empty ({why})", "nothing would change", allow_any)
    elif share == 1:
        _stop_or_note(
            f"the mask {name} is full", "every pixel of every frame may change", allow_any
        )
    elif share > 0.75:
        note(
            f"the mask {name} lets {share:.0%} of the picture change; "
            "if it is inverted, use --invert-mask"
        )
    return mask


def cell_size(grid: ClipFormat, fit: Fit) -> float:
    """How many of the clip's pixels a latent cell covers, along the side where it covers more."""
    sides = zip(grid.stride[1:], fit.size, fit.model_size, strict=True)
    return max(stride * size / model_size for stride, size, model_size in sides)


def _stop_or_note(found: str, so: str, allow_any: bool) -> None:
    if not allow_any:
        cure = "give another mask, or allow it with --allow-any-mask"
        raise UserError(f"{found}; {so}", cure)
    note(f"{found}: {so}")


def from_cells(
    cells: Tensor, grid: ClipFormat, fit: Fit, shape: MaskShape, allow_any: bool = False
) -> Mask:
    """A mask on latents, f h w boolean, at the clip's own size and length. Raises UserError as check_extent does."""

    def read() -> Iterator[np.ndarray]:
        for i in range(fit.frames):
            group = -(-i // grid.stride[0])  # the first latent frame holds one frame alone
            cell = cells[group]
            whole = functional.interpolate(cell[None, None].float(), fit.size, mode="nearest")
            yield whole[0, 0].numpy() > 0

    return check_extent(Mask(read, shape), "auto", allow_any)


def to_latent(frames: Iterable[np.ndarray], grid: ClipFormat, shape: tuple[int, int, int]) -> Tensor:
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
