"""The energy of a nearest-neighbour field, which maps each pixel p of a target to a pixel q of a source.

E = sum_p D(p, q) + uniformity * Omega(q),  D(p, q) = sum_o |S(q + o) - T(p + o)|^2 over the offsets o of a patch

S and T are the features of both pictures: style and guides, each scaled by the root of its weight. Omega(q) is how
often the patch at q is used, 1 where all are used equally often. Beyond the frame the edge is repeated.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray

CHUNK = 2**15  # pixels that are compared at once, so that memory does not grow with the frame
FIRST_OFFSETS = (1, 5, 13)  # where a sum of distances is compared with its bound


@dataclass(frozen=True)
class PatchSpace:
    """The features of source and target, padded by the radius of a patch and flattened: n c float32.

    size: height and width of both pictures. patch: side of a patch, odd. offsets: of its pixels in the flat features.
    """

    source: ndarray
    target: ndarray
    size: tuple[int, int]
    patch: int
    offsets: ndarray

    def flat(self, points: ndarray) -> ndarray:
        """Return the flat indices of points n 2 (y, x)."""
        radius, width = self.patch // 2, self.size[1]
        return (points[:, 0] + radius) * (width + 2 * radius) + points[:, 1] + radius


def make_space(source: ndarray, target: ndarray, patch: int) -> PatchSpace:
    """Return the space of two pictures of features, each H W c."""
    height, width = source.shape[:2]
    offsets = patch_offsets(patch)
    flat = (offsets[:, 0] * (width + 2 * (patch // 2)) + offsets[:, 1]).astype(np.intp)
    rows = flatten_padded(source, patch), flatten_padded(target, patch)
    return PatchSpace(rows[0], rows[1], (height, width), patch, flat)


def flatten_padded(picture: ndarray, patch: int) -> ndarray:
    """Return a picture H W c padded by a patch's radius, as rows n c."""
    radius = patch // 2
    padding = ((radius, radius), (radius, radius), (0, 0))
    padded = np.pad(picture.astype(np.float32), padding, mode="edge")
    return padded.reshape(-1, picture.shape[2])


def patch_offsets(patch: int) -> ndarray:
    """Return the offsets of a patch's pixels, patch^2 2 (y, x): the centre and the corners first, which differ most."""
    radius = patch // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1)
    is_corner = (np.abs(y) == radius) & (np.abs(x) == radius)
    is_centre = (y == 0) & (x == 0)
    order = np.argsort(-2 * is_centre.astype(int) - is_corner, kind="stable")
    return np.stack((y, x), 1)[order]


def patch_distances(
    space: PatchSpace, p: ndarray, q: ndarray, bound: ndarray | None = None
) -> ndarray:
    """Return D(p, q) of pairs of points, each n 2 (y, x).

    bound: n; a distance that reaches its bound may be returned too small, but not below the bound.
    """
    p, q = space.flat(p), space.flat(q)
    distances = np.empty(len(p), np.float32)
    for start in range(0, len(p), CHUNK):
        part = slice(start, start + CHUNK)
        limit = None if bound is None else bound[part]
        distances[part] = _distances_of_chunk(space, p[part], q[part], limit)
    return distances


def _distances_of_chunk(
    space: PatchSpace, p: ndarray, q: ndarray, bound: ndarray | None
) -> ndarray:
    total = np.zeros(len(p), np.float32)
    alive = np.arange(len(p))
    for offsets in _offset_groups(space.offsets, is_bounded=bound is not None):
        found = space.source[q[alive, None] + offsets] - space.target[p[alive, None] + offsets]
        total[alive] += np.einsum("noc,noc->n", found, found)
        if bound is not None:
            alive = alive[total[alive] < bound[alive]]
    return total


def _offset_groups(offsets: ndarray, is_bounded: bool) -> Iterator[ndarray]:
    """Yield groups of offsets, small ones first where a bound ends most sums early."""
    ends = [n for n in FIRST_OFFSETS if n < len(offsets)] if is_bounded else []
    yield from np.split(offsets, ends)


def usage(field: ndarray, patch: int) -> ndarray:
    """Return Omega of each source pixel, H W: how often its patch is used, 1 for a field that uses all equally.

    field: H W 2 (y, x). A pixel is used by each patch that covers it; a patch by the mean over its pixels.
    """
    height, width = field.shape[:2]
    flat = (field[..., 0] * width + field[..., 1]).ravel()
    counts = np.bincount(flat, minlength=height * width).reshape(height, width).astype(np.float32)
    side = (patch, patch)
    covered = cv2.boxFilter(counts, -1, side, normalize=False, borderType=cv2.BORDER_CONSTANT)
    mean = cv2.boxFilter(covered, -1, side, normalize=True, borderType=cv2.BORDER_REPLICATE)
    return mean / patch**2


def energy(space: PatchSpace, field: ndarray, uniformity: float) -> float:
    """Return E of a field H W 2."""
    q = field.reshape(-1, 2)
    distances = patch_distances(space, all_points(space.size), q)
    used = usage(field, space.patch)[q[:, 0], q[:, 1]]
    return float(distances.sum() + uniformity * used.sum())


def all_points(size: tuple[int, int]) -> ndarray:
    """Return the points of a picture, n 2 (y, x), row by row."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack((y.ravel(), x.ravel()), 1)
