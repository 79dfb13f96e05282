"""DDIM inversion and sampling: the steps of diffusers' own schedulers, on a tiny network of the published class."""

import dataclasses
import itertools

import pytest
import torch

from holdfast.base.errors import UserError
from holdfast.models.base import Prompt
from holdfast.models.noise_schedule import NoiseSchedule
from holdfast.sampling import ddim
from holdfast.sampling.field import EditInputs

from .. import tiny

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


@pytest.fixture(scope="module")
def backbone():
    return tiny.ADAPTERS["sd"]()


@pytest.fixture(scope="module")
def conditioning(backbone):
    return backbone.condition(Prompt("a red ball", ""))


def use_scheduler(backbone, prediction, **changes):
    from diffusers import DDIMScheduler

    config = SCHEDULER | {"_class_name": "DDIMScheduler", "prediction_type": prediction} | changes
    backbone.schedule = NoiseSchedule.from_config(config)
    backbone.clean_sigma = backbone.schedule.clean_sigma
    return DDIMScheduler.from_config(config)


def predict(backbone, conditioning, x, t):
    """Return the network's own prediction at x, b c f h w, frame by frame."""
    text = conditioning.positive
    with torch.no_grad():
        frames = [backbone.network(x[:, :, i], t, text).sample for i in range(x.shape[2])]
    return torch.stack(frames, 2)


def run(backbone, inputs, config):
    levels = ddim.plan_levels(backbone.field, inputs, config)
    inversion, steps = ddim.invert(backbone.field, inputs, config, levels, None), []
    while True:
        try:
            steps.append(next(inversion))
        except StopIteration as end:
            return levels, steps, end.value


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_inversion_and_sampling_are_those_of_the_schedulers(backbone, conditioning, prediction):
    from diffusers import DDIMInverseScheduler

    forward = use_scheduler(backbone, prediction)
    inverse = DDIMInverseScheduler.from_config(forward.config)
    for scheduler in (forward, inverse):
        scheduler.set_timesteps(10)
    latent = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    inputs = EditInputs(latent, conditioning, conditioning)
    config = ddim.DDIMConfig(steps=10, inversion_steps=10)
    with torch.no_grad():
        levels, steps, (z, state) = run(backbone, inputs, config)
    x, expected = latent, {}
    for i, t in enumerate(inverse.timesteps):
        x = inverse.step(predict(backbone, conditioning, x, t), t, x).prev_sample
        expected[i + 1] = x
    for step in steps:
        own = step.z / ddim.scale_of(levels.rising[step.index])
        assert torch.allclose(own, expected[step.index], rtol=1e-5, atol=1e-5)
    assert set(state) == {f"inverted{n}" for n in range(11)}
    assert torch.equal(state["inverted10"], z)
    for i, t in enumerate(forward.timesteps):
        x = forward.step(predict(backbone, conditioning, x, t), t, x).prev_sample
        sigma, sigma_next = levels.sigmas[i : i + 2]
        with torch.no_grad():
            velocity = backbone.field.velocity(z, sigma, conditioning, branch="tgt+")
        z = z + (sigma_next - sigma) * velocity
        assert torch.allclose(z / ddim.scale_of(sigma_next), x, rtol=1e-5, atol=1e-5)
    assert torch.allclose(levels.hold(inputs, state, 10, z), x, rtol=1e-5, atol=1e-5)


def test_the_older_rule_gives_the_network_the_level_of_the_latent(backbone, conditioning):
    """x is taken to be at the first timestep, and each step is evaluated where the latent is."""
    use_scheduler(backbone, "epsilon")
    latent = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    inputs = EditInputs(latent, conditioning, conditioning)
    config = ddim.DDIMConfig(steps=5, inversion_steps=10, inversion_timestep="current")
    with torch.no_grad():
        levels, steps, (z, state) = run(backbone, inputs, config)
    timesteps = [backbone.schedule.timestep_at(sigma) for sigma in levels.rising]
    assert timesteps == [1.0 + 100 * i for i in range(9)]
    abar = 1 / (1 + torch.from_numpy(backbone.schedule.ratios) ** 2)
    x = latent
    for t, t_next in itertools.pairwise(timesteps):
        eps = predict(backbone, conditioning, x, t)
        a, a_next = abar[int(t)], abar[int(t_next)]
        clean = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = (a_next.sqrt() * clean + (1 - a_next).sqrt() * eps).float()
    assert torch.allclose(z / ddim.scale_of(levels.rising[-1]), x, rtol=1e-5, atol=1e-5)
    assert sorted(state) == [f"inverted{n}" for n in range(1, 6)]
    assert len(steps) == 8


def test_sampling_levels_that_the_inversion_steps_lack_are_inverted_as_well(backbone, conditioning):
    """So sampling has the levels that were asked for, and each has its inverted latent."""
    use_scheduler(backbone, "epsilon")
    inputs = EditInputs(torch.zeros(1, 4, 1, 4, 4), conditioning, conditioning)
    plan = lambda **settings: ddim.plan_levels(  # noqa: E731
        backbone.field, inputs, ddim.DDIMConfig(**settings)
    )
    levels = plan(steps=30, inversion_steps=50)
    assert levels.sigmas[:-1] == backbone.field.sigmas(30)[:-1]
    fifty = backbone.field.sigmas(50)[:-1]
    below_the_first = [sigma for sigma in fifty if sigma <= levels.sigmas[0]]
    assert set(levels.rising[1:]) == {*levels.sigmas[:-1], *below_the_first}
    assert all(a < b for a, b in itertools.pairwise(levels.rising))
    assert len(plan(steps=50, inversion_steps=500).rising) == 492  # to timestep 981: none is added
    with pytest.raises(UserError, match="inversion_steps is 5"):
        plan(steps=10, inversion_steps=5)
    part = plan(steps=10, inversion_steps=50, strength=0.5)
    assert (part.first_step, part.rising[-1]) == (5, part.sigmas[5])
    nothing = plan(steps=10, strength=0.0)
    assert nothing.networks == []


def test_every_sampling_level_of_a_shifted_schedule_has_its_latent(backbone, conditioning):
    """With a shift, the noisiest levels of few steps are closer together than those of an inversion."""
    use_scheduler(backbone, "epsilon")
    inputs = EditInputs(torch.zeros(1, 4, 1, 4, 4), conditioning, conditioning)
    config = ddim.DDIMConfig(steps=25, inversion_steps=75, shift=2.0)
    levels = ddim.plan_levels(backbone.field, inputs, config)
    assert all(a > b for a, b in itertools.pairwise(levels.sigmas))
    assert sorted(levels.numbers.values()) == list(range(26))
    with pytest.raises(UserError, match="the model has 999 noise levels"):
        ddim.plan_levels(backbone.field, inputs, ddim.DDIMConfig(steps=1000, inversion_steps=1000))


def test_a_clean_latent_is_that_of_timestep_0_unless_the_scheduler_ends_clean(backbone):
    use_scheduler(backbone, "epsilon")
    assert backbone.field.clean_sigma == backbone.schedule.sigma_at(0) > 0
    use_scheduler(backbone, "epsilon", set_alpha_to_one=True)
    assert backbone.field.clean_sigma == 0


def test_latents_above_a_level_are_dropped():
    state = {name: torch.zeros(1) for name in ("inverted1", "inverted3", "inverted12", "last")}
    assert set(ddim.drop_above(state, 3)) == {"inverted1", "inverted3", "last"}


def test_outside_the_mask_the_inverted_clip_stands_and_the_source_at_the_end(conditioning):
    latent = torch.ones(1, 1, 1, 1, 2)
    inputs = EditInputs(latent, conditioning, conditioning)
    mask = torch.tensor([1.0, 0.0]).view(1, 1, 1, 1, 2)
    inputs = dataclasses.replace(inputs, mask=mask)
    levels = ddim.make_levels([0.8, 0.4, 0.03], 0, 0.03, [0.4, 0.8])
    state = {"inverted1": torch.full_like(latent, 5.0)}
    z = torch.full_like(latent, 7.0)
    assert levels.hold(inputs, state, 1, z).flatten().tolist() == [7.0, 5.0]
    last = levels.hold(inputs, state, 2, z).flatten().tolist()
    assert last == pytest.approx([7.0 / ddim.scale_of(0.03), 1.0])


@pytest.mark.parametrize("family", ["wan", "sd", "t2v", "svd"])
def test_every_family_takes_the_level_that_its_network_is_given(family):
    """The same latent and noise level; another timestep, and then the same one."""
    backbone = tiny.ADAPTERS[family]()
    image = torch.zeros(3, 32, 32) if family == "svd" else None
    conditioning = backbone.condition(Prompt("a ball", "", image=image))
    z = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        at = lambda **given: backbone.field.velocity(  # noqa: E731
            z, 0.4, conditioning, branch="src+", **given
        )
        stock = at()
        assert torch.equal(at(network_sigma=0.4), stock)
        assert not torch.allclose(at(network_sigma=0.8), stock, rtol=0, atol=1e-7)


def test_what_is_shared_between_edits_knows_the_networks_level_and_norms(backbone, conditioning):
    from holdfast.models.source_store import SourceStore

    use_scheduler(backbone, "epsilon")
    store = SourceStore(backbone)
    store.begin_edit()
    field = store.wrap(backbone.field)
    z = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(4))
    at = lambda field, **given: field.velocity(  # noqa: E731
        z, 0.4, conditioning, branch="src+", **given
    )
    with torch.no_grad():
        for given in ({}, {"network_sigma": 0.7}):
            assert torch.equal(at(field, **given), at(backbone.field, **given))
        with field.normalize_over_clip():
            assert torch.equal(at(field), at(backbone.field))
        assert torch.equal(at(field), at(backbone.field))
    assert store.reused == 1
