"""Smooth area random perturbation: what counts as flat, and what it does to inverted latents."""

import torch

from holdfast.sampling import smooth_area_noise


def test_flat_is_where_no_neighbour_differs_and_the_border_is_an_outline():
    x = torch.zeros(2, 3, 8, 8)
    x[0, 1, 3, 3] = 1 / 127.5  # one level of eight bits, in one colour
    found = smooth_area_noise.find_flat_areas(x)
    assert found.shape == (2, 1, 8, 8)
    assert found[1].all()
    around = torch.ones(8, 8, dtype=torch.bool)
    around[2:5, 2:5] = False
    around[3, 3] = True  # its own slopes are those of its neighbours, which are equal
    assert torch.equal(found[0, 0], around)
    assert not smooth_area_noise.find_flat_areas(x + 0.5)[1, 0, 0].any()
    assert smooth_area_noise.find_flat_areas(x + 0.5)[1, 0, 1:-1, 1:-1].all()


def test_the_slope_is_the_mean_over_colours_of_both_sobels():
    x = torch.arange(8.0).expand(1, 3, 8, 8).clone()
    x[:, 1:] = 0  # 8 a pixel in one of three colours
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert not smooth_area_noise.find_flat_areas(x, 8 / 3 - 1e-3)[inner].any()
    assert smooth_area_noise.find_flat_areas(x, 8 / 3 + 1e-3)[inner].all()


def test_only_flat_places_are_perturbed_and_stay_within_range():
    x = torch.full((1, 3, 8, 8), 0.5)
    x[..., 4:] = -1.0
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    found = smooth_area_noise.add_flat_area_noise(x, eps, scale=0.1)
    where = smooth_area_noise.find_flat_areas(x).expand_as(x)
    assert torch.equal(found[~where], x[~where])
    assert torch.allclose(found[where], (x + 0.1 * eps).clamp(-1, 1)[where])
    assert found.min() == -1
    assert torch.equal(smooth_area_noise.add_flat_area_noise(x, eps, scale=0.0), x)
