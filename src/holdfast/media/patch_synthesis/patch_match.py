"""PatchMatch (Barnes et al., 2009): improve a nearest-neighbour field by its neighbours' matches and by random ones.

All pixels are searched at once, with the field before each candidate: the result does not depend on an order of pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from .energy import PatchSpace, patch_distances, usage

JUMPS = (4, 2, 1)  # distances to the neighbours whose match is tried
DIRECTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1))


@dataclass
class Matches:
    """A nearest-neighbour field under search. field: H W 2 (y, x); distances: D of its matches, H W."""

    field: ndarray
    distances: ndarray


def begin_matches(space: PatchSpace, field: ndarray, points: ndarray) -> Matches:
    """Return a field, H W 2, with its distances at some points, n 2 (y, x); 0 elsewhere."""
    matches = Matches(field.astype(np.int32), np.zeros(space.size, np.float32))
    update_distances(space, matches, points)
    return matches


def update_distances(space: PatchSpace, matches: Matches, points: ndarray) -> None:
    """Compute the distances of some points again, n 2, after the target changed there."""
    y, x = points.T
    matches.distances[y, x] = patch_distances(space, points, matches.field[y, x])


def search(
    space: PatchSpace,
    matches: Matches,
    points: ndarray,
    rng: np.random.Generator,
    iterations: int,
    uniformity: float,
) -> None:
    """Improve the matches of some points, n 2 (y, x), in so many iterations.

    The usage of the source is counted before each iteration.
    """
    for _ in range(iterations):
        penalty = uniformity * usage(matches.field, space.patch)
        for jump in JUMPS:
            for direction in DIRECTIONS:
                offset = jump * np.array(direction)
                try_matches(
                    space, matches, points, neighbour_matches(matches, points, offset), penalty
                )
        for radius in search_radii(space.size):
            try_matches(
                space, matches, points, random_matches(matches, points, radius, rng), penalty
            )


def neighbour_matches(matches: Matches, points: ndarray, offset: ndarray) -> ndarray:
    """Return the matches of each point's neighbour at an offset, moved back by that offset: n 2."""
    limit = np.array(matches.field.shape[:2]) - 1
    y, x = np.clip(points + offset, 0, limit).T
    return np.clip(matches.field[y, x] - offset, 0, limit)


def random_matches(
    matches: Matches, points: ndarray, radius: int, rng: np.random.Generator
) -> ndarray:
    """Return random points around each point's match, at most `radius` away in each direction: n 2."""
    y, x = points.T
    moved = matches.field[y, x] + rng.integers(-radius, radius + 1, points.shape)
    return np.clip(moved, 0, np.array(matches.field.shape[:2]) - 1)


def search_radii(size: tuple[int, int]) -> Iterator[int]:
    """Yield the radii of the random search: from the frame's longer side, halved down to 1."""
    radius = max(size)
    while radius >= 1:
        yield radius
        radius //= 2


def try_matches(
    space: PatchSpace, matches: Matches, points: ndarray, found: ndarray, penalty: ndarray
) -> None:
    """Replace the matches of points by others, both n 2, where D + penalty is lower. penalty: of source pixels, H W."""
    current = matches.field[points[:, 0], points[:, 1]]
    differs = (found != current).any(1)
    points, found, current = points[differs], found[differs], current[differs]
    y, x = points.T
    bound = matches.distances[y, x] + penalty[current[:, 0], current[:, 1]]
    bound = bound - penalty[found[:, 0], found[:, 1]]
    distances = patch_distances(space, points, found, bound)
    better = distances < bound
    y, x = y[better], x[better]
    matches.field[y, x], matches.distances[y, x] = found[better], distances[better]
