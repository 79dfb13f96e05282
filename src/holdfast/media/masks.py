"""Masks: read from a file, a box or latent cells; reshape; convert to latent cells; composite exactly.

A mask says where an edit may change the clip. A mask file is a video, a folder of frames, or one image that serves
every frame. Values above half are inside the mask. The file may have any size and any colour mode; its length is one
frame, the clip's or the edited part's.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..base.errors import UserError
from ..base.notices import warn_user
from . import video
from .clip_format import ClipFormat
from .fitting import Fit
from .mask_channels import ChannelChoice, ColourAndAlpha, MaskChannel, choose_channel, peak_value
from .sampling import sample_alike

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[int, int, int, int]  # x, y, width, height, in pixels
BOX = re.compile(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*")  # x, y, width, height
EXACT_FORMATS = ("gray", "rgb", "bgr", "gbr", "pal", "mono")  # small values in these are no noise
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")
ASPECT_TOLERANCE = (
    0.02  # log ratio of the sides; sizes are rounded, so small differences are silent
)
WIDE_SHARE = 0.75  # a mask that covers more of the frames than this may be inverted


@dataclass(frozen=True)
class MaskShape:
    """How a rough mask is reshaped, in the order of the fields."""

    invert: bool = False
    outline: str = "given"  # given, or "hull" or "box": each frame's convex hull or bounding box
    grow: int = 0  # pixels; a negative number shrinks
    feather: int = 0  # pixels outside the mask over which the edit fades out

    def apply(self, mask: np.ndarray) -> np.ndarray:
        """Return one frame's mask, boolean H W, inverted, outlined and grown."""
        import cv2

        mask = mask != self.invert
        if self.outline != "given" and mask.any():
            points = cv2.findNonZero(mask.astype(np.uint8))
            corners = (
                cv2.convexHull(points)
                if self.outline == "hull"
                else _corners(cv2.boundingRect(points))
            )
            mask = cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), corners, (1,)) > 0
        if self.grow > 0:
            return _dilate(mask, self.grow)
        return ~_dilate(~mask, -self.grow) if self.grow else mask

    def describe(self) -> str:
        """Return what these settings do to a mask, as a clause for a message."""
        changes = ["inverted"] * self.invert
        changes += [f"outlined by its {self.outline}"] * (self.outline != "given")
        if self.grow:
            changes += [f"{'grown' if self.grow > 0 else 'shrunk'} by {abs(self.grow)} pixels"]
        return f"once it is {' and '.join(changes)}" if changes else "no pixel is inside"


def _dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Return the pixels at most `radius` pixels from the mask. The cost does not depend on the radius."""
    return _distance(mask) <= radius if mask.any() else mask


def _distance(mask: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to a mask that is not empty: float32 H W, 0 inside."""
    import cv2

    outside = (~mask).astype(np.uint8)
    return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _corners(box: Sequence[int]) -> np.ndarray:
    x, y, width, height = box
    return np.array(
        [(x, y), (x + width - 1, y), (x + width - 1, y + height - 1), (x, y + height - 1)], np.int32
    )


@dataclass(frozen=True)
class Mask:
    """One mask per frame. Each call of `read` starts again and yields boolean H W, before the shape is applied."""

    read: Callable[[], Iterator[np.ndarray]]
    shape: MaskShape

    def frames(self) -> Iterator[np.ndarray]:
        """Yield one boolean H W a frame."""
        return (self.shape.apply(mask) for mask in self.read())

    def alphas(self) -> Iterator[np.ndarray]:
        """Yield the edit's weight at each pixel, float32 H W: 1 inside, falling to 0 over `feather` pixels outside."""
        return (_feather(mask, self.shape.feather) for mask in self.frames())


def _feather(mask: np.ndarray, width: int) -> np.ndarray:
    if not width or mask.all() or not mask.any():
        return mask.astype(np.float32)
    return np.clip(1 - _distance(mask) / (width + 1), 0, 1).astype(np.float32)


def open_mask(
    source: str | Path,
    clip: video.Clip,
    part: range,
    shape: MaskShape | None = None,
    allow_any: bool = False,
    channel: ChannelChoice = "auto",
) -> Mask:
    """Open the mask of a part of a clip.

    source: a box "x,y,width,height" in pixels of the clip, or a file. A file has as many frames as the clip or the
    part, or one frame that serves all. channel: which channel of the file holds the shape.
    Raise UserError if the length differs, if a box is not inside the frame, and, without allow_any, if the mask is
    empty or full. Warn if an extra frame is dropped and if the mask may be inverted.
    """
    shape = shape or MaskShape()
    if shape.feather < 0:
        raise UserError(f"feather is {shape.feather}", "give a width in pixels, 0 or more")
    box = parse_box(str(source))
    if box:
        inside = box_mask(box, clip.size)
        return check_extent(Mask(lambda: repeat(inside, len(part)), shape), source, allow_any)
    file = sample_alike(video.probe(source), clip)
    _check_length(file, clip, part)
    _warn_if_stretched(file, clip, source)
    opened = _MaskFile(file, clip.size, part, file.frames > 1 and file.frames >= clip.frames)
    chosen = _choose_channel(opened, channel)
    mask = Mask(lambda: opened.read(chosen), shape)
    return check_extent(mask, source, allow_any, lambda: opened.describe_empty(chosen))


def join(parts: Sequence[Mask], names: Sequence[str], allow_any: bool = False) -> Mask:
    """Return the union of masks of one clip; a single mask as it is.

    names: what messages call them. Raise UserError as check_extent does.
    """
    if len(parts) == 1:
        return parts[0]

    def read() -> Iterator[np.ndarray]:
        for frames in zip(*(part.frames() for part in parts), strict=True):
            yield np.logical_or.reduce(frames)

    # Outline, growth and inversion are of each part. Pixels fade out by their distance to the nearest part.
    union = Mask(read, MaskShape(feather=parts[0].shape.feather))
    return check_extent(union, " and ".join(names), allow_any)


def overlap(parts: Sequence[Mask]) -> float:
    """Return which share of the pixels inside any of these masks is inside several of them."""
    shared = covered = 0
    for frames in zip(*(part.frames() for part in parts), strict=True):
        count = np.sum(frames, axis=0)
        shared, covered = shared + int((count > 1).sum()), covered + int((count > 0).sum())
    return shared / covered if covered else 0.0


def _warn_if_stretched(file: video.Clip, clip: video.Clip, source: str | Path) -> None:
    ratio = file.size[0] * clip.size[1] / (file.size[1] * clip.size[0])
    if abs(math.log(ratio)) > ASPECT_TOLERANCE:
        sizes = ["{}x{}".format(*size) for size in (file.size, clip.size)]
        warn_user(
            f"the mask {source} is {sizes[0]} and the clip {sizes[1]}: it is stretched to fit"
        )


def _check_length(file: video.Clip, clip: video.Clip, part: range) -> None:
    of_clip, of_part = (clip.frames, clip.frames + 1), (len(part), len(part) + 1)
    if file.frames not in (1, *of_clip, *of_part):
        whole = clip.sampling.source_frames if clip.sampling else clip.frames
        raise UserError(
            f"the mask {file.path} has {file.frames} frames; "
            f"the clip has {whole}, the edited part {len(part)}",
            "give a mask of one of these lengths, or one image",
        )
    if file.frames in (of_clip[1], of_part[1]) and file.frames != clip.frames:
        warn_user(f"the mask {file.path} has one extra frame; dropping the last")


@dataclass(frozen=True)
class _MaskFile:
    """The frames of a file that are the masks of a part of a clip."""

    file: video.Clip
    size: tuple[int, int]  # width, height of the clip
    part: range
    covers_clip: bool  # its frames are those of the whole clip, not of the part

    def pictures(self) -> Iterator[ColourAndAlpha]:
        start = self.part.start if self.covers_clip else 0
        return islice(video.read_with_alpha(self.file), start, start + len(self.part))

    def read(self, channel: MaskChannel) -> Iterator[np.ndarray]:
        mask = np.zeros(self.size[::-1], bool)
        for picture in self.pictures():
            mask = channel.threshold(picture, self.size)
            yield mask
        if self.file.frames == 1:
            yield from repeat(mask, len(self.part) - 1)

    def describe_empty(self, channel: MaskChannel) -> str:
        if channel.is_alpha:
            return "it is transparent everywhere"
        return "its brightest value is {} of {}".format(*peak_value(self.pictures()))


def _choose_channel(opened: _MaskFile, choice: ChannelChoice) -> MaskChannel:
    """Choose the channel of a file that holds the shape. Read labels 0 and 1 as such only if nothing else fits."""
    file, channel = opened.file, MaskChannel()
    if file.has_transparency:
        remedy = "choose one with --mask-channel colour or --mask-channel alpha"
        channel = choose_channel(opened.pictures(), str(file.path), choice, remedy)
    elif choice == "alpha":
        raise UserError(f"the mask {file.path} has no alpha channel", "use --mask-channel colour")
    is_exact = file.pixel_format.startswith(EXACT_FORMATS) and not any(
        f.suffix.lower() in LOSSY_SUFFIXES for f in file.files
    )
    if channel.is_alpha or not is_exact or any(mask.any() for mask in opened.read(channel)):
        return channel
    if peak_value(opened.pictures())[0] != 1:
        return channel
    warn_user(f"the values of the mask {file.path} are 0 and 1: 1 is read as inside")
    return MaskChannel(is_label=True)


def parse_box(text: str) -> Box | None:
    """Return the box of a text "x,y,width,height", or None if the text has another form."""
    match = BOX.fullmatch(text)
    if not match:
        return None
    x, y, width, height = (int(number) for number in match.groups())
    return x, y, width, height


def box_mask(box: Box, size: tuple[int, int]) -> np.ndarray:
    """Return a box x, y, width, height as boolean H W for a frame of this width and height.

    Raise UserError if the box is empty or not inside the frame.
    """
    x, y, width, height = box
    if not (width and height) or x + width > size[0] or y + height > size[1]:
        raise UserError(
            f"the box {x},{y},{width},{height} is not inside the {size[0]}x{size[1]} frame",
            "give x,y,width,height in pixels of the clip",
        )
    inside = np.zeros(size[::-1], bool)
    inside[y : y + height, x : x + width] = True
    return inside


def threshold(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return where a picture H W 3 is above half, boolean, resized to (width, height)."""
    return MaskChannel().threshold((picture, None), size)


def check_extent(
    mask: Mask,
    name: str | Path,
    allow_any: bool,
    describe_empty: Callable[[], str] = lambda: "no pixel is inside",
) -> Mask:
    """Return the mask once it is checked. Warn if it may be inverted.

    Raise UserError if no pixel is inside, or if every pixel of every frame is; with allow_any, warn instead.
    """
    has_pixels, shares = False, []
    for inside in mask.read():
        has_pixels |= bool(inside.any())
        shares.append(float(mask.shape.apply(inside).mean()))
    share = float(np.mean(shares))
    if share == 0:
        was_reshaped = has_pixels or mask.shape.invert
        reason = mask.shape.describe() if was_reshaped else describe_empty()
        _refuse_or_warn(f"the mask {name} is empty ({reason})", "nothing would change", allow_any)
    elif share == 1:
        _refuse_or_warn(
            f"the mask {name} is full", "every pixel of every frame may change", allow_any
        )
    elif share > WIDE_SHARE:
        warn_user(
            f"the mask {name} covers {share:.0%} of the frame; if it is inverted, use --invert-mask"
        )
    return mask


def _refuse_or_warn(cause: str, effect: str, allow_any: bool) -> None:
    if not allow_any:
        raise UserError(
            f"{cause}; {effect}", "give another mask, or allow it with --allow-any-mask"
        )
    warn_user(f"{cause}: {effect}")


def cell_size(clip_format: ClipFormat, fit: Fit) -> float:
    """Return how many pixels of the clip a latent cell covers, along the side where it covers more."""
    sides = zip(clip_format.stride[1:], fit.size, fit.model_size, strict=True)
    return max(stride * size / model_size for stride, size, model_size in sides)


def from_cells(
    cells: "Tensor", clip_format: ClipFormat, fit: Fit, shape: MaskShape, allow_any: bool = False
) -> Mask:
    """Return a mask of latent cells, f h w boolean, at the clip's own size and length.

    Raise UserError as check_extent does.
    """

    from torch.nn import functional

    def read() -> Iterator[np.ndarray]:
        for i in range(fit.frames):
            latent_frame = -(-i // clip_format.stride[0])  # the first one holds a single frame
            cell = cells[latent_frame][None, None].float()
            enlarged = functional.interpolate(cell, fit.size, mode="nearest")
            yield enlarged[0, 0].numpy() > 0

    return check_extent(Mask(read, shape), "auto", allow_any)


def to_latent(
    frames: Iterable[np.ndarray], clip_format: ClipFormat, shape: tuple[int, int, int]
) -> "Tensor":
    """Convert masks H W, one a frame, to latent cells 1 1 f h w.

    A cell is 1 if any pixel of any of its frames is inside the mask. shape: f, h, w.
    """
    import torch
    from torch.nn import functional

    cells = torch.zeros(shape)
    last, touched = 0, torch.zeros(shape[1:])
    for i, frame in enumerate(frames):
        pixels = torch.from_numpy(frame.astype(np.float32))[None]
        touched = functional.adaptive_max_pool2d(pixels, shape[1:])[0]
        last = min(-(-i // clip_format.stride[0]), shape[0] - 1)
        cells[last] = torch.maximum(cells[last], touched)
    cells[last + 1 :] = touched  # the clip was padded with its last frame
    return cells[None, None]


def composite(source: np.ndarray, edited: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Blend the edit over the source, integer arrays H W 3: (1 - alpha) * source + alpha * edited.

    Where alpha is 0 the source's pixels are copied, not computed. Without alpha the edit is returned.
    """
    if alpha is None:
        return edited
    weight = alpha[..., None]
    blended = np.rint(source * (1 - weight) + edited * weight).astype(source.dtype)
    return np.where(weight == 0, source, np.where(weight == 1, edited, blended))
