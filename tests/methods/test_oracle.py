"""The methods on an exactly known velocity field: signs, indices and orders of convergence have closed-form answers."""

import pytest
import torch

from holdfast import registry
from holdfast.diffusion import noise, noised

from .analytic import DEVIATION, Gaussian, last

SOURCE = torch.randn(1, 2, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
SRC, TGT = (torch.full((1, 2, 2, 3, 3), v, dtype=torch.float64) for v in (0.5, -1.25))


def run(name, field=None, **settings):
    module = registry.method(name)
    return last(module.edit(field or Gaussian(), SOURCE, SRC, TGT, module.Config(**settings)))


@pytest.mark.parametrize("steps", [3, 20])
def test_flowedit_moves_a_gaussian_by_the_difference_of_the_means(steps):
    """Without guidance y = (1 - sigma)(target - source mean) solves the edit's equation, and Euler follows a straight line exactly."""
    edited = run("flowedit", steps=steps, strength=1.0, source_guidance=1.0, target_guidance=1.0)
    assert torch.allclose(edited, SOURCE + (TGT - SRC), atol=2e-3)


def test_flowedit_noise_cancels_on_a_linear_field():
    one = run("flowedit", steps=6, strength=0.5)
    many = run("flowedit", steps=6, strength=0.5, n_avg=4)
    assert torch.allclose(one, many, atol=1e-9)


def test_flowedit_from_the_middle_follows_its_equation():
    """Against a fine Runge-Kutta solution of y' = a(sigma) y + b(sigma) (target - source mean); first order in the step."""
    field = Gaussian()
    start = field.levels(64)[32]

    def slope(y, sigma):
        q = noised(SOURCE, sigma, torch.zeros_like(SOURCE))
        return field.velocity(q + y, sigma, TGT, branch="tgt+") - field.velocity(q, sigma, SRC, branch="src+")

    y, count = torch.zeros_like(SOURCE), 400
    for k in range(count):
        sigma, h = start * (1 - k / count), -start / count
        k1 = slope(y, sigma)
        k2 = slope(y + h / 2 * k1, sigma + h / 2)
        k3 = slope(y + h / 2 * k2, sigma + h / 2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3, sigma + h))
    plain = {"strength": 0.5, "source_guidance": 1.0, "target_guidance": 1.0}
    coarse, fine = (run("flowedit", steps=n, **plain) - SOURCE - y for n in (64, 128))
    assert coarse.abs().max() < 0.02 * y.abs().max()
    assert fine.abs().max() < 0.6 * coarse.abs().max()


def test_flowedit_last_steps_sample_the_target():
    """With n_min = all steps it is plain sampling from noise: the Gaussian's own transport."""
    steps = 400
    field = Gaussian()
    edited = run("flowedit", field, steps=steps, strength=1.0, n_min=steps, target_guidance=1.0)
    assert torch.allclose(edited, transported(field.levels(steps)[0]), atol=2e-2)
    assert set(field.branches) == {"tgt+"}


def transported(sigma):
    z = noised(SOURCE, sigma, noise(SOURCE, 0, 0))
    return TGT + DEVIATION * (z - (1 - sigma) * TGT) / ((1 - sigma) ** 2 * DEVIATION**2 + sigma**2) ** 0.5


def test_sdedit_transports_the_noised_source():
    field = Gaussian()
    edited = run("sdedit", field, steps=400, strength=0.75, target_guidance=1.0)
    assert torch.allclose(edited, transported(field.levels(400)[100]), atol=2e-2)
    assert set(field.branches) == {"tgt+"}


def test_wanedit_mixes_at_the_previous_level_and_is_told_the_current_one():
    told, seen = [], []

    class Watched(Gaussian):
        def velocity(self, z, sigma, condition, *, branch):
            if branch == "src+":
                told.append(sigma)
                seen.append(z)
            return super().velocity(z, sigma, condition, branch=branch)

    field = Watched()
    run("wanedit", field, steps=5, strength=0.8, shift=5.0)
    levels = field.levels(5, 5.0)
    assert told == levels[1:5]
    for i, z in enumerate(seen, 1):
        mixed = int(1000 * levels[i - 1]) / 1000
        assert torch.equal(z, noised(SOURCE, mixed, noise(SOURCE, 0, i)))


def test_wanedit_moves_a_gaussian_towards_the_target():
    edited = run("wanedit", steps=50, strength=1.0, source_guidance=1.0, target_guidance=1.0)
    assert torch.allclose(edited, SOURCE + (TGT - SRC), atol=0.05)
