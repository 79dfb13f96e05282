"""Draw scenes, which are small programs, and list every single edit of them.

A scene is a backdrop, an optional camera pan and one to three actors, each with a shape, a colour, a material, a size
and a motion. Positions and sizes are fractions of the frame, motions are fractions of the frame per video frame, so
that one scene renders at any size and any length. The caption names everything that an edit can change.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..base.errors import UserError

SHAPES = ("ball", "box", "star", "ring")
MATERIALS = ("plain", "striped", "spotted")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
BACKDROPS = ("meadow", "desert", "lake", "glacier", "city", "galaxy")
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}
SPEEDS = {"moves": 0.03, "races": 0.06}  # fraction of the frame per video frame
PANS = {
    "": 0.0,
    "left": -0.015,
    "right": 0.015,
}  # camera motion: fraction of the frame per video frame
EDIT_KINDS = ("colour", "shape", "material", "backdrop", "add", "remove")
SCENE_SETS = ("single", "several", "crossing", "fast", "long")
RATE = 8  # frames per second
FRAMES = 13  # a scene's usual length; the set "long" goes up to four times that
_MARGIN = 0.22  # distance of a path from the sides of the frame that it runs along
FIRST_TRAINING_SEED = 1_000_000  # no smaller seed is ever trained on
FIRST_TUNING_SEED = (
    500_000  # smaller seeds are only for reported results, not for choosing settings
)


@dataclass(frozen=True)
class _SceneSet:
    """What the scenes of a set are drawn from."""

    weights: tuple[int, int, int]  # of one, two and three actors
    verb: str | None = "moves"  # None: either of them
    lengths: tuple[int, ...] = (FRAMES,)


_SETS = {
    "single": _SceneSet((1, 0, 0)),
    "several": _SceneSet((0, 3, 1)),
    "crossing": _SceneSet((0, 1, 0)),
    "fast": _SceneSet((1, 0, 0), "races"),
    "long": _SceneSet((2, 1, 0), lengths=(25, 37, 49)),
    "train": _SceneSet((11, 9, 0), None),
}


@dataclass(frozen=True)
class Actor:
    """A shape that moves in a straight line at constant speed."""

    shape: str
    colour: str
    material: str
    verb: str  # moves | races
    direction: str
    size: float  # radius, as a fraction of the frame's shorter side
    x: float  # centre at frame 0, as a fraction of the frame
    y: float

    @property
    def velocity(self) -> tuple[float, float]:
        """The motion (x, y) per video frame, in fractions of the frame."""
        dx, dy = DIRECTIONS[self.direction]
        speed = SPEEDS[self.verb]
        return dx * speed, dy * speed

    def caption(self) -> str:
        """Return the actor's part of the caption."""
        return f"a {self.material} {self.colour} {self.shape} {self.verb} {self.direction}"


@dataclass(frozen=True)
class Scene:
    """The program of a clip."""

    backdrop: str
    actors: tuple[Actor, ...]  # drawn in this order: later ones pass in front
    pan: str = ""
    frames: int = FRAMES

    def caption(self) -> str:
        """Return the prompt that describes the scene."""
        text = " and ".join(a.caption() for a in self.actors) or "nothing"
        text += f" over a {self.backdrop}"
        return text + (f" while the camera pans {self.pan}" if self.pan else "")


@dataclass(frozen=True)
class SceneEdit:
    """One change of a scene's program. `actor` is the index of the edited actor, None for the backdrop.

    seed: that an added actor was drawn from. It has the same position in every other edit of this seed.
    """

    kind: str
    source: Scene
    target: Scene
    actor: int | None
    seed: int = 0


def _path(verb: str, size: float, frames: int) -> tuple[float, float]:
    """Return how far an actor moves, and how much its start may vary, as fractions of the frame."""
    travel = SPEEDS[verb] * (min(frames, FRAMES) - 1)
    return travel, max(0.0, 1 - travel - 1.5 * size)


def _place_actor(rng: random.Random, actor: dict[str, Any], frames: int) -> Actor:
    """Choose a start so that the actor's path over `frames` frames (at most 13) stays inside the frame."""
    dx, dy = DIRECTIONS[actor["direction"]]
    travel, spread = _path(actor["verb"], actor["size"], frames)
    along = (1 - travel) / 2 + (rng.random() - 0.5) * spread
    across = _MARGIN + (1 - 2 * _MARGIN) * rng.random()
    start = along if dx + dy > 0 else 1 - along
    x, y = (start, across) if dx else (across, start)
    return Actor(**actor, x=round(x, 4), y=round(y, 4))


def possible_directions(actor: Actor) -> list[str]:
    """Return the directions, all equally likely, that a scene of one actor with this start may have."""
    travel, spread = _path(actor.verb, actor.size, FRAMES)
    directions = []
    for direction, (dx, dy) in DIRECTIONS.items():
        along, across = (actor.x, actor.y) if dx else (actor.y, actor.x)
        start = along if dx + dy > 0 else 1 - along
        excess = abs(start - (1 - travel) / 2) - spread / 2, abs(across - 0.5) - (0.5 - _MARGIN)
        if max(excess) < 1e-4:  # positions are rounded
            directions.append(direction)
    return directions


def _smallest_gap(a: Actor, b: Actor, frames: int) -> float:
    """Return the smallest distance between two actors' outlines over the clip, as a fraction of the frame.

    It is negative if they overlap.
    """
    ax, ay = a.velocity
    bx, by = b.velocity
    nearest = math.inf
    for t in range(frames):
        across = a.x - b.x + (ax - bx) * t
        down = a.y - b.y + (ay - by) * t
        nearest = min(nearest, (across**2 + down**2) ** 0.5)
    return nearest - a.size - b.size


def _draw_actor(rng: random.Random, verb: str | None, frames: int, used: set[str]) -> Actor:
    looks = {
        "shape": rng.choice(SHAPES),
        "colour": rng.choice([c for c in COLOURS if c not in used]),
        "material": rng.choice(MATERIALS),
        "verb": verb or rng.choices(list(SPEEDS), (4, 1))[0],
        "direction": rng.choice(list(DIRECTIONS)),
        "size": round(0.17 + 0.06 * rng.random(), 4),
    }
    return _place_actor(rng, looks, frames)


def _leaves_room(actors: Sequence[Actor], new: Actor, name: str, frames: int) -> bool:
    gaps = [_smallest_gap(a, new, min(frames, FRAMES)) for a in actors]
    if name != "crossing":
        return all(gap > -0.06 for gap in gaps)
    is_parallel = any(a.direction == new.direction for a in actors)
    return not is_parallel and all(-0.3 < gap < -0.1 for gap in gaps)


def sample_scene(seed: int, name: str = "single") -> Scene:
    """Draw the scene of a seed from a named set.

    name: one of SCENE_SETS, or "train": one or two actors at any speed, sometimes with a pan.
    Raise UserError if there is no such set.
    """
    if name not in _SETS:
        raise UserError(f"unknown set of scenes {name!r}", f"choose from {', '.join(SCENE_SETS)}")
    scene_set = _SETS[name]
    rng = random.Random(f"{name}/{seed}")
    frames = rng.choice(scene_set.lengths)
    count = rng.choices((1, 2, 3), scene_set.weights)[0]
    actors: list[Actor] = []
    while len(actors) < count:
        new = _draw_fitting_actor(rng, scene_set.verb, actors, name, frames)
        # Start over if the first actors leave no room.
        actors = [*actors, new] if new else []
    pan = ""
    if name == "train" and rng.random() < 0.1:
        pan = rng.choice(("left", "right"))
    return Scene(rng.choice(BACKDROPS), tuple(actors), pan, frames)


def _draw_fitting_actor(
    rng: random.Random, verb: str | None, actors: Sequence[Actor], name: str, frames: int
) -> Actor | None:
    """Draw another actor of a colour that is not used yet; return None if no position is found."""
    used = {a.colour for a in actors}
    for _ in range(200):
        new = _draw_actor(rng, verb, frames, used)
        if _leaves_room(actors, new, name, frames):
            return new
    return None


def _replace_actor(scene: Scene, index: int, actor: Actor | None) -> Scene:
    """Replace one actor, or remove it if `actor` is None. An index past the last actor adds one."""
    before, after = scene.actors[:index], scene.actors[index + 1 :]
    between = (actor,) if actor else ()
    return replace(scene, actors=before + between + after)


_CHOICES = {"colour": COLOURS, "shape": SHAPES, "material": MATERIALS}


def list_edits(scene: Scene, kind: str, seed: int = 0) -> list[SceneEdit]:
    """Return all single edits of a kind that a scene allows, in a fixed order.

    "add" draws a position for a new actor from `seed`, and lists it in every shape and unused colour. "remove" needs
    two actors or more, and lists nothing for a scene of one. Raise UserError if there is no such kind.
    """
    if kind not in EDIT_KINDS:
        raise UserError(f"unknown kind of edit {kind!r}", f"choose from {', '.join(EDIT_KINDS)}")
    if kind == "backdrop":
        others = [b for b in BACKDROPS if b != scene.backdrop]
        return [SceneEdit(kind, scene, replace(scene, backdrop=b), None) for b in others]
    if kind == "remove":
        return _removals(scene)
    if kind == "add":
        return _additions(scene, seed)
    return _changes(scene, kind)


def _removals(scene: Scene) -> list[SceneEdit]:
    count = len(scene.actors)
    if count < 2:
        return []
    return [SceneEdit("remove", scene, _replace_actor(scene, i, None), i) for i in range(count)]


def _changes(scene: Scene, kind: str) -> list[SceneEdit]:
    """Return an edit for every other value of each actor's attribute, without colours that another actor has."""
    used = {a.colour for a in scene.actors}
    changes = []
    for i, actor in enumerate(scene.actors):
        for value in _CHOICES[kind]:
            if value == getattr(actor, kind) or (kind == "colour" and value in used):
                continue
            changed = replace(actor, **{kind: value})
            changes.append(SceneEdit(kind, scene, _replace_actor(scene, i, changed), i))
    return changes


def _additions(scene: Scene, seed: int) -> list[SceneEdit]:
    rng = random.Random(f"add/{seed}")
    first = _draw_fitting_actor(rng, "moves", scene.actors, "several", scene.frames)
    if first is None:
        return []
    used = {a.colour for a in scene.actors}
    index = len(scene.actors)
    additions = []
    for shape in SHAPES:
        for colour in COLOURS:
            if colour not in used:
                new = replace(first, shape=shape, colour=colour)
                target = _replace_actor(scene, index, new)
                additions.append(SceneEdit("add", scene, target, index, seed))
    return additions


def sample_edit(seed: int, kind: str, name: str = "single") -> SceneEdit:
    """Draw one edit of a kind on the scene of a seed. "remove" uses scenes of several actors.

    Raise UserError if the scene has no room for another actor.
    """
    if kind == "remove" and name in ("single", "fast"):
        name = "several"
    edits = list_edits(sample_scene(seed, name), kind, seed)
    if not edits:
        raise UserError(
            f"scene {seed} of the set {name!r} has no room for another actor", "use another seed"
        )
    return random.Random(f"{kind}/{seed}").choice(edits)
