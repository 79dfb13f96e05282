"""The methods on an exactly known velocity field: signs, indices and orders of convergence have closed-form answers."""

import dataclasses
import itertools
import math

import pytest
import torch

from holdfast import methods
from holdfast.models import attention
from holdfast.models.attention.hooks import Layer, LayerHooks
from holdfast.models.base import Prompt
from holdfast.sampling import inversion, solvers
from holdfast.sampling.field import EditInputs
from holdfast.sampling.guidance import guided_velocity
from holdfast.sampling.noise import add_noise, keyed_noise

from .analytic import DEVIATION, Gaussian, about, as_field, last

pytestmark = [
    pytest.mark.filterwarnings("ignore:without a mask the target's attention"),
    pytest.mark.filterwarnings("ignore:no word drives the edit"),
]
SOURCE = torch.randn(1, 2, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
SRC, TGT = (torch.full((1, 2, 2, 3, 3), v, dtype=torch.float64) for v in (0.5, -1.25))


GIVEN = EditInputs(SOURCE, about(SRC), about(TGT))


def run(name, field=None, given=GIVEN, **settings):
    module = methods.load(name)
    return last(module.edit(as_field(field or Gaussian()), given, module.Config(**settings)))


@pytest.mark.parametrize("steps", [3, 20])
def test_flowedit_moves_a_gaussian_by_the_difference_of_the_means(steps):
    """Without guidance y = (1 - sigma)(target - source mean) solves the edit's equation, and Euler follows a straight
    line exactly.
    """
    edited = run("flowedit", steps=steps, strength=1.0, source_guidance=1.0, target_guidance=1.0)
    assert torch.allclose(edited, SOURCE + (TGT - SRC), atol=2e-3)


def test_flowedit_noise_cancels_on_a_linear_field():
    one = run("flowedit", steps=6, strength=0.5)
    many = run("flowedit", steps=6, strength=0.5, n_avg=4)
    assert torch.allclose(one, many, atol=1e-9)


def test_flowedit_averages_over_noises_that_differ():
    seen = []

    class Watched(Gaussian):
        def velocity(self, z, sigma, condition, *, branch, frames=None):
            if branch == "src+":
                seen.append(z)
            return super().velocity(z, sigma, condition, branch=branch)

    field = Watched()
    run("flowedit", field, steps=4, strength=0.5, n_avg=3, source_guidance=1.0)
    levels = field.sigmas(4)
    expected = [
        add_noise(SOURCE, levels[i], keyed_noise(SOURCE, 0, i, k)) for i in (2, 3) for k in range(3)
    ]
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_flowedit_from_the_middle_follows_its_equation():
    """Against a fine Runge-Kutta solution of y' = a(sigma) y + b(sigma) (target - source mean); first order in the
    step.
    """
    field = Gaussian()
    start = field.sigmas(64)[32]

    def slope(y, sigma):
        q = add_noise(SOURCE, sigma, torch.zeros_like(SOURCE))
        ahead = field.velocity(q + y, sigma, GIVEN.target, branch="tgt+")
        return ahead - field.velocity(q, sigma, GIVEN.source, branch="src+")

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
    assert torch.allclose(edited, transported(field.sigmas(steps)[0]), atol=2e-2)
    assert set(field.branches) == {"tgt+"}


def transported(sigma):
    z = add_noise(SOURCE, sigma, keyed_noise(SOURCE, 0, 0))
    return (
        TGT
        + DEVIATION * (z - (1 - sigma) * TGT) / ((1 - sigma) ** 2 * DEVIATION**2 + sigma**2) ** 0.5
    )


def test_sdedit_transports_the_noised_source():
    field = Gaussian()
    edited = run("sdedit", field, steps=400, strength=0.75, target_guidance=1.0)
    assert torch.allclose(edited, transported(field.sigmas(400)[100]), atol=2e-2)
    assert set(field.branches) == {"tgt+"}


def test_wanedit_mixes_at_the_previous_level_and_is_told_the_current_one():
    seen = []

    class Watched(Gaussian):
        def velocity(self, z, sigma, condition, *, branch, frames=None):
            if branch == "src+":
                seen.append((z, sigma))
            return super().velocity(z, sigma, condition, branch=branch)

    field = Watched()
    run("wanedit", field, steps=5, strength=0.8, shift=5.0)
    levels = field.sigmas(5, 5.0)
    assert [sigma for _, sigma in seen] == [field.snap_timestep(level) for level in levels[1:5]]
    for i, (z, _) in enumerate(seen, 1):
        mixed = field.snap_timestep(levels[i - 1])
        assert torch.equal(z, add_noise(SOURCE, mixed, keyed_noise(SOURCE, 0, i)))


def test_wanedit_moves_a_gaussian_towards_the_target():
    edited = run("wanedit", steps=50, strength=1.0, source_guidance=1.0, target_guidance=1.0)
    assert torch.allclose(edited, SOURCE + (TGT - SRC), atol=0.05)


def test_flowalign_moves_a_gaussian_like_flowedit_where_it_does_not_pull():
    """w = 1 and zeta = 0 leave V(p, target) - V(q, source)."""
    edited = run("flowalign", steps=20, target_guidance=1.0, zeta=0.0)
    assert torch.allclose(edited, SOURCE + (TGT - SRC), atol=2e-3)
    pulled = run("flowalign", steps=20, target_guidance=1.0, zeta=0.05)
    assert (pulled - SOURCE).abs().max() < (edited - SOURCE).abs().max()


def test_flowalign_is_guided_away_from_the_source_prompt():
    """On Gaussians guidance moves the mean: from the source's to w times as far as the target's."""
    edited = run("flowalign", steps=20, target_guidance=2.0, zeta=0.0)
    assert torch.allclose(edited, SOURCE + 2 * (TGT - SRC), atol=4e-3)


def test_flowalign_follows_its_equation():
    field, steps, w, zeta = Gaussian(), 5, 2.5, 0.04
    levels, z = field.sigmas(steps), SOURCE
    for i in range(steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        q = add_noise(SOURCE, sigma, keyed_noise(SOURCE, 0, i))
        p = z + q - SOURCE
        v_q = field.velocity(q, sigma, GIVEN.source, branch="src+")
        towards = field.velocity(p, sigma, GIVEN.target, branch="tgt+")
        away = field.velocity(p, sigma, GIVEN.source, branch="src+")
        v_p = away + w * (towards - away)
        pull = (q - sigma * v_q) - (p - sigma * v_p)
        z = z + (sigma_next - sigma) * (v_p - v_q) + zeta * pull
    edited = run("flowalign", steps=steps, target_guidance=w, zeta=zeta)
    assert torch.allclose(edited, z, atol=1e-9)


def test_holdfast_follows_its_equation():
    field, steps, g, h = Gaussian(), 5, 2.5, 0.75
    mask = torch.zeros(1, 1, *SOURCE.shape[2:], dtype=SOURCE.dtype)
    mask[..., 0], mask[..., 1] = 1, 0.5  # the edge of the region is soft
    levels, z = field.sigmas(steps), SOURCE
    for i in range(steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        noisy = add_noise(SOURCE, sigma, keyed_noise(SOURCE, 0, i))
        p = z + noisy - SOURCE
        v = field.velocity(p, sigma, GIVEN.target, branch="tgt+")
        empty = field.velocity(p, sigma, GIVEN.target, branch="tgt-")
        of_source = field.velocity(p, sigma, GIVEN.source, branch="src+")
        v_p = v + (g - 1) * (v - empty) + h * (v - of_source)
        v_source = field.velocity(noisy, sigma, GIVEN.source, branch="src+")
        z = z + (sigma_next - sigma) * mask * (v_p - v_source)
    given = dataclasses.replace(GIVEN, mask=mask)
    guidance = {"target_guidance": g, "contrast_guidance": h}
    edited = run("holdfast", given=given, steps=steps, strength=1.0, **guidance)
    assert torch.allclose(edited, z, atol=1e-9)
    assert torch.equal(edited[..., 2:], SOURCE[..., 2:])


def test_dfvedit_is_flowedit_with_both_states_noised_on_their_own():
    field, steps = Gaussian(), 20
    levels = field.sigmas(steps)
    by_hand = SOURCE
    for i in range(steps):
        eps = keyed_noise(SOURCE, 0, i)
        v_target = field.velocity(
            add_noise(by_hand, levels[i], eps), levels[i], GIVEN.target, branch="tgt+"
        )
        v_source = field.velocity(
            add_noise(SOURCE, levels[i], eps), levels[i], GIVEN.source, branch="src+"
        )
        by_hand = by_hand + (levels[i + 1] - levels[i]) * (v_target - v_source)
    edited = run("dfvedit", steps=steps, strength=1.0, source_guidance=1.0, target_guidance=1.0)
    assert torch.allclose(edited, by_hand, atol=1e-12)


def test_flowanchor_without_its_parts_is_flowedit():
    plain = {
        "steps": 10,
        "strength": 0.9,
        "source_guidance": 2.0,
        "target_guidance": 4.0,
        "timesteps": "exact",
    }
    assert torch.equal(run("flowanchor", gamma=0.0, **plain), run("flowedit", **plain))


def test_flowanchor_amplifies_more_with_more_frames_and_not_at_all_for_one():
    from holdfast.methods.flowanchor import modulate_magnitude

    signal = torch.randn(
        1, 4, 5, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(modulate_magnitude(signal, 0.0, "signed"), signal)
    louder = modulate_magnitude(signal, 0.7, "signed") / signal
    assert louder.min() >= 1
    assert louder.max() == pytest.approx(1.7, abs=1e-5)
    mean = signal.mean(1)
    assert louder[0, 0].flatten()[mean.flatten().argmax()] == pytest.approx(1.7, abs=1e-5)
    assert louder[0, 0].flatten()[mean.flatten().argmin()] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("frames", "gain"), [(17, 0.529), (33, 0.722), (41, 0.788), (81, 1.0), (121, 1.128)]
)
def test_flowanchor_gain_by_length(frames, gain):
    """gF = gamma log F / log F0 on latent frames: the paper's own values."""
    latent = (frames - 1) // 4 + 1
    assert math.log(latent) / math.log(21) == pytest.approx(gain, abs=1e-3)
    source = torch.randn(1, 2, latent, 2, 2, dtype=torch.float64)
    module = methods.load("flowanchor")
    given = EditInputs(
        source, *(about(torch.randn(source.shape, dtype=torch.float64)) for _ in range(2))
    )
    configs = [module.Config(steps=1, strength=1.0, gamma=g) for g in (1, 0)]
    edited, plain = (last(module.edit(as_field(Gaussian()), given, cfg)) for cfg in configs)
    assert ((edited - source) / (plain - source)).max().item() == pytest.approx(1 + gain, abs=1e-3)


def test_flowdirector_released_averaging_changes_nothing_and_the_published_one_leaves_the_worse_flows():
    from holdfast.methods.flowdirector import Config, average_differentially

    flows = [torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    mean = torch.stack(flows).mean(0)
    subsets = [
        torch.stack([flows[i] for i in s]).mean(0) for s in itertools.combinations(range(4), 2)
    ]
    trend = torch.stack([mean - s for s in subsets]).mean(0)
    assert torch.allclose(
        trend, torch.zeros_like(trend), atol=1e-6
    )  # why the released form is the mean
    assert torch.equal(average_differentially(flows, Config(averaging="released")), mean)
    likeness = [torch.cosine_similarity(f.flatten(), mean.flatten(), dim=0) for f in flows]
    worse = sorted(range(4), key=lambda i: likeness[i])[:2]
    expected = mean + 2.75 * (mean - (flows[worse[0]] + flows[worse[1]]) / 2)
    assert torch.allclose(average_differentially(flows, Config()), expected)


def test_flowdirector_softens_outwards_and_does_nothing_where_nothing_is_seen():
    from holdfast.methods.flowdirector import fade_outwards

    mask = torch.zeros(1, 1, 2, 5, 9)
    mask[0, 0, 0, 2, 4] = 1
    weights = fade_outwards(mask, 0.25)
    assert weights[0, 0, 0, 2].tolist() == pytest.approx(
        [math.exp(-0.25 * abs(4 - x)) for x in range(9)], abs=1e-3
    )
    assert (weights[0, 0, 1] == 0).all()


def test_midpoint_is_of_second_order_and_uni_inversion_returns_exactly_along_its_velocities():
    field = Gaussian()
    levels = list(reversed(field.sigmas(400)))[:301]

    def velocity(z, sigma):
        return field.velocity(z, sigma, GIVEN.source, branch="src+")

    def climb(count):
        z = SOURCE
        for a, b in itertools.pairwise(levels[:: 300 // count]):
            z = solvers.midpoint_step(velocity, z, a, b)
        return z

    exact = climb(300)
    assert (climb(10) - exact).abs().max() < 0.3 * (climb(5) - exact).abs().max()
    z, last_velocity, seen = SOURCE, velocity(SOURCE, 0.0), []
    for a, b in itertools.pairwise(levels[::30]):
        z, last_velocity = inversion.uni_inv_step(velocity, z, last_velocity, a, b)
        seen.append((a, b, last_velocity))
    for a, b, v in reversed(seen):
        z = z + (a - b) * v
    assert torch.allclose(z, SOURCE, atol=1e-12)


def test_rfsolver_transports_the_inverted_source():
    """Up along the source's flow, down along the target's: on Gaussians of one deviation, a shift by the difference of
    the means.
    """
    edited = run_with_door("rfsolver", steps=100, target_guidance=1.0, inject=0)
    assert torch.allclose(edited, SOURCE + (TGT - SRC), atol=2e-2)


def run_with_door(name, **settings):
    class WithDoor(Gaussian):
        attention_hooks = LayerHooks(
            lambda door: lambda: None, [Layer("a", "block", 0, "self", "joint")]
        )

    return run(name, WithDoor(), **settings)


def test_flowdirector_keeps_its_gate_where_the_edit_only_adds_words(tiny_wan):
    module = methods.load("flowdirector")
    source = torch.randn(1, 4, 2, 4, 6)
    prompts = Prompt("a ball"), Prompt("a ball and a star", words=(4,))
    given = EditInputs(source, *map(tiny_wan.condition, prompts))
    cfg = module.Config(steps=1, strength=1.0, n_avg=1, decay=50.0, pool_size=1)
    edited = last(module.edit(as_field(tiny_wan), given, cfg))
    changed = ((edited - source).abs() > 1e-9).float().mean().item()
    assert 0 < changed < 1


def test_uniedit_follows_its_equation():
    """Uni-Inv with the negative prompt, then both prompts on one state, written out from the paper once more."""
    field, steps, omega = Gaussian(), 6, 3.0
    levels = field.sigmas(steps)[::-1]  # from clean to noisy
    varied = TGT + torch.linspace(
        0, 2, 3, dtype=torch.float64
    )  # an edit that is stronger to the right
    given = EditInputs(SOURCE, about(SRC), about(varied))

    def velocity(z, sigma, condition, branch):
        return field.velocity(z, sigma, condition, branch=branch)

    z, v = SOURCE, velocity(SOURCE, 0.0, given.source, "src-")
    for a, b in itertools.pairwise(levels[:5]):
        v = velocity(z + (b - a) * v, b, given.source, "src-")
        z = z + (b - a) * v
    for a, b in itertools.pairwise(levels[:5][::-1]):
        v_target, v_source = (
            velocity(z, a, given.target, "tgt+"),
            velocity(z, a, given.source, "src+"),
        )
        g = v_target - v_source
        mean = g.mean(1, keepdim=True)
        m = (mean - mean.min()) / (mean.max() - mean.min())
        z = z + (b - a) * (omega * (1 + m) * g + m * v_target + (1 - m) * v_source)
    module = methods.load("uniedit")
    cfg = module.Config(steps=steps, strength=4 / 6, omega=omega)
    edited = last(module.edit(as_field(field), given, cfg))
    assert torch.allclose(edited, z, atol=1e-9)


def test_uniedit_says_by_the_sign_or_the_size_of_the_difference_where_it_is():
    from holdfast.sampling.masking import contrast_map

    difference = torch.tensor([-4.0, 0.0, 1.0]).view(1, 1, 1, 1, 3)
    assert contrast_map(difference, "signed").flatten().tolist() == pytest.approx([0, 0.8, 1])
    assert contrast_map(difference, "abs").flatten().tolist() == pytest.approx([1, 0, 0.25])


@pytest.mark.parametrize("name", ["rfsolver", "uniedit"])
def test_what_inverts_returns_to_the_source_for_equal_prompts_to_the_order_of_its_solver(name):
    """It cannot return exactly; the error falls with the number of steps."""
    given = EditInputs(SOURCE, about(SRC), about(SRC))
    module, errors = methods.load(name), []
    for steps in (8, 32):
        wanted = {"steps": steps, "strength": 0.5, "target_guidance": 1.0, "inject": 0}
        wanted["invert_with_source"] = True
        cfg = module.Config(**{k: v for k, v in wanted.items() if hasattr(module.Config, k)})
        errors.append(
            (last(module.edit(as_field(Gaussian()), given, cfg)) - SOURCE).abs().max().item()
        )
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.05


@pytest.mark.parametrize("solver", ["midpoint", "cached"])
def test_rfsolvers_two_solvers_cost_what_they_say_and_agree(solver):
    """FireFlow's cached midpoint: one evaluation a step and one more each way, against two a step."""
    field, steps = Gaussian(), 40
    edited = run("rfsolver", field, steps=steps, solver=solver, target_guidance=1.0, inject=0)
    assert torch.allclose(edited, SOURCE + (TGT - SRC), atol=5e-2)
    assert len(field.branches) == (4 * steps if solver == "midpoint" else 2 * (steps + 1))


def test_the_cached_midpoint_is_of_second_order():
    field = Gaussian()
    levels = list(reversed(field.sigmas(400)))[:301]

    def velocity(z, sigma):
        return field.velocity(z, sigma, GIVEN.source, branch="src+")

    def climb(count):
        z, kept = SOURCE, velocity(SOURCE, 0.0)
        for a, b in itertools.pairwise(levels[:: 300 // count]):
            z, kept = solvers.cached_midpoint_step(velocity, z, kept, a, b)
        return z

    exact = climb(300)
    assert (climb(20) - exact).abs().max() < 0.35 * (climb(10) - exact).abs().max()


def test_rfsolver_takes_the_sources_values_in_its_first_sampling_step(tiny_wan):
    """By hand: values seen in the source at the inverted latent stand in for the target's own, at both evaluations."""
    module = methods.load("rfsolver")
    torch.manual_seed(0)
    source = torch.randn(1, 4, 2, 4, 6)
    prompts = Prompt("a plain red ball"), Prompt("a striped blue star")
    given = EditInputs(source, *map(tiny_wan.condition, prompts))
    cfg = module.Config(steps=1, inject=1, depth=0.0, target_guidance=1.0)
    top = tiny_wan.sigmas(1)[0]

    def velocity(z, sigma, side):
        condition = given.source if side == "src" else given.target
        return tiny_wan.velocity(z, sigma, condition, branch=f"{side}+")

    inverted = solvers.midpoint_step(lambda z, s: velocity(z, s, "src"), source, 0.0, top)
    seen = {}

    def look(site, q, k, v):
        seen[site.path] = v

    def share(site, q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, seen[site.path])

    def selfish(site):
        return site.kind == "self"

    with attention.use_rule(tiny_wan, look, selfish):
        velocity(inverted, top, "src")
    with attention.use_rule(tiny_wan, share, selfish):
        expected = solvers.midpoint_step(lambda z, s: velocity(z, s, "tgt"), inverted, top, 0.0)
    plain = solvers.midpoint_step(lambda z, s: velocity(z, s, "tgt"), inverted, top, 0.0)
    edited = last(module.edit(as_field(tiny_wan), given, cfg))
    assert torch.allclose(edited, expected, atol=1e-5)
    assert not torch.allclose(edited, plain, atol=1e-4)


class Looking(Gaussian):
    """Its words attend to the left half of the frame."""

    def __init__(self):
        super().__init__()
        self.attention_hooks = LayerHooks(
            lambda door: lambda: None, [Layer("look", "block", 0, "cross", "joint")]
        )

    def velocity(self, z, sigma, condition, *, branch, frames=None):
        f, h, w = z.shape[2:]
        left = torch.zeros(f, h, w)
        left[..., : w // 2] = 1
        q = 9 * torch.stack((1 - left.flatten(), left.flatten()), -1)[None, None]
        k = torch.eye(2)[None, None]
        with self.attention_hooks.use_call(attention.NetworkCall(branch, tuple(range(f)), (h, w))):
            site = self.attention_hooks.locate(self.attention_hooks.layers[0], h, w, (0, 2))
            if self.attention_hooks.has_rule(site):
                self.attention_hooks.run_rules(site, q, k, k)
        return super().velocity(z, sigma, condition, branch=branch)


def test_flowdirector_edits_where_the_words_attend_and_fades_outwards():
    source = torch.zeros(1, 1, 1, 4, 8, dtype=torch.float64)
    words = [
        dataclasses.replace(about(torch.full_like(source, m)), edit_tokens=(1,)) for m in (0, 2)
    ]
    module = methods.load("flowdirector")
    cfg = module.Config(steps=1, strength=1.0, n_avg=1, pool_size=1, decay=1.0)
    row = last(module.edit(as_field(Looking()), EditInputs(source, *words), cfg))[0, 0, 0, 0]
    inside = row[0].item()
    assert abs(inside) > 0.1
    expected = [inside * math.exp(-max(0, x - 3)) for x in range(8)]
    assert row.tolist() == pytest.approx(expected, rel=1e-3)


def test_flowdirector_mixes_and_steps_at_whole_thousandths():
    """On a linear field without guidance one step moves by the difference of the means times the step: its length
    tells.
    """
    field = Gaussian()
    whole, exact = (
        run("flowdirector", field, steps=7, n_avg=1, strength=1 / 7, timesteps=t,
            source_guidance=1.0, target_guidance=1.0)
        for t in ("whole", "exact")
    )  # fmt: skip
    step = {"whole": field.snap_timestep(field.sigmas(7)[6]), "exact": field.sigmas(7)[6]}
    for edited, name in ((whole, "whole"), (exact, "exact")):
        sigma = step[name]
        variance = (1 - sigma) ** 2 * DEVIATION**2 + sigma**2
        slope = 1 + (1 - sigma) / variance * (sigma - (1 - sigma) * DEVIATION**2)
        moved = sigma * slope * (TGT - SRC)
        assert torch.allclose(edited - SOURCE, moved, atol=1e-9), name
    assert not torch.allclose(whole, exact, atol=1e-6)


def test_flowdirector_looks_at_the_layer_at_its_depth_and_smooths_by_its_side(tiny_wan):
    from holdfast.methods.flowdirector import find_layer, threshold_heat

    assert find_layer(tiny_wan.field, 0.0) == "blocks.0.attn2"
    assert find_layer(tiny_wan.field, 0.6) == find_layer(tiny_wan.field, 1.0) == "blocks.1.attn2"
    spot = torch.zeros(1, 1, 1, 60, 60)
    spot[..., 30, 30] = 1
    assert (
        threshold_heat(spot, (1, 60, 60), 11).sum() == 121
    )  # the pooling's side, on a frame of 60
    assert threshold_heat(spot, (1, 60, 60), 1).sum() == 1


def test_flowdirector_joins_what_is_seen_under_all_noises(monkeypatch):
    from holdfast.methods import flowdirector

    # Of source and target, under two noises.
    masks = iter([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    source = torch.zeros(1, 1, 1, 1, 4, dtype=torch.float64)

    def evaluate_with_attention(field, sigma, points, config):
        found = [torch.tensor(next(masks), dtype=torch.float64) for _ in points]
        mask = torch.maximum(*found).view(1, 1, 1, 1, 4)
        return [torch.ones_like(p.z) * (p.side == "tgt") for p in points], mask

    monkeypatch.setattr(flowdirector, "evaluate_with_attention", evaluate_with_attention)
    worded = dataclasses.replace(about(source), edit_tokens=(1,))
    cfg = flowdirector.Config(steps=1, strength=1.0, n_avg=2, n_worst=1, decay=60.0)
    edited = last(flowdirector.edit(as_field(Gaussian()), EditInputs(source, worded, worded), cfg))
    assert (edited.flatten().abs() > 1e-6).tolist() == [True, False, True, True]


def test_guidance_may_rise_over_the_frames():
    field = Gaussian()
    plain, half = (
        guided_velocity(as_field(field), SOURCE, 0.5, GIVEN.target, "tgt", scale)
        for scale in (3.0, (1.0, 3.0))
    )
    assert torch.allclose(half[:, :, 1], plain[:, :, 1])
    alone = field.velocity(SOURCE, 0.5, GIVEN.target, branch="tgt+")
    assert torch.allclose(half[:, :, 0], alone[:, :, 0])


def test_a_velocity_is_differentiable(tiny_wan):
    z = torch.randn(1, 4, 1, 4, 4, requires_grad=True)
    condition = tiny_wan.condition(Prompt("a plain red ball"))
    tiny_wan.velocity(z, 0.5, condition, branch="tgt+").square().sum().backward()
    assert z.grad.abs().max() > 0
