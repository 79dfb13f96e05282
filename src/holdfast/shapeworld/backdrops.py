"""Paint the six backdrops behind the actors. Each is periodic in x.

x, y: pixel positions as fractions of the frame, H W; y runs down. A backdrop is painted from far to near.
"""

import math

import torch
from torch import Tensor

from .scenes import BACKDROPS

# Red, green and blue of each part of each backdrop, at both ends of its shading.
_PALETTE = {
    "meadow sky": ((0.55, 0.78, 0.93), (0.87, 0.94, 0.95)),
    "meadow far": ((0.56, 0.74, 0.50), (0.40, 0.62, 0.36)),
    "meadow near": ((0.44, 0.62, 0.26), (0.33, 0.50, 0.18)),
    "desert sky": ((0.96, 0.74, 0.52), (0.99, 0.91, 0.74)),
    "desert far": ((0.90, 0.68, 0.42), (0.82, 0.57, 0.32)),
    "desert near": ((0.80, 0.60, 0.36), (0.71, 0.49, 0.27)),
    "lake sky": ((0.62, 0.80, 0.94), (0.93, 0.93, 0.90)),
    "lake shore": ((0.36, 0.46, 0.50), (0.28, 0.40, 0.42)),
    "lake water": ((0.22, 0.50, 0.62), (0.12, 0.36, 0.52)),
    "glacier sky": ((0.66, 0.76, 0.88), (0.86, 0.90, 0.95)),
    "glacier ice": ((0.80, 0.88, 0.95), (0.58, 0.72, 0.85)),
    "glacier snow": ((0.95, 0.97, 0.99), (0.84, 0.89, 0.95)),
    "city sky": ((0.42, 0.36, 0.58), (0.95, 0.70, 0.58)),
    "city house": ((0.26, 0.24, 0.36), (0.62, 0.52, 0.42)),
    "city street": ((0.36, 0.34, 0.40), (0.26, 0.25, 0.31)),
    "galaxy night": ((0.04, 0.04, 0.12), (0.34, 0.16, 0.44)),
    "galaxy light": ((0.9, 0.9, 1.0), (1.0, 0.95, 0.85)),
}


def paint(name: str, x: Tensor, y: Tensor) -> Tensor:
    """Return the backdrop of this name, 3 H W in [0, 1]."""
    return _PAINTERS[name](x, y).clamp(0, 1)


def _mix(name: str, share: Tensor) -> Tensor:
    """Blend the palette's two colours of a name by a share, H W to 3 H W."""
    first, second = torch.tensor(_PALETTE[name]).view(2, 3, 1, 1)
    return _blend(first, second, share)


def _blend(below: Tensor, above: Tensor, share: Tensor) -> Tensor:
    share = share.unsqueeze(-3)
    return below * (1 - share) + above * share


def _wave(x: Tensor, count: int, phase: float = 0.0) -> Tensor:
    return torch.sin(2 * math.pi * count * x + phase)


def _mask_below(line: Tensor | float, y: Tensor) -> Tensor:
    """Return 1 below a line and 0 above it, soft over about a pixel of a 64-pixel frame."""
    return ((y - line) * 48 + 0.5).clamp(0, 1)


def _meadow(x: Tensor, y: Tensor) -> Tensor:
    sky = _mix("meadow sky", y / 0.45)
    far = _mix("meadow far", (y - 0.3) / 0.4)
    hills = 0.36 + 0.06 * _wave(x, 1, 1.0) + 0.02 * _wave(x, 3)
    picture = _blend(sky, far, _mask_below(hills, y))
    blades = 0.5 + 0.5 * _wave(x, 9, 0.0) * torch.sin(40 * y)
    shade = (y - 0.55) * 1.6 + 0.25 * blades
    near = _mix("meadow near", shade)
    ground = 0.60 + 0.05 * _wave(x, 1, 3.4)
    return _blend(picture, near, _mask_below(ground, y))


def _desert(x: Tensor, y: Tensor) -> Tensor:
    sky = _mix("desert sky", y / 0.45)
    far = _mix("desert far", (y - 0.35) / 0.4)
    dunes = 0.40 + 0.07 * _wave(x, 1, 2.0)
    picture = _blend(sky, far, _mask_below(dunes, y))
    ripples = 0.5 + 0.5 * torch.sin(46 * y + 3 * _wave(x, 1))
    shade = (y - 0.6) + 0.45 * ripples
    near = _mix("desert near", shade)
    ground = 0.62 + 0.06 * _wave(x, 1, 5.0)
    return _blend(picture, near, _mask_below(ground, y))


def _lake(x: Tensor, y: Tensor) -> Tensor:
    sky = _mix("lake sky", y / 0.4)
    shore = _mix("lake shore", y)
    trees = 0.30 + 0.05 * _wave(x, 2, 0.7) + 0.03 * _wave(x, 3, 2.0)
    picture = _blend(sky, shore, _mask_below(trees, y))
    strength = 0.4 + 0.6 * _wave(x, 3, 1.0).abs()
    waves = 0.5 + 0.5 * torch.sin(38 * y + 1.6 * _wave(x, 2)) * strength
    shade = (y - 0.4) + 0.4 * waves
    water = _mix("lake water", shade)
    return _blend(picture, water, _mask_below(0.40, y))


def _glacier(x: Tensor, y: Tensor) -> Tensor:
    sky = _mix("glacier sky", y / 0.5)
    ice = _mix("glacier ice", (y - 0.2) / 0.5)
    zigzag = (torch.remainder(2 * x + 0.3, 1) - 0.5).abs()
    peaks = 0.24 + 0.20 * zigzag * 2
    picture = _blend(sky, ice, _mask_below(peaks, y))
    drifts = 0.5 + 0.5 * torch.sin(26 * y + 2 * _wave(x, 1, 1.0))
    snow = _mix("glacier snow", 0.7 * drifts)
    ground = 0.58 + 0.04 * _wave(x, 1)
    return _blend(picture, snow, _mask_below(ground, y))


def _city(x: Tensor, y: Tensor) -> Tensor:
    sky = _mix("city sky", y / 0.7)
    column = torch.floor(torch.remainder(x, 1) * 8)
    roofs = 0.34 + 0.13 * torch.sin(2.3 * column) + 0.08 * torch.sin(5.1 * column + 1)
    windows = torch.sin(2 * math.pi * 16 * x) * torch.sin(2 * math.pi * 9 * y)
    lit = torch.sigmoid(windows * 4.0)
    house = _mix("city house", 0.45 * lit)
    picture = _blend(sky, house, _mask_below(roofs, y))
    street = _mix("city street", (y - 0.82) * 5)
    return _blend(picture, street, _mask_below(0.82, y))


def _galaxy(x: Tensor, y: Tensor) -> Tensor:
    from_band = y - 0.5 - 0.16 * _wave(x, 1)
    band = torch.exp(-((from_band / 0.2) ** 2))
    night = _mix("galaxy night", 0.75 * band)
    stars = torch.zeros_like(y)
    for i in range(28):
        stars = torch.maximum(stars, _star(i, x, y))
    light = _mix("galaxy light", y)
    return _blend(night, light, stars)


def _star(index: int, x: Tensor, y: Tensor) -> Tensor:
    """Return one of the galaxy's stars: a spot of light, with position and strength derived from its index."""
    star_x = (0.618034 * index) % 1
    star_y = (0.754878 * index + 0.1) % 1
    dx = torch.remainder(x - star_x + 0.5, 1) - 0.5
    dy = y - star_y
    strength = 0.35 + 0.5 * (index % 3) / 2
    return strength * torch.exp(-(dx**2 + dy**2) / 0.00016)


_PAINTERS = {
    "meadow": _meadow,
    "desert": _desert,
    "lake": _lake,
    "glacier": _glacier,
    "city": _city,
    "galaxy": _galaxy,
}
assert set(_PAINTERS) == set(BACKDROPS)
