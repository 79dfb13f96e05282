"""Masks from files: read, feather, bring to the latent grid, composite.

A mask says where an edit may show: a video, a folder of frames or one image for all frames; bright is inside. It may have
any size, length one or the clip's, and any colour mode. Values above half are inside.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from . import video
from .backbones.base import Grid


@dataclass(frozen=True)
class Mask:
    """A mask file bound to `count` frames of a size (width, height). `skip`: frames of the file that come before them."""

    clip: video.Clip
    size: tuple[int, int]
    count: int
    skip: int = 0
    invert: bool = False
    feather: int = 0  # pixels over which the edit fades out, outside the mask

    def frames(self) -> Iterator[np.ndarray]:
        """One boolean H W a frame."""
        inside = None
        for array in islice(video.read(self.clip), self.skip, self.skip + self.count):
            inside = self._inside(array)
            yield inside
        if self.clip.frames == 1:
            yield from (inside for _ in range(self.count - 1))

    def _inside(self, array: np.ndarray) -> np.ndarray:
        import cv2

        bright = array.max(axis=2) > (127 if array.dtype == np.uint8 else 32767)
        resized = cv2.resize(bright.astype(np.uint8), self.size, interpolation=cv2.INTER_NEAREST_EXACT)
        return (resized > 0) != self.invert

    def alphas(self) -> Iterator[np.ndarray]:
        """The edit's weight at each pixel, float32 H W: 1 inside, 0 from `feather` pixels outside on."""
        return (_feathered(inside, self.feather) for inside in self.frames())


def _feathered(inside: np.ndarray, width: int) -> np.ndarray:
    import cv2

    if not width or inside.all() or not inside.any():
        return inside.astype(np.float32)
    distance = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip(1 - distance / (width + 1), 0, 1).astype(np.float32)


def bind(path: str | Path, clip: video.Clip, part: range, invert: bool = False, feather: int = 0) -> Mask:
    """Open a mask for a part of a clip. It may be as long as the clip, as long as the part, or one frame for all.

    Raises ValueError for another length; warns where one frame too many is dropped and where the mask is empty, full, or
    perhaps inverted.
    """
    if feather < 0:
        raise ValueError(f"feather is a width in pixels, 0 or more, not {feather}")
    file = video.probe(path)
    fits = {1: 0, len(part): 0, len(part) + 1: 0, clip.frames: part.start, clip.frames + 1: part.start}
    if file.frames not in fits:
        raise ValueError(f"the mask {path} has {file.frames} frames; the clip has {clip.frames}, the edited part {len(part)}")
    if file.frames in (len(part) + 1, clip.frames + 1) and file.frames != clip.frames:
        warnings.warn(f"the mask {path} has one frame too many; the last is dropped", stacklevel=2)
    mask = Mask(file, clip.size, len(part), fits[file.frames] if file.frames > 1 else 0, invert, feather)
    share = float(np.mean([inside.mean() for inside in mask.frames()]))
    if share in (0.0, 1.0):
        warnings.warn(f"the mask {path} is {'empty: nothing will change' if not share else 'full: all may change'}", stacklevel=2)
    elif share > 0.75:
        warnings.warn(f"the mask {path} lets {share:.0%} of the picture change; if it is inverted, use --invert-mask", stacklevel=2)
    return mask


def to_latent(frames: Iterable[np.ndarray], grid: Grid, shape: tuple[int, int, int]) -> Tensor:
    """Masks H W, one a frame, to 1 1 f h w: a latent cell is inside where any pixel of any of its frames is."""
    cells = [functional.adaptive_max_pool2d(torch.from_numpy(f.astype(np.float32))[None], shape[1:])[0] for f in frames]
    cells += [cells[-1]] * ((shape[0] - 1) * grid.stride[0] + 1 - len(cells))
    stacked = torch.stack(cells)
    groups = [stacked[:1], *(g.amax(0, keepdim=True) for g in stacked[1:].split(grid.stride[0]))] if len(cells) > 1 else [stacked]
    return torch.cat(groups)[None, None]


def composite(source: np.ndarray, edited: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """The edit where alpha lets it through. Where alpha is 0 the source's pixels themselves. Integer arrays H W 3."""
    if alpha is None:
        return edited
    weight = alpha[..., None]
    blended = np.rint(source * (1 - weight) + edited * weight).astype(source.dtype)
    return np.where(weight == 0, source, np.where(weight == 1, edited, blended))
