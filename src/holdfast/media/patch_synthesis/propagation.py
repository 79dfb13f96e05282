"""Propagate edited keyframes through a clip, one synthesis after another.

Frames after the last keyframe are synthesised from it in order. Those between two keyframes are synthesised from both,
backwards first, and blended. Each synthesis is guided by the clip, by the result of its neighbour and by where its
pixels come from in the keyframe, both moved along the optical flow.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy import ndarray

from ..optical_flow import warp
from .blending import blend
from .guides import GuidePair, GuideWeights, make_guides, own_positions
from .synthesis import Example, Options, Synthesis, synthesize

Flows = Callable[[int, int], ndarray]  # (frame, its neighbour) -> flow from one to the other, H W 2
Blend = Literal["average", "contrast", "poisson"]
State = dict[str, ndarray]


@dataclass(frozen=True)
class PropagationOptions:
    """How keyframes are propagated. starts_from_flow: the search begins where the flow leads, not at random points."""

    synthesis: Options = field(default_factory=Options)
    weights: GuideWeights = field(default_factory=GuideWeights)
    blend: Blend = "contrast"
    starts_from_flow: bool = True


@dataclass(frozen=True)
class Part:
    """One synthesis: of a frame, from a keyframe before or after it. other: the keyframe on its other side, if any."""

    frame: int
    key: int
    other: int | None = None

    @property
    def is_backward(self) -> bool:
        return self.key > self.frame

    @property
    def neighbour(self) -> int:
        """The frame next to it on the keyframe's side."""
        return self.frame + 1 if self.is_backward else self.frame - 1


def plan_parts(count: int, keyframes: Sequence[int]) -> list[Part]:
    """Return the syntheses of a clip of so many frames, in order. keyframes: sorted; the first one is frame 0."""
    assert keyframes[0] == 0
    parts = []
    for key, following in pairwise(keyframes):
        between = range(key + 1, following)
        parts += [Part(frame, following, key) for frame in reversed(between)]
        parts += [Part(frame, key, following) for frame in between]
    return parts + [Part(frame, keyframes[-1]) for frame in range(keyframes[-1] + 1, count)]


@dataclass(frozen=True)
class Clip:
    """What is propagated through.

    frames: H W 3 float32 in [0, 1]. flows: between neighbours. keyframes: the edited frames by index, H W 3; one is
    frame 0. inside: where each frame may change, boolean H W; None: everywhere.
    """

    frames: Sequence[ndarray]
    flows: Flows
    keyframes: Mapping[int, ndarray]
    inside: Callable[[int], ndarray] | None = None

    def style(self, key: int) -> ndarray:
        """Return a keyframe: the edited frame, and the clip's own where that may not change."""
        return self._limit(key, self.keyframes[key])

    def _limit(self, frame: int, picture: ndarray) -> ndarray:
        if self.inside is None:
            return picture
        return np.where(self.inside(frame)[..., None], picture, self.frames[frame])


def propagate(
    frames: Sequence[ndarray],
    flows: Flows,
    keyframes: Mapping[int, ndarray],
    options: PropagationOptions | None = None,
) -> Iterator[ndarray]:
    """Yield each frame of a clip as its keyframes make it look, H W 3 float32 in [0, 1], in order.

    Keyframes are yielded as they are. Parameters are those of Clip.
    """
    clip, options, state = Clip(frames, flows, keyframes), options or PropagationOptions(), State()
    done = 0
    for part in plan_parts(len(frames), sorted(keyframes)):
        state, picture = run_part(clip, part, state, options)
        while picture is not None and done in keyframes:
            yield keyframes[done]
            done += 1
        if picture is not None:
            yield picture
            done += 1
    for key in range(done, len(frames)):
        yield keyframes[key]


def run_part(
    clip: Clip, part: Part, state: State, options: PropagationOptions
) -> tuple[State, ndarray | None]:
    """Run one synthesis. Return the state after it, and the frame where it is finished, H W 3.

    state: of the part before; it holds what later parts need, and a resumed run may load it.
    """
    flow = clip.flows(part.frame, part.neighbour)
    is_first = part.neighbour == part.key
    positions = own_positions(flow.shape) if is_first else state["positions"]
    previous = clip.style(part.key) if is_first else state["previous"]
    moved = warp(positions, flow)
    found = synthesize(
        make_example(clip, part, warp(previous, flow), moved, options),
        options.synthesis,
        key=(part.frame, part.key),
    )
    own = {"positions", "previous"}
    state = {name: value for name, value in state.items() if name not in own}
    state |= {"positions": moved, "previous": found.picture}
    if part.is_backward:
        names = _stored_names(part.frame)
        return state | dict(zip(names, (found.picture, found.error), strict=True)), None
    return _finish(clip, part, state, found, options)


def make_example(
    clip: Clip, part: Part, previous: ndarray, positions: ndarray, options: PropagationOptions
) -> Example:
    """Return what a frame is synthesised from. previous, positions: moved along the flow to the frame."""
    style, target = clip.style(part.key), clip.frames[part.frame]
    pair = GuidePair(
        (clip.frames[part.key], target),
        (style, previous),
        (own_positions(target.shape), positions),
    )
    return Example(
        style,
        make_guides(pair, options.weights),
        positions[..., ::-1] if options.starts_from_flow else None,
        None if clip.inside is None else clip.inside(part.frame),
        None if clip.inside is None else target,
    )


def _finish(
    clip: Clip, part: Part, state: State, found: Synthesis, options: PropagationOptions
) -> tuple[State, ndarray]:
    """Return the state and the finished frame of a forward synthesis: blended with the backward one, if any."""
    if part.other is None:
        return state, found.picture
    names = _stored_names(part.frame)
    second, error = (state[name] for name in names)
    position = (part.frame - part.key) / (part.other - part.key)
    blended = blend(found.picture, second, position, (found.error, error), options.blend)
    rest = {name: value for name, value in state.items() if name not in names}
    return rest, clip._limit(part.frame, blended)


def _stored_names(frame: int) -> tuple[str, str]:
    """Return the names of a backward result and its error in the state."""
    return f"backward.{frame}", f"backward_error.{frame}"
