"""The guides of a frame: what a frame of the clip and its keyframe are compared by. All are H W c in [0, 1]."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray

from .synthesis import Guide

EDGE_RADIUS = 1.5  # pixels: standard deviation of the blur that edges are the difference to


@dataclass(frozen=True)
class GuideWeights:
    """The weight of each guide. A guide of weight 0 is left out."""

    colour: float = 6.0
    edges: float = 0.5
    temporal: float = 0.5
    position: float = 2.0


@dataclass(frozen=True)
class GuidePair:
    """What guides are made from, of the keyframe and of the frame to synthesise.

    frames: of the clip, H W 3. styles: the edited keyframe, and the result of the frame before, moved along the flow.
    positions: of the keyframe's pixels, and where the frame's pixels come from in it, H W 2 (x, y) in pixels.
    """

    frames: tuple[ndarray, ndarray]
    styles: tuple[ndarray, ndarray]
    positions: tuple[ndarray, ndarray]


def make_guides(pair: GuidePair, weights: GuideWeights) -> tuple[Guide, ...]:
    """Return the guides whose weight is not 0."""
    size = pair.frames[0].shape[:2]
    source, target = pair.frames
    own, moved = pair.positions
    guides = (
        Guide(source, target, weights.colour),
        Guide(edges(source), edges(target), weights.edges),
        Guide(*pair.styles, weights.temporal),
        Guide(as_shares(own, size), as_shares(moved, size), weights.position),
    )
    return tuple(guide for guide in guides if guide.weight)


def edges(frame: ndarray) -> ndarray:
    """Return how much each pixel's grey differs from a blur of it, H W 1; 0.5: not at all."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return ((grey - cv2.GaussianBlur(grey, (0, 0), EDGE_RADIUS) + 1) / 2)[..., None]


def as_shares(positions: ndarray, size: tuple[int, ...]) -> ndarray:
    """Return positions H W 2 (x, y) in pixels as shares of the frame."""
    return positions / np.array([size[1], size[0]], np.float32)


def own_positions(size: tuple[int, ...]) -> ndarray:
    """Return the position of each pixel, H W 2 (x, y), float32."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    return np.stack((x, y), -1)
