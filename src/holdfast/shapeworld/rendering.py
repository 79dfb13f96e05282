"""Render scenes to pixels, masks and exact flow, anti-aliased, many scenes at once.

A signed distance gives each shape its outline (anti-aliased over one pixel) and, by its depth, a rounded shading.
All scenes of a call are rendered in the same tensor operations. Shapes: n scenes, f frames, k actors, H x W pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .backdrops import paint
from .scenes import COLOURS, MATERIALS, PANS, SHAPES, Actor, Scene

Size = tuple[int, int]  # height, width
# A number of frames, or their numbers; None: as many as the first scene has.
FrameSelection = int | Sequence[int] | None
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
    """Return the frames of scenes, n f 3 H W, float32 in [0, 1]."""
    return render_with_coverage(scenes, frames, size)[0]


def render_with_coverage(
    scenes: list[Scene], frames: FrameSelection = None, size: Size = SIZE
) -> tuple[Tensor, Tensor]:
    """Return the frames, n f 3 H W, and each actor's visible share of each pixel, n k f H W, both in [0, 1]."""
    frames = frames or scenes[0].frames
    times = range(frames) if isinstance(frames, int) else frames
    max_actors = max(len(s.actors) for s in scenes)
    with torch.no_grad():
        picture = _draw_backdrops(scenes, times, size)
        visible = torch.zeros(len(scenes), max(max_actors, 1), len(times), *size)
        for k in range(max_actors):
            indices = [i for i, s in enumerate(scenes) if len(s.actors) > k]
            rows = torch.tensor(indices)
            colour, alpha = _draw_actors([scenes[i] for i in indices], k, times, size)
            share = alpha[:, :, None]
            picture[rows] = picture[rows] * (1 - share) + colour * share
            visible[rows] *= 1 - alpha[:, None]
            visible[rows, k] = alpha
    return picture, visible


def render_variants(scenes: list[Scene], k: int, times: Sequence[int], size: Size = SIZE) -> Tensor:
    """Return the frames of scenes that differ only in actor k, n f 3 H W.

    The pixels equal those of `render`; what the scenes share is drawn once.
    """
    first = scenes[0]
    below = replace(first, actors=first.actors[:k])
    picture = render_with_coverage([below], times, size)[0]
    layers = [_draw_actors(scenes, k, times, size)]
    for above in range(k + 1, len(first.actors)):
        layers.append(_draw_actors([first], above, times, size))
    with torch.no_grad():
        for colour, alpha in layers:
            share = alpha[:, :, None]
            picture = picture * (1 - share) + colour * share
    return picture


def exact_flow(scene: Scene, frames: int | None = None, size: Size = SIZE) -> Tensor:
    """Return the exact optical flow from each frame to the next, (f-1) 2 H W, in pixels (x, y).

    A pixel's flow is that of the actor with at least half of it, or else of the backdrop.
    """
    frames = frames or scene.frames
    height, width = size
    _, visible = render_with_coverage([scene], frames, size)
    pan = -PANS[scene.pan] * width
    x = torch.full((frames - 1, height, width), pan)
    y = torch.zeros(frames - 1, height, width)
    for k, actor in enumerate(scene.actors):
        vx, vy = actor.velocity
        is_actor = visible[0, k, :-1] >= 0.5
        x[is_actor] = vx * width + pan
        y[is_actor] = vy * height
    return torch.stack((x, y), 1)


def nearest_actor(scene: Scene, times: Sequence[int], size: Size = SIZE) -> Tensor:
    """Return the index of the actor whose centre is nearest to each pixel, in units of its radius: f H W."""
    pan = _per_scene([PANS[scene.pan]])
    coordinates = [_actor_coordinates([actor], pan, times, size) for actor in scene.actors]
    return torch.cat([_length(u, v) for u, v in coordinates]).argmin(0)


def _per_scene(values: list[float]) -> Tensor:
    """Return one value per scene, n 1 1 1."""
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)


def _pixel_centres(size: Size) -> tuple[Tensor, Tensor]:
    """Return pixel centres as fractions of the frame: x as 1 1 1 W, y as 1 1 H 1."""
    height, width = size
    x = (torch.arange(width) + 0.5) / width
    y = (torch.arange(height) + 0.5) / height
    return x.view(1, 1, 1, -1), y.view(1, 1, -1, 1)


def _draw_backdrops(scenes: list[Scene], times: Sequence[int], size: Size) -> Tensor:
    """Return the backdrops of scenes, n f 3 H W."""
    picture = torch.empty(len(scenes), len(times), 3, *size)
    static = {}
    for i, scene in enumerate(scenes):
        if scene.pan:
            for j, t in enumerate(times):
                picture[i, j] = _draw_backdrop(scene.backdrop, PANS[scene.pan] * t, size)
            continue
        if scene.backdrop not in static:
            static[scene.backdrop] = _draw_backdrop(scene.backdrop, 0.0, size)
        picture[i] = static[scene.backdrop]
    return picture


def _draw_backdrop(name: str, offset: float, size: Size) -> Tensor:
    """Return a backdrop after the camera has panned by `offset`, 3 H W. It is periodic in x, so a pan never ends."""
    x, y = _pixel_centres(size)
    return paint(name, (x[0, 0] + offset).expand(size), y[0, 0].expand(size))


def _draw_actors(
    scenes: list[Scene], k: int, times: Sequence[int], size: Size
) -> tuple[Tensor, Tensor]:
    """Return the colour (n f 3 H W) and coverage (n f H W) of actor k of each scene."""
    actors = [s.actors[k] for s in scenes]
    pan = _per_scene([PANS[s.pan] for s in scenes])
    side = min(size)
    u, v = _actor_coordinates(actors, pan, times, size)
    distance = _distance(actors, u, v)
    radius = _per_scene([a.size for a in actors])
    alpha = (0.5 - distance * radius * side).clamp(0, 1)
    return _shade(actors, u, v, distance), alpha


def _actor_coordinates(
    actors: list[Actor], pan: Tensor, times: Sequence[int], size: Size
) -> tuple[Tensor, Tensor]:
    """Return each pixel's offset (u, v) from the actor's centre, in radii, n f H W."""
    height, width = size
    side = min(size)
    radius = _per_scene([a.size for a in actors])
    speed_x = _per_scene([a.velocity[0] for a in actors]) - pan
    speed_y = _per_scene([a.velocity[1] for a in actors])
    t = torch.tensor(times, dtype=torch.float32).view(1, -1, 1, 1)
    centre_x = _per_scene([a.x for a in actors]) + speed_x * t
    centre_y = _per_scene([a.y for a in actors]) + speed_y * t
    x, y = _pixel_centres(size)
    u = _wrap(x - centre_x, radius * side / width) * width / (side * radius)
    v = _wrap(y - centre_y, radius * side / height) * height / (side * radius)
    return torch.broadcast_tensors(u, v)


def _wrap(offset: Tensor, radius: Tensor) -> Tensor:
    """Let an actor that has left on one side enter on the other, once it is out of sight.

    This makes clips of any length possible.
    """
    period = 1 + 2.4 * radius
    return torch.remainder(offset + period / 2, period) - period / 2


def _indices_with(actors: list[Actor], attribute: str, value: str) -> Tensor:
    """Return the indices of the actors with this value."""
    indices = [i for i, actor in enumerate(actors) if getattr(actor, attribute) == value]
    return torch.tensor(indices, dtype=torch.long)


def _distance(actors: list[Actor], u: Tensor, v: Tensor) -> Tensor:
    """Return the signed distance to the outline in radii, negative inside, n f H W."""
    result = torch.empty_like(u)
    for shape, outline in _OUTLINES.items():
        rows = _indices_with(actors, "shape", shape)
        result[rows] = outline(u[rows], v[rows])
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
    """Return the distance to a star of five points: fold the plane into half a point, which has one edge."""
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
    """Return the colour of each pixel of an actor, n f 3 H W.

    It has a pattern, a rounded shading from the upper left, and a soft highlight.
    """
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
    """Return 0 where a pixel has the actor's colour and 1 where it is white, n f H W."""
    pattern = torch.zeros_like(u)
    for material, paint_pattern in _PATTERNS.items():
        rows = _indices_with(actors, "material", material)
        pattern[rows] = paint_pattern(u[rows], v[rows])
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
