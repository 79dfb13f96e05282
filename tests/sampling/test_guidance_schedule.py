"""The negative branch runs where the settings say, and what stands in for it is what the module states."""

from collections import Counter

import pytest
import torch

from holdfast import methods
from holdfast.base.errors import UserError
from holdfast.models.base import Prompt
from holdfast.sampling.field import EditInputs
from holdfast.sampling.guidance_schedule import begin_guided
from holdfast.sampling.noise import add_noise, keyed_noise

from ..methods.analytic import Gaussian, about, as_field, last

pytestmark = pytest.mark.filterwarnings("ignore:without a mask the target's attention")
METHODS = ("dfvedit", "flowalign", "flowdirector", "flowedit", "holdfast", "sdedit", "wanedit")
WITH_SOURCE = tuple(name for name in METHODS if name != "sdedit")
STEPS = 7


def make_inputs(equal: bool = False) -> EditInputs:
    torch.manual_seed(2)
    source, target = torch.randn(2, 1, 2, 3, 4, 4)
    conditions = about(source), about(source if equal else target)
    return EditInputs(torch.randn(1, 2, 3, 4, 4), *conditions, seed=4)


def make_config(method: str, **settings):
    common = {"steps": STEPS, "strength": 1.0, "timesteps": "exact"}
    names = methods.load(method).Config.__dataclass_fields__
    if "source_guidance" in names:
        common["source_guidance"] = settings.get("target_guidance", 4.0)
    if "target_guidance" in names:
        common["target_guidance"] = 4.0
    return methods.load(method).Config(**common | settings)


def run(method: str, inputs: EditInputs, **settings):
    """Return the edited latent and the branches that were evaluated at each noise level."""
    gauss = Gaussian()
    config = make_config(method, **settings)
    z = last(methods.load(method).edit(as_field(gauss), inputs, config))
    return z, list(zip(gauss.told, gauss.branches, strict=True))


def negatives(calls) -> list[float]:
    return [sigma for sigma, branch in calls if branch == "tgt-"]


@pytest.mark.filterwarnings("ignore:no word drives the edit")
@pytest.mark.parametrize("method", METHODS)
def test_outside_the_interval_the_negative_is_not_evaluated(method):
    inputs = make_inputs()
    _, calls = run(method, inputs, guidance_interval="0.3:0.7")
    _, everywhere = run(method, inputs)
    inside = [sigma for sigma in negatives(everywhere) if 0.3 <= sigma <= 0.7]
    assert negatives(calls) == inside
    assert 0 < len(inside) < len(negatives(everywhere))
    assert [c for c in calls if c[1].endswith("+")] == [c for c in everywhere if c[1].endswith("+")]


@pytest.mark.parametrize("method", ["dfvedit", "flowedit", "sdedit", "wanedit"])
def test_an_interval_without_a_step_is_guidance_one(method):
    inputs = make_inputs()
    z, calls = run(method, inputs, guidance_interval=0.001)
    assert not negatives(calls)
    assert torch.equal(z, run(method, inputs, target_guidance=1.0)[0])


@pytest.mark.filterwarnings("ignore:no word drives the edit")
@pytest.mark.parametrize("method", WITH_SOURCE)
@pytest.mark.parametrize("settings", [{"guidance_interval": "0.2:0.8"}, {"negative_every": 3}])
def test_equal_prompts_still_give_the_source_back(method, settings):
    inputs = make_inputs(equal=True)
    assert torch.equal(run(method, inputs, **settings)[0], inputs.latent)


@pytest.mark.filterwarnings("ignore:no word drives the edit")
@pytest.mark.parametrize("method", METHODS)
def test_every_third_negative_is_evaluated_from_the_first_step_on(method):
    inputs = make_inputs()
    _, everywhere = run(method, inputs)
    sigmas = list(dict.fromkeys(negatives(everywhere)))
    _, calls = run(method, inputs, negative_every=3)
    assert list(dict.fromkeys(negatives(calls))) == sigmas[::3]
    assert Counter(negatives(calls)) == Counter(
        s for s in negatives(everywhere) if s in sigmas[::3]
    )


def test_a_step_that_reuses_guidance_adds_the_difference_of_the_last_evaluation():
    """By hand: the noise is drawn again at each step, so the negative velocity itself would be wrong."""
    inputs, config = make_inputs(), make_config("flowedit", steps=2, negative_every=2)
    field, gauss = as_field(Gaussian()), Gaussian()
    first, second = methods.load("flowedit").edit(field, inputs, config)
    sigmas, x = gauss.sigmas(2), inputs.latent

    def velocity(z, i, condition, branch):
        return gauss.velocity(z, sigmas[i], condition, branch=branch)

    def points(z, i):
        x_sigma = add_noise(x, sigmas[i], keyed_noise(x, inputs.seed, i))
        return (x_sigma, inputs.source, "src"), (x_sigma + (z - x), inputs.target, "tgt")

    kept = {
        side: velocity(z, 0, c, f"{side}+") - velocity(z, 0, c, f"{side}-")
        for z, c, side in points(x, 0)
    }
    v_source, v_target = (
        velocity(z, 1, c, f"{side}+") + 3 * kept[side] for z, c, side in points(first.z, 1)
    )
    expected = first.z + (sigmas[2] - sigmas[1]) * (v_target - v_source)
    assert torch.allclose(second.z, expected, atol=1e-5)
    assert set(first.state) == {"guidance.src.0", "guidance.tgt.0"}


def test_each_of_two_negatives_is_reused_as_its_own():
    """The target of `holdfast` is led away from the negative prompt and from the source prompt."""
    inputs, gauss = make_inputs(), Gaussian()
    settings = {"source_guidance": 1.0, "contrast_guidance": 2.0}
    config = make_config("holdfast", steps=2, negative_every=2, **settings)
    first, second = methods.load("holdfast").edit(as_field(Gaussian()), inputs, config)
    (sigma, sigma_next, _), x = gauss.sigmas(2), inputs.latent
    noisy = add_noise(x, sigma, keyed_noise(x, inputs.seed, 0))
    positive = gauss.velocity(noisy, sigma, inputs.target, branch="tgt+")
    negatives = inputs.target, inputs.target.with_negative_of(inputs.source)
    own, other = (positive - gauss.velocity(noisy, sigma, c, branch="tgt-") for c in negatives)
    assert torch.allclose(first.state["guidance.tgt.0"], own, atol=1e-5)
    assert torch.allclose(first.state["guidance.tgt.0.1"], other, atol=1e-5)
    noisy = add_noise(x, sigma_next, keyed_noise(x, inputs.seed, 1))
    v_source = gauss.velocity(noisy, sigma_next, inputs.source, branch="src+")
    positive = gauss.velocity(noisy + (first.z - x), sigma_next, inputs.target, branch="tgt+")
    change = positive + 3 * own + 2 * other - v_source
    assert torch.allclose(second.z, first.z - sigma_next * change, atol=1e-5)


@pytest.mark.filterwarnings("ignore:no word drives the edit")
@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_reuses_what_the_stopped_one_found(method):
    inputs, module = make_inputs(), methods.load(method)
    config = make_config(method, negative_every=3, guidance_interval="0:0.9")
    steps = list(module.edit(as_field(Gaussian()), inputs, config))
    for step in steps[:-1]:
        z = last(module.edit(as_field(Gaussian()), inputs, config, step))
        assert torch.equal(z, steps[-1].z), step.index


def test_without_the_settings_nothing_is_saved_and_no_field_is_wrapped():
    inputs, field = make_inputs(), as_field(Gaussian())
    sampler = begin_guided(field, inputs, make_config("flowedit"), None)
    assert sampler.field is field
    assert sampler.state() == {}


@pytest.mark.parametrize("interval", ["0.7:0.3", "0.2:1.5", "-0.1:0.5", 0.0, "0.5:0.5"])
def test_an_interval_that_holds_no_noise_level_is_refused(interval):
    with pytest.raises(UserError, match="use two noise levels between 0 and 1"):
        make_config("flowdirector", guidance_interval=interval)


def test_a_single_number_is_the_end_of_an_interval_from_zero():
    inputs = make_inputs()
    alone, pair = (run("flowedit", inputs, guidance_interval=v)[1] for v in (0.6, "0:0.6"))
    assert alone == pair


@pytest.mark.parametrize("settings", [{"guidance_interval": "0.3:0.9"}, {"negative_every": 2}])
def test_a_region_and_the_schedule_together_keep_the_source(settings, tiny_wan):
    """Of equal prompts, on a network whose packed pass runs other rows from step to step."""
    torch.manual_seed(6)
    latent = torch.randn(1, tiny_wan.vae.config.z_dim, 2, 4, 6)
    mask = torch.zeros(1, 1, 2, 4, 6)
    mask[..., 1:3, 2:5] = 1
    condition = tiny_wan.condition(Prompt("a red ball"))
    inputs = EditInputs(latent, condition, condition, mask=mask)
    config = make_config("flowedit", steps=4, **settings)
    with torch.no_grad():
        z = last(methods.load("flowedit").edit(as_field(tiny_wan.field), inputs, config))
    assert torch.equal(z, latent)
