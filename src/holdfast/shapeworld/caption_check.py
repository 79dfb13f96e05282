"""Check whether a clip matches a scene's caption, or shows an added object, by rendering the nearest scenes."""

import itertools
import math
from dataclasses import replace

from torch import Tensor
from torch.nn import functional

from .rendering import render_variants
from .scenes import COLOURS, DIRECTIONS, FRAMES, MATERIALS, SHAPES, Scene, SceneEdit

SAMPLED_FRAMES = (0, 4, 8, 12)  # the frames of a clip that are compared
CHUNK = 16  # scenes rendered at once: more of them do not fit the CPU's cache
ATTRIBUTES = {
    "shape": SHAPES,
    "colour": COLOURS,
    "material": MATERIALS,
    "direction": tuple(DIRECTIONS),
}


def sampled_times(sampled: Tensor) -> tuple[int, ...]:
    """Return the times of the sampled frames. A single frame has the actors' positions in the middle of their clip."""
    return SAMPLED_FRAMES if len(sampled) > 1 else (FRAMES // 2,)


def rendering_errors(scenes: list[Scene], index: int, sampled: Tensor) -> list[float]:
    """Return the mean squared error of each scene's rendering to the sampled frames, f 3 H W.

    The scenes differ only in the actor of this index.
    """
    size = (sampled.shape[-2], sampled.shape[-1])
    errors = []
    for i in range(0, len(scenes), CHUNK):
        pictures = render_variants(scenes[i : i + CHUNK], index, sampled_times(sampled), size)
        errors += (pictures - sampled).square().flatten(1).mean(1).tolist()
    return errors


def centre_actor(scene: Scene, index: int, x: float, y: float, size: float) -> Scene:
    """Return the scene with one actor at (x, y) in the middle of the clip, and of this size."""
    actor = scene.actors[index]
    (vx, vy), half = actor.velocity, (FRAMES - 1) / 2
    moved = replace(actor, x=x - vx * half, y=y - vy * half, size=size)
    return replace(scene, actors=(*scene.actors[:index], moved, *scene.actors[index + 1 :]))


def actor_at_midpoint(scene: Scene, index: int) -> tuple[float, float, float]:
    """Return an actor's position x, y in the middle of the clip, and its size."""
    actor = scene.actors[index]
    (vx, vy), half = actor.velocity, (FRAMES - 1) / 2
    return actor.x + vx * half, actor.y + vy * half, actor.size


def best_match(scenes: list[Scene], index: int, sampled: Tensor) -> tuple[float, Scene]:
    """Return the lowest rendering error and its scene."""
    errors = rendering_errors(scenes, index, sampled)
    lowest = min(range(len(errors)), key=errors.__getitem__)
    return errors[lowest], scenes[lowest]


def locate_actor(scene: Scene, index: int, sampled: Tensor) -> Scene:
    """Return the scene with one actor at the best of 12 x 12 positions, compared at half size."""
    sampled = functional.avg_pool2d(sampled, 2)
    positions = [0.12 + 0.76 * i / 11 for i in range(12)]
    pairs = itertools.product(positions, positions)
    candidates = [centre_actor(scene, index, x, y, 0.2) for x, y in pairs]
    return best_match(candidates, index, sampled)[1]


def nudge_actor(scene: Scene, index: int, sampled: Tensor, reach: float) -> tuple[float, Scene]:
    """Return the lowest error, and its scene, over an actor's neighbouring positions and sizes."""
    x, y, size = actor_at_midpoint(scene, index)
    candidates = []
    for a, b, c in itertools.product((-1, 0, 1), repeat=3):
        shifted = centre_actor(scene, index, x + a * reach, y + b * reach, size + c * 0.015)
        candidates.append(shifted)
    return best_match(candidates, index, sampled)


def refine_actor(scene: Scene, index: int, sampled: Tensor) -> tuple[float, Scene]:
    """Nudge an actor twice, with a smaller reach each time, as the caption's scene and every rival are."""
    nearby = nudge_actor(scene, index, sampled, 0.02)[1]
    return nudge_actor(nearby, index, sampled, 0.01)


def fit_scene(scene: Scene, sampled: Tensor) -> tuple[float, Scene]:
    """Fit a scene's positions and sizes to a clip: each actor alone, then with the others, then at a finer step."""
    count = len(scene.actors)
    alone = [locate_actor(replace(scene, actors=(a,)), 0, sampled).actors[0] for a in scene.actors]
    scene = replace(scene, actors=tuple(alone))
    for i in range(count if count > 1 else 0):
        scene = locate_actor(scene, i, sampled)
    for i in range(count):
        scene = nudge_actor(scene, i, sampled, 0.035)[1]
    error = math.inf
    for i in range(count):
        error, scene = refine_actor(scene, i, sampled)
    return error, scene


def rivals(scene: Scene, name: str) -> list[tuple[int, Scene]]:
    """Return every scene in which one actor has another value of an attribute, with that actor's index.

    The actor keeps its position in the middle of the clip.
    """
    pairs = []
    for i, actor in enumerate(scene.actors):
        for value in ATTRIBUTES[name]:
            if value != getattr(actor, name):
                other = replace(actor, **{name: value})
                actors = (*scene.actors[:i], other, *scene.actors[i + 1 :])
                changed = replace(scene, actors=actors)
                pairs.append((i, centre_actor(changed, i, *actor_at_midpoint(scene, i))))
    return pairs


def nearest_rival(match: Scene, name: str, sampled: Tensor) -> float:
    """Return the lowest rendering error over the scenes in which one actor has another value of an attribute."""
    nearest = math.inf
    for i, rival in rivals(match, name):
        nearest = min(nearest, refine_actor(rival, i, sampled)[0])
        if name == "direction":  # another motion is far from the best match of this one
            located = locate_actor(rival, i, sampled)
            nearest = min(nearest, refine_actor(located, i, sampled)[0])
    return nearest


def check_caption(clip: Tensor, scene: Scene) -> dict[str, bool]:
    """Return which attributes of a scene's caption a clip f 3 H W shows; "caption" is colour, shape and direction.

    The scene is first fitted to the clip, because the caption names no position and no size. An attribute holds if no
    other value of it, in any actor, renders closer to the clip, with the position free to adjust.
    """
    sampled = clip[list(SAMPLED_FRAMES)] if len(clip) > 1 else clip
    own, match = fit_scene(scene, sampled)
    holds = {"direction": True} if len(clip) == 1 else {}  # one frame shows no motion
    for name in ATTRIBUTES.keys() - holds:
        holds[name] = own < nearest_rival(match, name, sampled)
    holds["caption"] = holds["colour"] and holds["shape"] and holds["direction"]
    return holds


def is_object_added(edit: SceneEdit, result: Tensor) -> bool:
    """Return whether a clip f 3 H W shows the object that an edit adds, at any position: the prompt names none.

    This holds if the scene with the object, at the position and size that fit best, is nearer to the clip than the
    scene without it, and than the scene with the object in any other shape or colour.
    """
    index = edit.actor
    assert index is not None  # the edit adds an actor
    sampled = result[list(SAMPLED_FRAMES)]
    nearby = nudge_actor(locate_actor(edit.target, index, sampled), index, sampled, 0.035)[1]
    own, match = refine_actor(nearby, index, sampled)
    others = [
        rival for name in ("shape", "colour") for j, rival in rivals(match, name) if j == index
    ]
    nearest = min(refine_actor(rival, index, sampled)[0] for rival in others)
    return own < min(nearest, *rendering_errors([edit.source], 0, sampled))
