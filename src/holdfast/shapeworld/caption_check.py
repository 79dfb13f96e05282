"""What a clip shows, by nearest re-rendering: whether it matches a scene's caption, whether a new thing is in it."""

import itertools
import math
from dataclasses import replace

from torch import Tensor
from torch.nn import functional

from .rendering import render_variants
from .scenes import COLOURS, DIRECTIONS, FRAMES, MATERIALS, SHAPES, Scene, SceneEdit

SAMPLED_FRAMES = (0, 4, 8, 12)  # frames that are looked at
CHUNK = 16  # scenes rendered at once: more of them fall out of the processor's cache
ATTRIBUTES = {
    "shape": SHAPES,
    "colour": COLOURS,
    "material": MATERIALS,
    "direction": tuple(DIRECTIONS),
}


def sampled_times(looked: Tensor) -> tuple[int, ...]:
    """Which frames the judge looks at; a single frame shows actors where they are in the middle of their clip."""
    return SAMPLED_FRAMES if len(looked) > 1 else (FRAMES // 2,)


def rendering_errors(scenes: list[Scene], index: int, looked: Tensor) -> list[float]:
    """Mean squared error of each scene's rendering to the frames looked at, f 3 H W. The scenes differ in one actor
    alone.
    """
    size = tuple(looked.shape[-2:])
    found = []
    for i in range(0, len(scenes), CHUNK):
        pictures = render_variants(scenes[i : i + CHUNK], index, sampled_times(looked), size)
        found += (pictures - looked).square().flatten(1).mean(1).tolist()
    return found


def centre_actor(scene: Scene, index: int, x: float, y: float, size: float) -> Scene:
    """The scene with one actor at (x, y) in the middle of the clip."""
    actor = scene.actors[index]
    (vx, vy), half = actor.velocity, (FRAMES - 1) / 2
    moved = replace(actor, x=x - vx * half, y=y - vy * half, size=size)
    return replace(scene, actors=(*scene.actors[:index], moved, *scene.actors[index + 1 :]))


def actor_at_midpoint(scene: Scene, index: int) -> tuple[float, float, float]:
    """Where an actor is in the middle of the clip, and its size."""
    actor = scene.actors[index]
    (vx, vy), half = actor.velocity, (FRAMES - 1) / 2
    return actor.x + vx * half, actor.y + vy * half, actor.size


def best_match(scenes: list[Scene], index: int, looked: Tensor) -> tuple[float, Scene]:
    values = rendering_errors(scenes, index, looked)
    lowest = min(range(len(values)), key=values.__getitem__)
    return values[lowest], scenes[lowest]


def locate_actor(scene: Scene, index: int, looked: Tensor) -> Scene:
    """Find where one actor is by trying a grid of places, at half size."""
    looked = functional.avg_pool2d(looked, 2)
    places = [0.12 + 0.76 * i / 11 for i in range(12)]
    tried = [centre_actor(scene, index, x, y, 0.2) for x, y in itertools.product(places, places)]
    return best_match(tried, index, looked)[1]


def nudge_actor(scene: Scene, index: int, looked: Tensor, reach: float) -> tuple[float, Scene]:
    """The best of the places around an actor's own."""
    x, y, size = actor_at_midpoint(scene, index)
    tried = []
    for a, b, c in itertools.product((-1, 0, 1), repeat=3):
        tried.append(centre_actor(scene, index, x + a * reach, y + b * reach, size + c * 0.015))
    return best_match(tried, index, looked)


def refine_actor(scene: Scene, index: int, looked: Tensor) -> tuple[float, Scene]:
    """The last two nudges, which the caption's program and every rival get alike."""
    near = nudge_actor(scene, index, looked, 0.02)[1]
    return nudge_actor(near, index, looked, 0.01)


def fit_scene(scene: Scene, looked: Tensor) -> tuple[float, Scene]:
    """A scene's places and sizes brought to a clip: each actor alone, then again beside the others, then finely."""
    count = len(scene.actors)
    alone = [locate_actor(replace(scene, actors=(a,)), 0, looked).actors[0] for a in scene.actors]
    scene = replace(scene, actors=tuple(alone))
    for i in range(count if count > 1 else 0):
        scene = locate_actor(scene, i, looked)
    for i in range(count):
        scene = nudge_actor(scene, i, looked, 0.035)[1]
    for i in range(count):
        error, scene = refine_actor(scene, i, looked)
    return error, scene


def rivals(scene: Scene, name: str) -> list[tuple[int, Scene]]:
    """Every scene in which one actor has another value of an attribute, with that actor's
    index; it stays where it is.
    """
    found = []
    for i, actor in enumerate(scene.actors):
        for value in ATTRIBUTES[name]:
            if value != getattr(actor, name):
                other = replace(actor, **{name: value})
                actors = (*scene.actors[:i], other, *scene.actors[i + 1 :])
                changed = replace(scene, actors=actors)
                found.append((i, centre_actor(changed, i, *actor_at_midpoint(scene, i))))
    return found


def check_caption(clip: Tensor, scene: Scene) -> dict[str, bool]:
    """Whether a clip shows what a scene's caption says, by nearest re-rendering.

    The caption's own program is brought to the clip first (place and size are not in the caption). An attribute holds
    if no other value of it, in any actor, re-renders closer, with the place free to adjust.
    """
    looked = clip[list(SAMPLED_FRAMES)] if len(clip) > 1 else clip
    own, match = fit_scene(scene, looked)
    holds = {"direction": True} if len(clip) == 1 else {}  # one frame shows no motion
    for name in ATTRIBUTES.keys() - holds:
        nearest = math.inf
        for i, rival in rivals(match, name):
            nearest = min(nearest, refine_actor(rival, i, looked)[0])
            if name == "direction":  # a wrong motion is not found near the best match of another
                nearest = min(nearest, refine_actor(locate_actor(rival, i, looked), i, looked)[0])
        holds[name] = own < nearest
    holds["caption"] = holds["colour"] and holds["shape"] and holds["direction"]
    return holds


def is_object_added(edit: SceneEdit, result: Tensor) -> bool:
    """Whether a clip shows the thing that an edit adds, wherever that is: words do not say the place.

    With it at the place and of the size that fit best, the scene is nearer than without it, and than with it in any
    other shape or colour.
    """
    looked, i = result[list(SAMPLED_FRAMES)], edit.actor
    near = nudge_actor(locate_actor(edit.target, i, looked), i, looked, 0.035)[1]
    own, match = refine_actor(near, i, looked)
    others = [rival for name in ("shape", "colour") for j, rival in rivals(match, name) if j == i]
    nearest = min(refine_actor(rival, i, looked)[0] for rival in others)
    return own < min(nearest, *rendering_errors([edit.source], 0, looked))
