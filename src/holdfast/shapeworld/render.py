"""Scenes to pixels, masks and flow: exact, anti-aliased, many scenes at once.

A signed distance gives each shape its outline (anti-aliased over one pixel) and, with its depth, a rounded shading. Every
scene of a call is rendered in the same tensor operations. Shapes: n scenes, f frames, k actors, H x W pixels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .scenes import BACKDROPS, COLOURS, MATERIALS, PANS, SHAPES, Scene

SIZE = (64, 64)
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


def render(scenes: list[Scene], frames: int | Sequence[int] | None = None, size: tuple[int, int] = SIZE) -> Tensor:
    """Render scenes: n f 3 H W, float32 in [0, 1]. frames: how many, or which ones; by default the first scene's own length."""
    return compose(scenes, frames, size)[0]


def compose(scenes: list[Scene], frames: int | Sequence[int] | None = None, size: tuple[int, int] = SIZE) -> tuple[Tensor, Tensor]:
    """Render, and return each actor's visible share of each pixel too: (n f 3 H W, n k f H W), both float32 in [0, 1]."""
    frames = frames or scenes[0].frames
    times = range(frames) if isinstance(frames, int) else frames
    with torch.no_grad():
        picture = _backdrops(scenes, times, size)
        visible = torch.zeros(len(scenes), max(len(s.actors) for s in scenes) or 1, len(times), *size)
        for k in range(visible.shape[1]):
            having = [i for i, s in enumerate(scenes) if len(s.actors) > k]
            if not having:
                continue
            at = torch.tensor(having)
            colour, alpha = _draw([scenes[i] for i in having], k, times, size)
            picture[at] = picture[at] * (1 - alpha[:, :, None]) + colour * alpha[:, :, None]
            visible[at] *= 1 - alpha[:, None]
            visible[at, k] = alpha
        return picture, visible


def flow(scene: Scene, frames: int | None = None, size: tuple[int, int] = SIZE) -> Tensor:
    """Exact optical flow from each frame to the next, (f-1) 2 H W, in pixels (x, y), of what is seen at each pixel."""
    frames = frames or scene.frames
    visible = compose([scene], frames, size)[1][0, :, :-1]  # k f-1 H W
    height, width = size
    pan = -PANS[scene.pan] * width
    result = torch.zeros(frames - 1, 2, height, width)
    result[:, 0] = pan
    for k, actor in enumerate(scene.actors):
        vx, vy = actor.velocity
        here = visible[k] >= 0.5
        result[:, 0][here] = vx * width + pan
        result[:, 1][here] = vy * height
    return result


def _axis(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)


def _grid(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pixel centres as fractions of the frame: x as 1 1 1 W, y as 1 1 H 1."""
    height, width = size
    x = (torch.arange(width) + 0.5) / width
    y = (torch.arange(height) + 0.5) / height
    return x.view(1, 1, 1, -1), y.view(1, 1, -1, 1)


def _draw(scenes: list[Scene], k: int, times: Sequence[int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Colour (n f 3 H W) and coverage (n f H W) of actor k of each scene."""
    actors = [s.actors[k] for s in scenes]
    height, width = size
    side = min(size)
    radius = _axis([a.size for a in actors])
    pan = _axis([PANS[s.pan] for s in scenes])
    t = torch.tensor(times, dtype=torch.float32).view(1, -1, 1, 1)
    x, y = _grid(size)
    cx = _axis([a.x for a in actors]) + (_axis([a.velocity[0] for a in actors]) - pan) * t
    cy = _axis([a.y for a in actors]) + _axis([a.velocity[1] for a in actors]) * t
    u = _wrapped(x - cx, radius * side / width) * width / (side * radius)  # n f H W, in radii
    v = _wrapped(y - cy, radius * side / height) * height / (side * radius)
    u, v = torch.broadcast_tensors(u, v)
    distance = _distance([a.shape for a in actors], u, v)
    alpha = (0.5 - distance * radius * side).clamp(0, 1)
    return _shade(actors, u, v, distance), alpha


def _wrapped(offset: Tensor, radius: Tensor) -> Tensor:
    """An actor that has left on one side comes in again on the other, once it is out of sight: clips of any length work."""
    period = 1 + 2.4 * radius
    return torch.remainder(offset + period / 2, period) - period / 2


def _distance(shapes: list[str], u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the outline in radii, negative inside; n f H W."""
    result = torch.empty_like(u)
    for shape in set(shapes):
        at = torch.tensor([i for i, s in enumerate(shapes) if s == shape])
        result[at] = _OUTLINES[shape](u[at], v[at])
    return result


def _ball(u: Tensor, v: Tensor) -> Tensor:
    return (u * u + v * v).sqrt() - 0.95


def _box(u: Tensor, v: Tensor) -> Tensor:
    qu, qv = u.abs() - 0.68, v.abs() - 0.68
    outside = (qu.clamp(min=0) ** 2 + qv.clamp(min=0) ** 2).sqrt()
    return outside + torch.maximum(qu, qv).clamp(max=0) - 0.14


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return ((u * u + v * v).sqrt() - 0.70).abs() - 0.27


def _star(u: Tensor, v: Tensor) -> Tensor:
    """Five points: fold the plane into half a point, then the distance to that point's one edge."""
    sector = 2 * math.pi / 5
    angle = torch.remainder(torch.atan2(u, -v) + sector / 2, sector) - sector / 2
    r = (u * u + v * v).sqrt()
    px, py = r * angle.cos(), r * angle.sin().abs()
    tip, notch = 1.18, 0.52
    nx, ny = notch * math.cos(sector / 2), notch * math.sin(sector / 2)
    ex, ey = nx - tip, ny  # the edge, from the tip to the notch
    length = math.hypot(ex, ey)
    return ((px - tip) * -ey + py * ex) / -length - 0.04


_OUTLINES = {"ball": _ball, "box": _box, "star": _star, "ring": _ring}
assert set(_OUTLINES) == set(SHAPES)


def _shade(actors: list, u: Tensor, v: Tensor, distance: Tensor) -> Tensor:
    """Colour of each pixel of an actor, n f 3 H W: pattern, rounded shading from the upper left, a soft highlight."""
    base = torch.tensor([_RGB[a.colour] for a in actors]).view(-1, 1, 3, 1, 1)
    pattern = torch.zeros_like(u)  # 0 the actor's colour, 1 white
    for material in MATERIALS[1:]:
        at = torch.tensor([i for i, a in enumerate(actors) if a.material == material], dtype=torch.long)
        pattern[at] = _PATTERNS[material](u[at], v[at])
    pattern = pattern[:, :, None]
    depth = (-distance / 0.45).clamp(0, 1)
    light = 0.74 + 0.26 * (1 - (1 - depth) ** 2) - 0.16 * (u + 1.2 * v) * (1 - 0.4 * depth)
    highlight = 0.42 * torch.exp(-((u + 0.36) ** 2 + (v + 0.42) ** 2) / 0.07) * depth
    colour = (base + (0.97 - base) * pattern) * light[:, :, None]
    return (colour + (1 - colour) * highlight[:, :, None]).clamp(0, 1)


def _soft(wave: Tensor, sharp: float) -> Tensor:
    return torch.sigmoid(wave * sharp)


def _stripes(u: Tensor, v: Tensor) -> Tensor:
    return _soft(torch.sin(2 * math.pi * (u + v) / 1.05 + 0.4), 5.0)


def _spots(u: Tensor, v: Tensor) -> Tensor:
    period = 0.74
    du = torch.remainder(u + period / 2, period) - period / 2
    dv = torch.remainder(v + period / 2, period) - period / 2
    return _soft(0.24 - (du * du + dv * dv).sqrt(), 22.0)


_PATTERNS = {"striped": _stripes, "spotted": _spots}


def _mix(a: tuple, b: tuple, share: Tensor) -> Tensor:
    """Blend two colours by a share: ... H W -> ... 3 H W."""
    a, b = (torch.tensor(c).view(3, 1, 1) for c in (a, b))
    share = share.unsqueeze(-3)
    return a * (1 - share) + b * share


def _backdrops(scenes: list[Scene], times: Sequence[int], size: tuple[int, int]) -> Tensor:
    """n f 3 H W. A backdrop is periodic in x, so a pan never runs out of it."""
    height, width = size
    gx, gy = _grid(size)
    y = gy[0, 0].expand(height, width)
    picture = torch.empty(len(scenes), len(times), 3, height, width)
    still = {}
    for i, scene in enumerate(scenes):
        if not scene.pan:
            if scene.backdrop not in still:
                still[scene.backdrop] = _PAINTERS[scene.backdrop](gx[0, 0].expand(height, width), y)
            picture[i] = still[scene.backdrop]
            continue
        for j, t in enumerate(times):
            picture[i, j] = _PAINTERS[scene.backdrop]((gx[0, 0] + PANS[scene.pan] * t).expand(height, width), y)
    return picture


def _w(x: Tensor, waves: int, phase: float = 0.0) -> Tensor:
    return torch.sin(2 * math.pi * waves * x + phase)


def _over(below: Tensor, above: Tensor, share: Tensor) -> Tensor:
    return below * (1 - share.unsqueeze(-3)) + above * share.unsqueeze(-3)


def _edge(y: Tensor, line: Tensor) -> Tensor:
    """1 below a line, 0 above it, soft over about a pixel of a 64-pixel frame."""
    return ((y - line) * 48 + 0.5).clamp(0, 1)


def _meadow(x: Tensor, y: Tensor) -> Tensor:
    picture = _mix((0.55, 0.78, 0.93), (0.87, 0.94, 0.95), y / 0.45)
    far = _mix((0.56, 0.74, 0.50), (0.40, 0.62, 0.36), (y - 0.3) / 0.4)
    picture = _over(picture, far, _edge(y, 0.36 + 0.06 * _w(x, 1, 1.0) + 0.02 * _w(x, 3)))
    blades = 0.5 + 0.5 * _w(x, 9, 0.0) * torch.sin(40 * y)
    near = _mix((0.44, 0.62, 0.26), (0.33, 0.50, 0.18), (y - 0.55) * 1.6 + 0.25 * blades)
    return _over(picture, near, _edge(y, 0.60 + 0.05 * _w(x, 1, 3.4))).clamp(0, 1)


def _desert(x: Tensor, y: Tensor) -> Tensor:
    picture = _mix((0.96, 0.74, 0.52), (0.99, 0.91, 0.74), y / 0.45)
    far = _mix((0.90, 0.68, 0.42), (0.82, 0.57, 0.32), (y - 0.35) / 0.4)
    picture = _over(picture, far, _edge(y, 0.40 + 0.07 * _w(x, 1, 2.0)))
    ripples = 0.5 + 0.5 * torch.sin(46 * y + 3 * _w(x, 1))
    near = _mix((0.80, 0.60, 0.36), (0.71, 0.49, 0.27), (y - 0.6) + 0.45 * ripples)
    return _over(picture, near, _edge(y, 0.62 + 0.06 * _w(x, 1, 5.0))).clamp(0, 1)


def _lake(x: Tensor, y: Tensor) -> Tensor:
    picture = _mix((0.62, 0.80, 0.94), (0.93, 0.93, 0.90), y / 0.4)
    shore = _mix((0.36, 0.46, 0.50), (0.28, 0.40, 0.42), y)
    picture = _over(picture, shore, _edge(y, 0.30 + 0.05 * _w(x, 2, 0.7) + 0.03 * _w(x, 3, 2.0)))
    waves = 0.5 + 0.5 * torch.sin(38 * y + 1.6 * _w(x, 2)) * (0.4 + 0.6 * _w(x, 3, 1.0).abs())
    water = _mix((0.22, 0.50, 0.62), (0.12, 0.36, 0.52), (y - 0.4) + 0.4 * waves)
    return _over(picture, water, _edge(y, torch.full_like(y, 0.40))).clamp(0, 1)


def _glacier(x: Tensor, y: Tensor) -> Tensor:
    picture = _mix((0.66, 0.76, 0.88), (0.86, 0.90, 0.95), y / 0.5)
    peaks = 0.24 + 0.20 * (torch.remainder(2 * x + 0.3, 1) - 0.5).abs() * 2
    ice = _mix((0.80, 0.88, 0.95), (0.58, 0.72, 0.85), (y - 0.2) / 0.5)
    picture = _over(picture, ice, _edge(y, peaks))
    drifts = 0.5 + 0.5 * torch.sin(26 * y + 2 * _w(x, 1, 1.0))
    snow = _mix((0.95, 0.97, 0.99), (0.84, 0.89, 0.95), 0.7 * drifts)
    return _over(picture, snow, _edge(y, 0.58 + 0.04 * _w(x, 1))).clamp(0, 1)


def _city(x: Tensor, y: Tensor) -> Tensor:
    picture = _mix((0.42, 0.36, 0.58), (0.95, 0.70, 0.58), y / 0.7)
    column = torch.floor(torch.remainder(x, 1) * 8)
    roof = 0.34 + 0.13 * torch.sin(2.3 * column) + 0.08 * torch.sin(5.1 * column + 1)
    lit = _soft(torch.sin(2 * math.pi * 16 * x) * torch.sin(2 * math.pi * 9 * y), 4.0)
    house = _mix((0.26, 0.24, 0.36), (0.62, 0.52, 0.42), 0.45 * lit)
    picture = _over(picture, house, _edge(y, roof))
    street = _mix((0.36, 0.34, 0.40), (0.26, 0.25, 0.31), (y - 0.82) * 5)
    return _over(picture, street, _edge(y, torch.full_like(y, 0.82))).clamp(0, 1)


def _galaxy(x: Tensor, y: Tensor) -> Tensor:
    band = torch.exp(-(((y - 0.5 - 0.16 * _w(x, 1)) / 0.2) ** 2))
    picture = _mix((0.04, 0.04, 0.12), (0.34, 0.16, 0.44), 0.75 * band)
    stars = torch.zeros_like(y)
    for i in range(28):
        sx, sy = (0.618034 * i) % 1, (0.754878 * i + 0.1) % 1
        dx = torch.remainder(x - sx + 0.5, 1) - 0.5
        stars = torch.maximum(stars, (0.35 + 0.5 * (i % 3) / 2) * torch.exp(-(dx**2 + (y - sy) ** 2) / 0.00016))
    return _over(picture, _mix((0.9, 0.9, 1.0), (1.0, 0.95, 0.85), y), stars).clamp(0, 1)


_PAINTERS = {"meadow": _meadow, "desert": _desert, "lake": _lake, "glacier": _glacier, "city": _city, "galaxy": _galaxy}
assert set(_PAINTERS) == set(BACKDROPS)
assert set(_RGB) == set(COLOURS)
