"""Scenes as small programs: what is in them, what they are called, and every single edit of them.

A scene is a backdrop, an optional camera pan and one to three actors, each with a shape, a colour, a material, a size
and a motion. Positions and sizes are fractions of the frame, motions are fractions of the frame per video frame, so
that one scene renders at any size and any length. The caption names all of it that an edit can change.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..base.errors import UserError

SHAPES = ("ball", "box", "star", "ring")
MATERIALS = ("plain", "striped", "spotted")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
BACKDROPS = ("meadow", "desert", "lake", "glacier", "city", "galaxy")
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}
SPEEDS = {"moves": 0.03, "races": 0.06}  # fraction of the frame per video frame
PANS = {"": 0.0, "left": -0.015, "right": 0.015}  # how far the camera turns per video frame
EDIT_KINDS = ("colour", "shape", "material", "backdrop", "add", "remove")
SCENE_SETS = ("single", "several", "crossing", "fast", "long")
RATE = 8  # frames per second
FRAMES = 13  # a scene's usual length; the set "long" goes up to four times that
_EDGE = 0.22  # how far a path keeps from the frame's sides along it
FIRST_TRAINING_SEED = 1_000_000  # seeds below this one are never trained on


@dataclass(frozen=True)
class _Set:
    """What scenes are drawn from."""

    weights: tuple[int, int, int]  # of one, two and three actors
    verb: str | None = "moves"  # None: either
    lengths: tuple[int, ...] = (FRAMES,)


_SETS = {
    "single": _Set((1, 0, 0)),
    "several": _Set((0, 3, 1)),
    "crossing": _Set((0, 1, 0)),
    "fast": _Set((1, 0, 0), "races"),
    "long": _Set((2, 1, 0), lengths=(25, 37, 49)),
    "train": _Set((11, 9, 0), None),
}


@dataclass(frozen=True)
class Actor:
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
        dx, dy = DIRECTIONS[self.direction]
        speed = SPEEDS[self.verb]
        return dx * speed, dy * speed

    def caption(self) -> str:
        return f"a {self.material} {self.colour} {self.shape} {self.verb} {self.direction}"


@dataclass(frozen=True)
class Scene:
    backdrop: str
    actors: tuple[Actor, ...]  # drawn in this order: a later one passes in front
    pan: str = ""
    frames: int = FRAMES

    def caption(self) -> str:
        text = " and ".join(a.caption() for a in self.actors) or "nothing"
        text += f" over a {self.backdrop}"
        return text + (f" while the camera pans {self.pan}" if self.pan else "")


@dataclass(frozen=True)
class SceneEdit:
    """One change of a scene's program. `actor` is the index of the actor it concerns, None for the backdrop.

    seed: where an added actor was drawn from; it is placed alike in every rival of the same seed.
    """

    kind: str
    source: Scene
    target: Scene
    actor: int | None
    seed: int = 0


def _path(verb: str, size: float, frames: int) -> tuple[float, float]:
    """How far an actor goes, and how much room that leaves."""
    travel = SPEEDS[verb] * (min(frames, FRAMES) - 1)
    return travel, max(0.0, 1 - travel - 1.5 * size)


def _placed(rng: random.Random, actor: dict, frames: int) -> Actor:
    """Choose a start so that the actor's path over `frames` frames (at most 13) stays centred inside the frame."""
    dx, dy = DIRECTIONS[actor["direction"]]
    travel, spread = _path(actor["verb"], actor["size"], frames)
    along = (1 - travel) / 2 + (rng.random() - 0.5) * spread
    across = _EDGE + (1 - 2 * _EDGE) * rng.random()
    start = along if dx + dy > 0 else 1 - along
    x, y = (start, across) if dx else (across, start)
    return Actor(**actor, x=round(x, 4), y=round(y, 4))


def possible_directions(actor: Actor) -> list[str]:
    """The directions that a lone actor who begins where this one does may have been given; each is as likely."""
    travel, spread = _path(actor.verb, actor.size, FRAMES)
    found = []
    for direction, (dx, dy) in DIRECTIONS.items():
        along, across = (actor.x, actor.y) if dx else (actor.y, actor.x)
        start = along if dx + dy > 0 else 1 - along
        off = abs(start - (1 - travel) / 2) - spread / 2, abs(across - 0.5) - (0.5 - _EDGE)
        if max(off) < 1e-4:  # places are rounded
            found.append(direction)
    return found


def _gap(a: Actor, b: Actor, frames: int) -> float:
    """The smallest distance of two actors' outlines over the clip, as a fraction of the frame.

    Negative: they overlap.
    """
    ax, ay = a.velocity
    bx, by = b.velocity
    nearest = math.inf
    for t in range(frames):
        across = a.x - b.x + (ax - bx) * t
        down = a.y - b.y + (ay - by) * t
        nearest = min(nearest, (across**2 + down**2) ** 0.5)
    return nearest - a.size - b.size


def _actor(rng: random.Random, verb: str | None, frames: int, used: set[str]) -> Actor:
    looks = {
        "shape": rng.choice(SHAPES),
        "colour": rng.choice([c for c in COLOURS if c not in used]),
        "material": rng.choice(MATERIALS),
        "verb": verb or rng.choices(list(SPEEDS), (4, 1))[0],
        "direction": rng.choice(list(DIRECTIONS)),
        "size": round(0.17 + 0.06 * rng.random(), 4),
    }
    return _placed(rng, looks, frames)


def _fits(actors: Sequence[Actor], new: Actor, name: str, frames: int) -> bool:
    gaps = [_gap(a, new, min(frames, FRAMES)) for a in actors]
    if name != "crossing":
        return all(gap > -0.06 for gap in gaps)
    alike = any(a.direction == new.direction for a in actors)
    return not alike and all(-0.3 < gap < -0.1 for gap in gaps)


def sample_scene(seed: int, name: str = "single") -> Scene:
    """Draw the scene of a seed from a named set (`SETS`, or "train": one or two actors, any speed, sometimes a pan)."""
    if name not in _SETS:
        raise UserError(f"no set of scenes is called {name!r}; there are: {', '.join(SCENE_SETS)}")
    drawn = _SETS[name]
    rng = random.Random(f"{name}/{seed}")
    frames = rng.choice(drawn.lengths)
    count = rng.choices((1, 2, 3), drawn.weights)[0]
    actors: list[Actor] = []
    while len(actors) < count:
        new = _fitting(rng, drawn.verb, actors, name, frames)
        # A first actor that leaves no room: start over.
        actors = [*actors, new] if new else []
    pan = ""
    if name == "train" and rng.random() < 0.1:
        pan = rng.choice(("left", "right"))
    return Scene(rng.choice(BACKDROPS), tuple(actors), pan, frames)


def _fitting(
    rng: random.Random, verb: str | None, actors: Sequence[Actor], name: str, frames: int
) -> Actor | None:
    """A further actor of a free colour; None where no place for one is found."""
    used = {a.colour for a in actors}
    for _ in range(200):
        new = _actor(rng, verb, frames, used)
        if _fits(actors, new, name, frames):
            return new
    return None


def _with_actor(scene: Scene, index: int, actor: Actor | None) -> Scene:
    before, after = scene.actors[:index], scene.actors[index + 1 :]
    between = (actor,) if actor else ()
    return replace(scene, actors=before + between + after)


_CHOICES = {"colour": COLOURS, "shape": SHAPES, "material": MATERIALS}


def list_edits(scene: Scene, kind: str, seed: int = 0) -> list[SceneEdit]:
    """All single edits of a kind that a scene allows, in a fixed order.

    `add` places a new actor of a free colour where there is room, drawn from `seed`, in every shape and colour;
    `remove` needs two actors or more, so it is empty for a scene of one.
    """
    if kind not in EDIT_KINDS:
        raise UserError(f"no edit is of the kind {kind!r}; there are: {', '.join(EDIT_KINDS)}")
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
    return [SceneEdit("remove", scene, _with_actor(scene, i, None), i) for i in range(count)]


def _changes(scene: Scene, kind: str) -> list[SceneEdit]:
    """Every other value of an actor's colour, shape or material; a colour that another actor has is none of them."""
    used = {a.colour for a in scene.actors}
    found = []
    for i, actor in enumerate(scene.actors):
        for value in _CHOICES[kind]:
            if value == getattr(actor, kind) or (kind == "colour" and value in used):
                continue
            changed = replace(actor, **{kind: value})
            found.append(SceneEdit(kind, scene, _with_actor(scene, i, changed), i))
    return found


def _additions(scene: Scene, seed: int) -> list[SceneEdit]:
    rng = random.Random(f"add/{seed}")
    first = _fitting(rng, "moves", scene.actors, "several", scene.frames)
    if first is None:
        return []
    used = {a.colour for a in scene.actors}
    index = len(scene.actors)
    found = []
    for shape in SHAPES:
        for colour in COLOURS:
            if colour not in used:
                new = replace(first, shape=shape, colour=colour)
                found.append(SceneEdit("add", scene, _with_actor(scene, index, new), index, seed))
    return found


def sample_edit(seed: int, kind: str, name: str = "single") -> SceneEdit:
    """Draw one edit of a kind on the scene of a seed. A `remove` draws from scenes that have an actor to spare."""
    if kind == "remove" and name in ("single", "fast"):
        name = "several"
    found = list_edits(sample_scene(seed, name), kind, seed)
    if not found:
        raise UserError(
            f"scene {seed} of the set {name!r} has no room to add an actor; take another number"
        )
    return random.Random(f"{kind}/{seed}").choice(found)
