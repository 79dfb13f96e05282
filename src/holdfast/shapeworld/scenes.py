"""Scenes as small programs: what is in them, what they are called, and every single edit of them.

A scene is a backdrop, an optional camera pan and one to three actors, each with a shape, a colour, a material, a size and
a motion. Positions and sizes are fractions of the frame, motions are fractions of the frame per video frame, so that one
scene renders at any size and any length. The caption names all of it that an edit can change.
"""

import random
from dataclasses import dataclass, replace

SHAPES = ("ball", "box", "star", "ring")
MATERIALS = ("plain", "striped", "spotted")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
BACKDROPS = ("meadow", "desert", "lake", "glacier", "city", "galaxy")
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}
SPEEDS = {"moves": 0.03, "races": 0.06}  # fraction of the frame per video frame
PANS = {"": 0.0, "left": -0.015, "right": 0.015}  # how far the camera turns per video frame
KINDS = ("colour", "shape", "material", "backdrop", "add", "remove")
SETS = ("single", "several", "crossing", "fast", "long")
FRAMES = 13  # a scene's usual length; the set "long" goes up to four times that
HELD_OUT = 1_000_000  # seeds below this one are never trained on

# Each set's (weights of 1, 2 and 3 actors, verb or None for either, clip lengths).
_SETS = {
    "single": ((1, 0, 0), "moves", (FRAMES,)),
    "several": ((0, 3, 1), "moves", (FRAMES,)),
    "crossing": ((0, 1, 0), "moves", (FRAMES,)),
    "fast": ((1, 0, 0), "races", (FRAMES,)),
    "long": ((2, 1, 0), "moves", (25, 37, 49)),
    "train": ((11, 9, 0), None, (FRAMES,)),
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
        return dx * SPEEDS[self.verb], dy * SPEEDS[self.verb]

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
class Edit:
    """One change of a scene's program. `actor` is the index of the actor it concerns, None for the backdrop.

    seed: where an added actor was drawn from; it is placed alike in every rival of the same seed.
    """

    kind: str
    source: Scene
    target: Scene
    actor: int | None
    seed: int = 0


def _placed(rng: random.Random, actor: dict, frames: int) -> Actor:
    """Choose a start so that the actor's path over `frames` frames (at most 13) stays centred inside the frame."""
    dx, dy = DIRECTIONS[actor["direction"]]
    travel = SPEEDS[actor["verb"]] * (min(frames, FRAMES) - 1)
    spread = max(0.0, 1 - travel - 1.5 * actor["size"])  # how much room the path leaves
    along = (1 - travel) / 2 + (rng.random() - 0.5) * spread
    across = 0.22 + 0.56 * rng.random()
    x = (along if dx > 0 else 1 - along) if dx else across
    y = (along if dy > 0 else 1 - along) if dy else across
    return Actor(**actor, x=round(x, 4), y=round(y, 4))


def _gap(a: Actor, b: Actor, frames: int) -> float:
    """The smallest distance of two actors' outlines over the clip, as a fraction of the frame (negative: they overlap)."""
    (avx, avy), (bvx, bvy) = a.velocity, b.velocity
    path = (((a.x - b.x + (avx - bvx) * t) ** 2 + (a.y - b.y + (avy - bvy) * t) ** 2) ** 0.5 for t in range(frames))
    return min(path) - a.size - b.size


def _actor(rng: random.Random, verb: str | None, frames: int, used: set[str]) -> Actor:
    fields = {
        "shape": rng.choice(SHAPES),
        "colour": rng.choice([c for c in COLOURS if c not in used]),
        "material": rng.choice(MATERIALS),
        "verb": verb or rng.choices(list(SPEEDS), (4, 1))[0],
        "direction": rng.choice(list(DIRECTIONS)),
        "size": round(0.17 + 0.06 * rng.random(), 4),
    }
    return _placed(rng, fields, frames)


def _fits(actors: list[Actor], new: Actor, name: str, frames: int) -> bool:
    gaps = [_gap(a, new, min(frames, FRAMES)) for a in actors]
    if name == "crossing":
        return all(-0.3 < g < -0.1 for g in gaps) and all(a.direction != new.direction for a in actors)
    return all(g > -0.06 for g in gaps)


def sample(seed: int, name: str = "single") -> Scene:
    """Draw the scene of a seed from a named set (`SETS`, or "train": one or two actors, any speed, sometimes a pan)."""
    if name not in _SETS:
        raise ValueError(f"no set of scenes is called {name!r}; there are: {', '.join(SETS)}")
    weights, verb, lengths = _SETS[name]
    rng = random.Random(f"{name}/{seed}")
    frames = rng.choice(lengths)
    count = rng.choices((1, 2, 3), weights)[0]
    actors: list[Actor] = []
    while len(actors) < count:
        for _ in range(200):
            new = _actor(rng, verb, frames, {a.colour for a in actors})
            if _fits(actors, new, name, frames):
                actors.append(new)
                break
        else:
            actors = []  # a first actor that leaves no room: start over
    pan = rng.choice(("left", "right")) if name == "train" and rng.random() < 0.1 else ""
    return Scene(rng.choice(BACKDROPS), tuple(actors), pan, frames)


def _with_actor(scene: Scene, index: int, actor: Actor | None) -> Scene:
    actors = list(scene.actors)
    actors[index : index + 1] = [actor] if actor else []
    return replace(scene, actors=tuple(actors))


_CHOICES = {"colour": COLOURS, "shape": SHAPES, "material": MATERIALS}


def edits(scene: Scene, kind: str, seed: int = 0) -> list[Edit]:
    """All single edits of a kind that a scene allows, in a fixed order.

    `add` places a new actor of a free colour where there is room, drawn from `seed`, in every shape and colour;
    `remove` needs two actors or more, so it is empty for a scene of one.
    """
    if kind not in KINDS:
        raise ValueError(f"no edit is of the kind {kind!r}; there are: {', '.join(KINDS)}")
    used = {a.colour for a in scene.actors}
    if kind == "backdrop":
        others = [b for b in BACKDROPS if b != scene.backdrop]
        return [Edit(kind, scene, replace(scene, backdrop=b), None) for b in others]
    if kind == "remove":
        count = len(scene.actors)
        return [Edit(kind, scene, _with_actor(scene, i, None), i) for i in range(count) if count > 1]
    if kind == "add":
        return _additions(scene, seed)
    found = []
    for i, actor in enumerate(scene.actors):
        for value in _CHOICES[kind]:
            if value == getattr(actor, kind) or (kind == "colour" and value in used):
                continue
            found.append(Edit(kind, scene, _with_actor(scene, i, replace(actor, **{kind: value})), i))
    return found


def _additions(scene: Scene, seed: int) -> list[Edit]:
    rng = random.Random(f"add/{seed}")
    used = {a.colour for a in scene.actors}
    for _ in range(200):
        new = _actor(rng, "moves", scene.frames, used)
        if _fits(list(scene.actors), new, "several", scene.frames):
            break
    else:
        return []  # no room
    index = len(scene.actors)
    news = [replace(new, shape=s, colour=c) for s in SHAPES for c in COLOURS if c not in used]
    return [Edit("add", scene, replace(scene, actors=(*scene.actors, n)), index, seed) for n in news]


def sample_edit(seed: int, kind: str, name: str = "single") -> Edit:
    """Draw one edit of a kind on the scene of a seed. A `remove` draws from scenes that have an actor to spare."""
    if kind == "remove" and name in ("single", "fast"):
        name = "several"
    found = edits(sample(seed, name), kind, seed)
    if not found:
        raise ValueError(f"scene {seed} of the set {name!r} has no room to add an actor; take another number")
    return random.Random(f"{kind}/{seed}").choice(found)
