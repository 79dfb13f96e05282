"""Frames between key frames: propagated from both, by patch synthesis or along the flow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy import ndarray

from ...media.patch_synthesis import propagation
from ...media.patch_synthesis.synthesis import Options
from .flows import ClipFlow

HIDDEN_WEIGHT = (
    1e-3  # of a key frame where it hides a pixel: it counts if the other one hides it too
)


def propagate(
    flow: ClipFlow, keyframes: Mapping[int, ndarray], how: str, seed: int
) -> dict[int, ndarray]:
    """Return the frames that are no key frames, by index, H W 3 in [0, 1].

    keyframes: the edited ones by index; 0 is among them. how: ebsynth or flow.
    """
    if how == "flow":
        return dict(warp_between(flow, keyframes))
    options = propagation.PropagationOptions(Options(seed=seed))
    frames = propagation.propagate(flow.frames, flow.neighbours, keyframes, options)
    return {i: frame for i, frame in enumerate(frames) if i not in keyframes}


def warp_between(flow: ClipFlow, keyframes: Mapping[int, ndarray]) -> Iterator[tuple[int, ndarray]]:
    """Yield each frame between key frames: the warped ones, weighted by nearness where they are visible."""
    end = len(flow.frames)
    for key, following in pairwise([*sorted(keyframes), end]):
        around = [key, following] if following < end else [key]
        for frame in range(key + 1, following):
            yield frame, _blend_warped(flow, frame, around, keyframes)


def _blend_warped(
    flow: ClipFlow, frame: int, around: Sequence[int], keyframes: Mapping[int, ndarray]
) -> ndarray:
    pairs = [flow.warp(keyframes[key], frame, key) for key in around]
    distances = [abs(key - frame) for key in around]
    shown = [np.where(visible, 1.0, HIDDEN_WEIGHT)[..., None] for _, visible in pairs]
    weights = np.stack([w / d for w, d in zip(shown, distances, strict=True)])
    warped = np.stack([picture for picture, _ in pairs])
    return ((weights * warped).sum(0) / weights.sum(0)).astype(np.float32)
