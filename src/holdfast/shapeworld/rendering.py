"""Scenes to pixels, masks and flow: exact, anti-aliased, many scenes at once.

A signed distance gives each shape its outline (anti-aliased over one pixel) and, with its depth, a rounded shading.
Every scene of a call is rendered in the same tensor operations. Shapes: n scenes, f frames, k actors, H x W pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .backdrops import paint
from .scenes import COLOURS, MATERIALS, PANS, SHAPES, Actor, Scene

Size = tuple[int, int]  # height, width
FrameSelection = int | Sequence[int] | None  # how many, or which ones; None: the first scene's own length
SIZE = (64, 64)
WHITE = 0.97
_RGB = {
    "red": (0.86, 0.13, 0.14),
    "orange": (0.95, 0.50, 0.06),
    "yellow": (0.96, 0.82, 0.10),
    "green": (0.13, 0.62, 0.22),
    "cyan": (0.10, 0.74, 0.80),
    "blue": (0.12, 0.26, 0.86),
    "purple": (0.52, 0.16, 0.72),
    "pink": (0.97, 0.45, 0.70),
}


def render(scenes: list[Scene], frames: FrameSelection = None, size: Size = SIZE) -> Tensor:
    """Render scenes: n f 3 H W, float32 in [0, 1]."""
    return render_with_coverage(scenes, frames, size)[0]


def render_with_coverage(scenes: list[Scene], frames: FrameSelection = None, size: Size = SIZE) -> tuple[Tensor, Tensor]:
    """Render, and return each actor's visible share of each pixel too.

    n f 3 H W and n k f H W, both float32 in [0, 1].
    """
    frames = frames or scenes[0].frames
    times = range(frames) if isinstance(frames, int) else frames
    most = max(len(s.actors) for s in scenes)
    with torch.no_grad():
        picture = _backdrops(scenes, times, size)
        visible = torch.zeros(len(scenes), max(most, 1), len(times), *size)
        for k in range(most):
            having = [i for i, s in enumerate(scenes) if len(s.actors) > k]
            at = torch.tensor(having)
            colour, alpha = _draw([scenes[i] for i in having], k, times, size)
            share = alpha[:, :, None]
            picture[at] = picture[at] * (1 - share) + colour * share
            visible[at] *= 1 - alpha[:, None]
            visible[at, k] = alpha
    return picture, visible


def render_variants(scenes: list[Scene], k: int, times: Sequence[int], size: Size = SIZE) -> Tensor:
    """Render scenes that differ in actor k alone, n f 3 H W: the pixels of `render`, with all else drawn once."""
    first = scenes[0]
    below = replace(first, actors=first.actors[:k])
    picture = render_with_coverage([below], times, size)[0]
    layers = [_draw(scenes, k, times, size)]
    for above in range(k + 1, len(first.actors)):
        layers.append(_draw([first], above, times, size))
    with torch.no_grad():
        for colour, alpha in layers:
            share = alpha[:, :, None]
            picture = picture * (1 - share) + colour * share
    return picture


def exact_flow(scene: Scene, frames: int | None = None, size: Size = SIZE) -> Tensor:
    """Exact optical flow from each frame to the next, (f-1) 2 H W, in pixels (x, y), of what is seen at each pixel."""
    frames = frames or scene.frames
    height, width = size
    _, visible = render_with_coverage([scene], frames, size)
    pan = -PANS[scene.pan] * width
    x = torch.full((frames - 1, height, width), pan)
    y = torch.zeros(frames - 1, height, width)
    for k, actor in enumerate(scene.actors):
        vx, vy = actor.velocity
        here = visible[0, k, :-1] >= 0.5
        x[here] = vx * width + pan
        y[here] = vy * height
    return torch.stack((x, y), 1)


def nearest_actor(scene: Scene, times: Sequence[int], size: Size = SIZE) -> Tensor:
    """Which actor's centre is nearest to each pixel, counted in its radii: f H W, indices of the scene's actors."""
    pan = _axis([PANS[scene.pan]])
    places = [_places([actor], pan, times, size) for actor in scene.actors]
    return torch.cat([_length(u, v) for u, v in places]).argmin(0)


def _axis(values: list[float]) -> Tensor:
    """One value a scene, n 1 1 1."""
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)


def _grid(size: Size) -> tuple[Tensor, Tensor]:
    """Pixel centres as fractions of the frame: x as 1 1 1 W, y as 1 1 H 1."""
    height, width = size
    x = (torch.arange(width) + 0.5) / width
    y = (torch.arange(height) + 0.5) / height
    return x.view(1, 1, 1, -1), y.view(1, 1, -1, 1)


def _backdrops(scenes: list[Scene], times: Sequence[int], size: Size) -> Tensor:
    """n f 3 H W."""
    picture = torch.empty(len(scenes), len(times), 3, *size)
    still = {}
    for i, scene in enumerate(scenes):
        if scene.pan:
            for j, t in enumerate(times):
                picture[i, j] = _backdrop(scene.backdrop, PANS[scene.pan] * t, size)
            continue
        if scene.backdrop not in still:
            still[scene.backdrop] = _backdrop(scene.backdrop, 0.0, size)
        picture[i] = still[scene.backdrop]
    return picture


def _backdrop(name: str, turned: float, size: Size) -> Tensor:
    """A backdrop once the camera has turned so far, 3 H W. It is periodic in x, so a pan never runs out of it."""
    x, y = _grid(size)
    return paint(name, (x[0, 0] + turned).expand(size), y[0, 0].expand(size))


def _draw(scenes: list[Scene], k: int, times: Sequence[int], size: Size) -> tuple[Tensor, Tensor]:
    """Colour (n f 3 H W) and coverage (n f H W) of actor k of each scene."""
    actors = [s.actors[k] for s in scenes]
    pan = _axis([PANS[s.pan] for s in scenes])
    side = min(size)
    u, v = _places(actors, pan, times, size)
    distance = _distance(actors, u, v)
    radius = _axis([a.size for a in actors])
    alpha = (0.5 - distance * radius * side).clamp(0, 1)
    return _shade(actors, u, v, distance), alpha


def _places(
    actors: list[Actor], pan: Tensor, times: Sequence[int], size: Size
) -> tuple[Tensor, Tensor]:
    """Each pixel as its actor sees it: from the actor's centre, in radii, n f H W."""
    height, width = size
    side = min(size)
    radius = _axis([a.size for a in actors])
    speed_x = _axis([a.velocity[0] for a in actors]) - pan
    speed_y = _axis([a.velocity[1] for a in actors])
    t = torch.tensor(times, dtype=torch.float32).view(1, -1, 1, 1)
    centre_x = _axis([a.x for a in actors]) + speed_x * t
    centre_y = _axis([a.y for a in actors]) + speed_y * t
    x, y = _grid(size)
    u = _wrapped(x - centre_x, radius * side / width) * width / (side * radius)
    v = _wrapped(y - centre_y, radius * side / height) * height / (side * radius)
    return torch.broadcast_tensors(u, v)


def _wrapped(offset: Tensor, radius: Tensor) -> Tensor:
    """An actor that has left on one side comes in again on the other, once it is out of sight.

    So clips of any length work.
    """
    period = 1 + 2.4 * radius
    return torch.remainder(offset + period / 2, period) - period / 2


def _having(actors: list[Actor], attribute: str, value: str) -> Tensor:
    """Indices of the actors that have this value."""
    found = [i for i, actor in enumerate(actors) if getattr(actor, attribute) == value]
    return torch.tensor(found, dtype=torch.long)


def _distance(actors: list[Actor], u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the outline in radii, negative inside; n f H W."""
    result = torch.empty_like(u)
    for shape, outline in _OUTLINES.items():
        at = _having(actors, "shape", shape)
        result[at] = outline(u[at], v[at])
    return result


def _length(u: Tensor, v: Tensor) -> Tensor:
    return (u * u + v * v).sqrt()


def _ball(u: Tensor, v: Tensor) -> Tensor:
    return _length(u, v) - 0.95


def _box(u: Tensor, v: Tensor) -> Tensor:
    qu = u.abs() - 0.68
    qv = v.abs() - 0.68
    outside = (qu.clamp(min=0) ** 2 + qv.clamp(min=0) ** 2).sqrt()
    inside = torch.maximum(qu, qv).clamp(max=0)
    return outside + inside - 0.14


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return (_length(u, v) - 0.70).abs() - 0.27


def _star(u: Tensor, v: Tensor) -> Tensor:
    """Five points: fold the plane into half a point, then the distance to that point's one edge."""
    sector = 2 * math.pi / 5
    angle = torch.remainder(torch.atan2(u, -v) + sector / 2, sector) - sector / 2
    r = _length(u, v)
    px = r * angle.cos()
    py = r * angle.sin().abs()
    tip, notch = 1.18, 0.52
    edge_x = notch * math.cos(sector / 2) - tip  # from the tip to the notch
    edge_y = notch * math.sin(sector / 2)
    length = math.hypot(edge_x, edge_y)
    across = (px - tip) * -edge_y + py * edge_x
    return across / -length - 0.04


_OUTLINES = {"ball": _ball, "box": _box, "star": _star, "ring": _ring}
assert set(_OUTLINES) == set(SHAPES)


def _shade(actors: list[Actor], u: Tensor, v: Tensor, distance: Tensor) -> Tensor:
    """Colour of each pixel of an actor, n f 3 H W: pattern, rounded shading from the upper left, a soft highlight."""
    base = torch.tensor([_RGB[a.colour] for a in actors]).view(-1, 1, 3, 1, 1)
    pattern = _pattern(actors, u, v)[:, :, None]
    depth = (-distance / 0.45).clamp(0, 1)
    rounding = 0.26 * (1 - (1 - depth) ** 2)
    slant = 0.16 * (u + 1.2 * v) * (1 - 0.4 * depth)
    light = 0.74 + rounding - slant
    from_spot = (u + 0.36) ** 2 + (v + 0.42) ** 2
    highlight = 0.42 * torch.exp(-from_spot / 0.07) * depth
    colour = (base + (WHITE - base) * pattern) * light[:, :, None]
    return (colour + (1 - colour) * highlight[:, :, None]).clamp(0, 1)


def _pattern(actors: list[Actor], u: Tensor, v: Tensor) -> Tensor:
    """0 where a pixel has the actor's colour, 1 where it is white, n f H W."""
    pattern = torch.zeros_like(u)
    for material, painted in _PATTERNS.items():
        at = _having(actors, "material", material)
        pattern[at] = painted(u[at], v[at])
    return pattern


def _stripes(u: Tensor, v: Tensor) -> Tensor:
    wave = torch.sin(2 * math.pi * (u + v) / 1.05 + 0.4)
    return torch.sigmoid(wave * 5.0)


def _spots(u: Tensor, v: Tensor) -> Tensor:
    period = 0.74
    du = torch.remainder(u + period / 2, period) - period / 2
    dv = torch.remainder(v + period / 2, period) - period / 2
    return torch.sigmoid((0.24 - _length(du, dv)) * 22.0)


_PATTERNS = {"striped": _stripes, "spotted": _spots}
assert {"plain", *_PATTERNS} == set(MATERIALS)
assert set(_RGB) == set(COLOURS)
