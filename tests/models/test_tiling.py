"""Tiles of a decoder: they cover a latent, and blend into the same frames where the decoder sees single cells."""

import dataclasses
import itertools

import pytest
import torch

from holdfast.models.placement import Placements
from holdfast.models.wan.tiling import OVERLAP, decode_tiles, tile_spans


@pytest.mark.parametrize(("count", "side"), [(20, 32), (32, 32), (60, 24), (104, 32)])
def test_tiles_cover_a_side_and_overlap(count, side):
    spans = tile_spans(count, side)
    assert spans[0][0] == 0
    assert spans[-1][1] == count
    for (_, end), (begin, _) in itertools.pairwise(spans):
        assert end - begin >= OVERLAP


def test_a_decoder_without_neighbours_gives_the_same_frames():
    x = torch.randn(1, 3, 4, 30, 40)

    def decode(part):
        for i in range(part.shape[2]):
            frame = part[0, :, i][None]
            yield torch.nn.functional.interpolate(frame, scale_factor=2).repeat(2, 1, 1, 1)

    whole = torch.cat(list(decode(x)))
    tiled = torch.cat(list(decode_tiles(decode, x, 16, 2)))
    assert torch.allclose(whole, tiled, atol=1e-5)


def test_wan_decodes_whole_frames_unless_a_plan_says_otherwise(tiny_wan, monkeypatch):
    z = torch.randn(1, 4, 2, 24, 16, generator=torch.Generator().manual_seed(0))
    whole = torch.cat(list(tiny_wan.decode(z)))
    monkeypatch.setattr(tiny_wan, "placements", Placements(tile=192))
    assert torch.equal(torch.cat(list(tiny_wan.decode(z))), whole)  # one tile covers it
    monkeypatch.setattr(tiny_wan, "placements", dataclasses.replace(Placements(), tile=128))
    tiled = torch.cat(list(tiny_wan.decode(z)))
    assert tiled.shape == whole.shape
    assert 0 < (tiled - whole).abs().mean() < 0.1
    assert torch.allclose(tiled[:, :, :32], whole[:, :, :32], atol=0.2)
