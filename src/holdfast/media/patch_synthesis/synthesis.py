"""Guided patch synthesis of one picture: alternate a search for matches and a vote, from coarse to fine.

Each target pixel takes the mean of what the patches that cover it copy from the style:
out(x) = mean over offsets o of style(q(x - o) + o).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy import ndarray

from .energy import PatchSpace, all_points, flatten_padded, make_space, patch_offsets
from .patch_match import Matches, begin_matches, search, try_matches, update_distances

SCALE = 255.0  # distances are in 8-bit steps, as the published uniformity and threshold are


@dataclass(frozen=True)
class Options:
    """How a picture is synthesised.

    patch: side of a patch. iterations: of search and vote, per level. search_iterations: of PatchMatch, per vote.
    levels: of the pyramid; 0: as many as the frame has room for. stop_threshold: pixels that a vote changed by less, in
    8-bit steps, are not searched again. extra_pass: a last vote with patches of 3 pixels. seed: of the random search.
    """

    patch: int = 5
    uniformity: float = 3500.0
    iterations: int = 6
    search_iterations: int = 4
    levels: int = 0
    stop_threshold: float = 5.0
    extra_pass: bool = False
    style_weight: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Guide:
    """What source and target are compared by, H W c each, in [0, 1], and its weight."""

    source: ndarray
    target: ndarray
    weight: float


@dataclass(frozen=True)
class Example:
    """What is synthesised from: a style H W 3 in [0, 1] and guides.

    start: a field H W 2 (y, x), float, that the search begins with; None: random. inside: boolean H W, where the
    picture is synthesised; elsewhere it is `outside`, H W 3. None: everywhere.
    """

    style: ndarray
    guides: tuple[Guide, ...]
    start: ndarray | None = None
    inside: ndarray | None = None
    outside: ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.style.shape[0], self.style.shape[1]


@dataclass(frozen=True)
class Synthesis:
    """A picture H W 3 in [0, 1], its field H W 2 (y, x), and the mean distance per pixel of its patches, H W."""

    picture: ndarray
    field: ndarray
    error: ndarray


def synthesize(example: Example, options: Options, key: tuple[int, ...] = ()) -> Synthesis:
    """Synthesise a picture. key: what the random search depends on in addition to the seed."""
    rng = np.random.default_rng([options.seed % 2**63, *key])
    field = None
    pyramid = [resize_example(example, size) for size in level_sizes(example.size, options)]
    for level in pyramid:
        first = random_field(level.size, rng) if field is None else enlarge_field(field, level.size)
        if field is None and level.start is not None:
            first = round_field(level.start)
        picture, matches = optimize(level, options, first, rng)
        field = matches.field
    if options.extra_pass:
        last = replace(options, patch=3, iterations=1)
        picture, matches = optimize(pyramid[-1], last, matches.field, rng)
        return Synthesis(picture, matches.field, matches.distances / 3**2)
    return Synthesis(picture, matches.field, matches.distances / options.patch**2)


def level_sizes(size: tuple[int, int], options: Options) -> list[tuple[int, int]]:
    """Return the sizes of the pyramid's levels, the smallest first. Each has room for two patches."""
    sizes = [size]
    while min(sizes[-1]) // 2 >= 2 * options.patch + 1 and len(sizes) != options.levels:
        height, width = sizes[-1]
        sizes.append((height // 2, width // 2))
    return sizes[::-1]


def resize_example(example: Example, size: tuple[int, int]) -> Example:
    """Return an example at a smaller size. A pixel is inside if any part of it is."""
    if size == example.size:
        return example
    guides = tuple(
        Guide(shrink(guide.source, size), shrink(guide.target, size), guide.weight)
        for guide in example.guides
    )
    scale = np.array(size) / example.size
    start = None if example.start is None else shrink(example.start, size) * scale
    inside, outside = example.inside, example.outside
    return Example(
        shrink(example.style, size),
        guides,
        start,
        None if inside is None else shrink(inside.astype(np.float32), size)[..., 0] > 0,
        None if outside is None else shrink(outside, size),
    )


def shrink(picture: ndarray, size: tuple[int, int]) -> ndarray:
    """Return a picture H W c or H W at a smaller size, each pixel the mean of those that it covers: h w c."""
    small = cv2.resize(picture.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return small if small.ndim == 3 else small[..., None]


def random_field(size: tuple[int, int], rng: np.random.Generator) -> ndarray:
    return rng.integers(0, size, (*size, 2))


def round_field(start: ndarray) -> ndarray:
    """Return a field of whole pixels inside the frame, of one H W 2 in fractions of pixels."""
    return np.clip(np.rint(start), 0, np.array(start.shape[:2]) - 1).astype(np.int32)


def enlarge_field(field: ndarray, size: tuple[int, int]) -> ndarray:
    """Return a field of a pyramid's next level: each pixel keeps its place within the pixel of the level before."""
    points = all_points(size)
    small = np.minimum(points // 2, np.array(field.shape[:2]) - 1)
    moved = 2 * field[small[:, 0], small[:, 1]] + points - 2 * small
    return np.clip(moved, 0, np.array(size) - 1).reshape(*size, 2).astype(np.int32)


def optimize(
    example: Example, options: Options, field: ndarray, rng: np.random.Generator
) -> tuple[ndarray, Matches]:
    """Alternate search and vote on one level. Return the picture and its matches."""
    picture = vote_inside(example, field, options.patch)
    space = make_space(*features(example, picture, options), options.patch)
    active = searched_points(example, options.patch)
    matches = begin_matches(space, field, active)
    if example.start is not None:
        start = round_field(example.start)[active[:, 0], active[:, 1]]
        try_matches(space, matches, active, start, np.zeros(space.size, np.float32))
    for _ in range(options.iterations):
        search(space, matches, active, rng, options.search_iterations, options.uniformity)
        voted = vote_inside(example, matches.field, options.patch)
        changed = SCALE * np.abs(voted - picture).max(2) > options.stop_threshold
        picture = voted
        space = replace_style(space, example, picture, options)
        active = points_near(changed, options.patch)
        update_distances(space, matches, active)
        if not len(active):
            break
    return picture, matches


def searched_points(example: Example, patch: int) -> ndarray:
    """Return the points whose patches the picture depends on: all, or those whose patch touches the inside."""
    if example.inside is None:
        return all_points(example.size)
    return points_near(example.inside, patch)


def points_near(where: ndarray, patch: int) -> ndarray:
    """Return the points whose patch touches a boolean picture H W, n 2 (y, x)."""
    near = cv2.dilate(where.astype(np.uint8), np.ones((patch, patch), np.uint8))
    return np.argwhere(near)


def features(example: Example, picture: ndarray, options: Options) -> tuple[ndarray, ndarray]:
    """Return the features of source and target, H W c: style and guides, each times the root of weight / channels."""
    style = Guide(example.style, picture, options.style_weight)
    parts = [style, *example.guides]
    scales = [SCALE * np.sqrt(part.weight / part.source.shape[2]) for part in parts]
    pairs = list(zip(scales, parts, strict=True))
    source = np.concatenate([scale * part.source for scale, part in pairs], 2)
    target = np.concatenate([scale * part.target for scale, part in pairs], 2)
    return source, target


def replace_style(
    space: PatchSpace, example: Example, picture: ndarray, options: Options
) -> PatchSpace:
    """Return the space after a vote: the target's style is the new picture."""
    channels = picture.shape[2]
    scale = SCALE * np.sqrt(options.style_weight / channels)
    target = space.target.copy()
    target[:, :channels] = flatten_padded(scale * picture, space.patch)
    return replace(space, target=target)


def vote_inside(example: Example, field: ndarray, patch: int) -> ndarray:
    """Return the vote of a field, H W 3, and what is given outside."""
    picture = vote(example.style, field, patch)
    if example.inside is None or example.outside is None:
        return picture
    return np.where(example.inside[..., None], picture, example.outside)


def vote(style: ndarray, field: ndarray, patch: int) -> ndarray:
    """Return the mean of what all patches that cover a pixel copy there, H W c."""
    height, width = field.shape[:2]
    space = make_space(style, style, patch)
    rows = space.flat(field.reshape(-1, 2))
    total = np.zeros((height, width, style.shape[2]), np.float32)
    count = np.zeros((height, width, 1), np.float32)
    for offset, flat in zip(patch_offsets(patch), space.offsets, strict=True):
        copied = space.source[rows + flat].reshape(total.shape)
        to, start = _overlap(offset, (height, width))
        total[to] += copied[start]
        count[to] += 1
    return total / count


def _overlap(offset: ndarray, size: tuple[int, int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the pixels at an offset from others, and those others, both inside the frame."""
    pairs = list(_slices(offset, size))
    return tuple(to for to, _ in pairs), tuple(start for _, start in pairs)


def _slices(offset: ndarray, size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    for o, n in zip(offset.tolist(), size, strict=True):
        yield slice(max(o, 0), n + min(o, 0)), slice(max(-o, 0), n + min(-o, 0))
