"""Decode a latent in tiles, for a device that whole frames do not fit on. It changes the pixels slightly near seams."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

OVERLAP = 8  # cells that neighbouring tiles share at least
Decode = Callable[[Tensor], Iterator[Tensor]]  # 1 c f h w to chunks of frames f 3 H W


def decode_tiles(decode: Decode, x: Tensor, side: int, scale: int) -> Iterator[Tensor]:
    """Yield the frames of a latent in order, f 3 H W on the CPU, decoded in tiles of `side` cells.

    Each tile is decoded over all frames, because the decoder remembers earlier ones. So all frames are in RAM at once.
    Where tiles overlap, their weights rise and fall linearly. scale: pixels along a cell.
    """
    height, width = x.shape[-2] * scale, x.shape[-1] * scale
    total: list[Tensor] = []
    weights = torch.zeros(height, width)
    for rows, columns in itertools.product(*(tile_spans(n, side) for n in x.shape[-2:])):
        part = x[..., slice(*rows), slice(*columns)].contiguous()
        down, right = (slice(scale * a, scale * b) for a, b in (rows, columns))
        ramp = _ramp(rows, x.shape[-2], scale)[:, None] * _ramp(columns, x.shape[-1], scale)
        for index, chunk in enumerate(decode(part)):
            if index == len(total):
                total.append(torch.zeros(len(chunk), 3, height, width))
            total[index][:, :, down, right] += chunk.cpu() * ramp
        weights[down, right] += ramp
    while total:
        yield total.pop(0) / weights


def tile_spans(count: int, side: int) -> list[tuple[int, int]]:
    """Return spans of `side` cells that cover `count` cells evenly and overlap by OVERLAP or more."""
    if count <= side:
        return [(0, count)]
    tiles = -(-(count - side) // (side - OVERLAP)) + 1
    firsts = [round(i * (count - side) / (tiles - 1)) for i in range(tiles)]
    return [(first, first + side) for first in firsts]


def _ramp(span: tuple[int, int], count: int, scale: int) -> Tensor:
    """Return a tile's weights along a side, one a pixel: they fall towards a neighbour, and not at the clip's edge."""
    begin, end = span
    distance = torch.arange((end - begin) * scale) + 0.5
    width = OVERLAP * scale
    first = torch.ones(()) if begin == 0 else (distance / width).clamp(max=1)
    last = torch.ones(()) if end == count else (distance.flip(0) / width).clamp(max=1)
    return torch.ones_like(distance) * first * last
