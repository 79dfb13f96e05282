"""Perturbation before an inversion: what counts as smooth, where the noise is added, and what is inverted then."""

import dataclasses

import pytest
import torch

from holdfast import methods
from holdfast.sampling import perturbation
from holdfast.sampling.field import EditInputs, Pixels
from holdfast.sampling.noise import keyed_noise

from ..methods.analytic import Gaussian, about, as_field

SARP = perturbation.PerturbedConfig(sarp=0.1)
EDGES, LATENT = (dataclasses.replace(SARP, sarp_area=area) for area in ("edges", "latent"))


def test_flat_is_where_no_neighbour_differs_and_the_border_is_an_outline():
    x = torch.zeros(2, 3, 8, 8)
    x[0, 1, 3, 3] = 1 / 127.5  # one level of eight bits, in one colour
    found = perturbation.find_smooth_areas(x)
    assert found.shape == (2, 1, 8, 8)
    assert found[1].all()
    around = torch.ones(8, 8, dtype=torch.bool)
    around[2:5, 2:5] = False
    around[3, 3] = True  # its own slopes are those of its neighbours, which are equal
    assert torch.equal(found[0, 0], around)
    assert not perturbation.find_smooth_areas(x + 0.5)[1, 0, 0].any()
    assert perturbation.find_smooth_areas(x + 0.5)[1, 0, 1:-1, 1:-1].all()


def test_the_slope_is_the_mean_over_colours_of_both_sobels():
    x = torch.arange(8.0).expand(1, 3, 8, 8).clone()
    x[:, 1:] = 0  # 8 a pixel in one of three colours
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert not perturbation.find_smooth_areas(x, 8 / 3 - 1e-3)[inner].any()
    assert perturbation.find_smooth_areas(x, 8 / 3 + 1e-3)[inner].all()


def half_smooth():
    """Frames f 3 H W in [-1, 1]: a smooth half at the limit of the range, and another with a slope."""
    x = torch.linspace(0, 0.9, 8).expand(2, 3, 8, 8).clone()
    x[..., :4] = -1.0
    return x, torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def test_only_smooth_places_are_perturbed_or_only_the_others():
    x, eps = half_smooth()
    smooth = perturbation.find_smooth_areas(x).expand_as(x)
    assert smooth.any()
    assert not smooth.all()
    noisy = (x + 0.1 * eps).clamp(-1, 1)
    assert torch.equal(perturbation.add_area_noise(x, eps, SARP), torch.where(smooth, noisy, x))
    assert torch.equal(perturbation.add_area_noise(x, eps, EDGES), torch.where(smooth, x, noisy))
    assert noisy.min() == -1


def test_the_threshold_decides_what_is_smooth():
    x, eps = half_smooth()
    everywhere = dataclasses.replace(SARP, sarp_threshold=16)
    assert torch.equal(
        perturbation.add_area_noise(x, eps, everywhere), (x + 0.1 * eps).clamp(-1, 1)
    )


def test_frames_are_perturbed_one_by_one_with_the_noise_of_their_place_in_the_clip():
    x, _ = half_smooth()
    frames = x / 2 + 0.5
    eps = keyed_noise(frames.transpose(0, 1)[None], 7, 1)[0].transpose(0, 1)
    found = torch.stack(list(perturbation.perturb_frames(frames, SARP, 7, draw=1)))
    assert torch.equal(found, perturbation.add_area_noise(x, eps, SARP) / 2 + 0.5)
    for config in (LATENT, dataclasses.replace(SARP, sarp=0.0)):
        kept = torch.stack(list(perturbation.perturb_frames(frames, config, 7)))
        assert torch.equal(kept, frames)


@pytest.mark.parametrize("name", ["uniedit", "rfsolver"])
def test_the_inversion_starts_from_the_perturbed_clip(name):
    """Of frames, or of the latent itself. Outside a mask the result is still the clip."""
    x, _ = half_smooth()
    frames = x / 2 + 0.5

    def encode(frames):
        return torch.stack(list(frames)).transpose(0, 1)[None]

    clean = encode(frames)
    pixels = Pixels(lambda: frames, encode, iter, about, (1, 1, 1))
    mask = torch.zeros(1, 1, *clean.shape[2:])
    mask[..., :4] = 1
    inputs = EditInputs(clean, about(0 * clean), about(0 * clean + 1), mask, seed=5, pixels=pixels)
    method, perturbed = methods.load(name), {}
    for config in (SARP, EDGES, LATENT):
        perturbed[config.sarp_area] = encode(perturbation.perturb_frames(frames, config, 5))
    perturbed["latent"] = clean + 0.1 * keyed_noise(clean, 5, 0, repeat=2)
    for area, start in ({"smooth": clean} | perturbed).items():
        alpha = 0.1 if area in perturbed else 0.0
        config = method.Config(
            steps=2, sarp=alpha, sarp_area=area, **{"inject": 0} if name == "rfsolver" else {}
        )
        asked = Asked()
        for step in method.edit(as_field(asked), inputs, config):  # noqa: B007
            pass
        assert torch.equal(asked.z[0], start)
        assert torch.equal(step.z[..., 4:], clean[..., 4:])


class Asked(Gaussian):
    def __init__(self):
        super().__init__()
        self.z = []

    def velocity(self, z, *arguments, **options):
        self.z.append(z)
        return super().velocity(z, *arguments, **options)
