"""The methods on an exactly known velocity field: signs, indices and orders of convergence have closed-form answers."""

import itertools
import math

import pytest
import torch

from holdfast import inversion, registry
from holdfast.attention import Door
from holdfast.backbones.base import Condition
from holdfast.diffusion import noise, noised

from .analytic import DEVIATION, Gaussian, last

pytestmark = [
    pytest.mark.filterwarnings("ignore:without a mask the target's attention"),
    pytest.mark.filterwarnings("ignore:no word drives the edit"),
]
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


def test_flowalign_moves_a_gaussian_like_flowedit_where_it_does_not_pull():
    """w = 1 and zeta = 0 leave V(p, target) - V(q, source)."""
    edited = run_on_conditions("flowalign", steps=20, target_guidance=1.0, zeta=0.0)
    assert torch.allclose(edited, SOURCE + (TGT - SRC), atol=2e-3)
    pulled = run_on_conditions("flowalign", steps=20, target_guidance=1.0, zeta=0.05)
    assert (pulled - SOURCE).abs().max() < (edited - SOURCE).abs().max()


def test_flowalign_is_guided_away_from_the_source_prompt():
    """On Gaussians guidance moves the mean: from the source's to w times as far as the target's."""
    edited = run_on_conditions("flowalign", steps=20, target_guidance=2.0, zeta=0.0)
    assert torch.allclose(edited, SOURCE + 2 * (TGT - SRC), atol=4e-3)


def test_dfvedit_is_flowedit_with_both_states_noised_on_their_own():
    field, steps = Gaussian(), 20
    levels = field.levels(steps)
    by_hand = SOURCE
    for i in range(steps):
        eps = noise(SOURCE, 0, i)
        v_target = field.velocity(noised(by_hand, levels[i], eps), levels[i], TGT, branch="tgt+")
        v_source = field.velocity(noised(SOURCE, levels[i], eps), levels[i], SRC, branch="src+")
        by_hand = by_hand + (levels[i + 1] - levels[i]) * (v_target - v_source)
    edited = run("dfvedit", steps=steps, strength=1.0, source_guidance=1.0, target_guidance=1.0)
    assert torch.allclose(edited, by_hand, atol=1e-12)


def test_flowanchor_without_its_parts_is_flowedit():
    plain = {"steps": 10, "strength": 0.9, "source_guidance": 2.0, "target_guidance": 4.0}
    assert torch.equal(run_on_conditions("flowanchor", gamma=0.0, **plain), run_on_conditions("flowedit", **plain))


def test_flowanchor_amplifies_more_with_more_frames_and_not_at_all_for_one():
    from holdfast.methods.flowanchor import modulated

    signal = torch.randn(1, 4, 5, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(modulated(signal, 0.0, "signed"), signal)
    louder = modulated(signal, 0.7, "signed") / signal
    assert louder.min() >= 1
    assert louder.max() == pytest.approx(1.7, abs=1e-5)
    mean = signal.mean(1)
    assert louder[0, 0].flatten()[mean.flatten().argmax()] == pytest.approx(1.7, abs=1e-5)
    assert louder[0, 0].flatten()[mean.flatten().argmin()] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("frames", "gain"), [(17, 0.529), (33, 0.722), (41, 0.788), (81, 1.0), (121, 1.128)])
def test_flowanchor_gain_by_length(frames, gain):
    """gF = gamma log F / log F0 on latent frames: the paper's own values."""
    latent = (frames - 1) // 4 + 1
    assert math.log(latent) / math.log(21) == pytest.approx(gain, abs=1e-3)
    source = torch.randn(1, 2, latent, 2, 2, dtype=torch.float64)
    module = registry.method("flowanchor")
    conditions = [worded(torch.randn(source.shape, dtype=torch.float64)) for _ in range(2)]
    edited, plain = (last(module.edit(Unwrapping(), source, *conditions, module.Config(steps=1, strength=1.0, gamma=g))) for g in (1, 0))
    assert ((edited - source) / (plain - source)).max().item() == pytest.approx(1 + gain, abs=1e-3)


class Unwrapping(Gaussian):
    """Takes real conditions, whose text states are the means."""

    def velocity(self, z, sigma, condition, *, branch):
        mean = condition.positive if branch.endswith("+") else condition.negative
        return super().velocity(z, sigma, mean, branch=branch[:-1] + "+")


def worded(mean):
    return Condition(mean, 0 * mean)


def run_on_conditions(name, **settings):
    module = registry.method(name)
    return last(module.edit(Unwrapping(), SOURCE, worded(SRC), worded(TGT), module.Config(**settings)))


def test_flowdirector_released_averaging_changes_nothing_and_the_published_one_leaves_the_worse_flows():
    from holdfast.methods.flowdirector import Config, averaged

    flows = [torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    mean = torch.stack(flows).mean(0)
    subsets = [torch.stack([flows[i] for i in s]).mean(0) for s in itertools.combinations(range(4), 2)]
    trend = torch.stack([mean - s for s in subsets]).mean(0)
    assert torch.allclose(trend, torch.zeros_like(trend), atol=1e-6)  # why the released form is the mean
    assert torch.equal(averaged(flows, Config(averaging="released")), mean)
    likeness = [torch.cosine_similarity(f.flatten(), mean.flatten(), dim=0) for f in flows]
    worse = sorted(range(4), key=lambda i: likeness[i])[:2]
    expected = mean + 2.75 * (mean - (flows[worse[0]] + flows[worse[1]]) / 2)
    assert torch.allclose(averaged(flows, Config()), expected)


def test_flowdirector_softens_outwards_and_does_nothing_where_nothing_is_seen():
    from holdfast.methods.flowdirector import softened

    mask = torch.zeros(1, 1, 2, 5, 9)
    mask[0, 0, 0, 2, 4] = 1
    weights = softened(mask, 0.25)
    assert weights[0, 0, 0, 2].tolist() == pytest.approx([math.exp(-0.25 * abs(4 - x)) for x in range(9)], abs=1e-3)
    assert (weights[0, 0, 1] == 0).all()


def test_midpoint_is_of_second_order_and_uni_inversion_returns_exactly_along_its_velocities():
    field = Gaussian()
    levels = list(reversed(field.levels(400)))[:301]

    def velocity(z, sigma):
        return field.velocity(z, sigma, SRC, branch="src+")

    def climb(count):
        z = SOURCE
        for a, b in itertools.pairwise(levels[:: 300 // count]):
            z = inversion.midpoint(velocity, z, a, b)
        return z

    exact = climb(300)
    assert (climb(10) - exact).abs().max() < 0.3 * (climb(5) - exact).abs().max()
    z, last_velocity, seen = SOURCE, velocity(SOURCE, 0.0), []
    for a, b in itertools.pairwise(levels[::30]):
        z, last_velocity = inversion.corrected(velocity, z, last_velocity, a, b)
        seen.append((a, b, last_velocity))
    for a, b, v in reversed(seen):
        z = z + (a - b) * v
    assert torch.allclose(z, SOURCE, atol=1e-12)


def test_rfsolver_transports_the_inverted_source():
    """Up along the source's flow, down along the target's: on Gaussians of one deviation, a shift by the difference of the means."""
    edited = run_with_door("rfsolver", steps=100, target_guidance=1.0, inject=0)
    assert torch.allclose(edited, SOURCE + (TGT - SRC), atol=2e-2)


def run_with_door(name, **settings):
    class WithDoor(Gaussian):
        door = Door(lambda: None, lambda: None, 2)

    return run(name, WithDoor(), **settings)


def test_flowdirector_keeps_its_gate_where_the_edit_only_adds_words(tiny_wan):
    module = registry.method("flowdirector")
    source = torch.randn(1, 4, 2, 4, 6)
    src, tgt = tiny_wan.condition("a ball"), tiny_wan.condition("a ball and a star", words=[4])
    cfg = module.Config(steps=1, strength=1.0, n_avg=1, decay=50.0, smooth=1)
    edited = last(module.edit(tiny_wan, source, src, tgt, cfg))
    changed = ((edited - source).abs() > 1e-9).float().mean().item()
    assert 0 < changed < 1
