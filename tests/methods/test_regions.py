"""The setting `region` of the methods that hold latents outside a mask: the result outside, inside, and its cost."""

import numpy as np
import pytest
import torch

from holdfast import methods
from holdfast.models.base import BackboneWrapper
from holdfast.pipeline import in_memory
from holdfast.pipeline.task import EditTask

from .. import tiny

# the cost of a step with a third of the tokens inside, in evaluations of the whole latent
HOLDING = {
    "flowedit": ({}, 1 + 2 / 3),
    "wanedit": ({}, 1 + 2 / 3),
    "dfvedit": ({}, 1 + 2 / 3),
    "flowalign": ({}, 1 + 2 / 3),
    "holdfast": ({}, 1 + 3 / 3),  # the source prompt at the target's point, too
    "dds": ({"guidance": 2.0}, 2 + 2 / 3),  # of both sides
    "flowanchor": ({"mask_velocity": True}, 1 + 2 / 3),
}
STEPS = 2


@pytest.fixture(scope="module")
def model():
    return tiny.wan()


def run(model, method, **settings):
    guidance = {"source_guidance": 1.0, "target_guidance": 3.0}
    names = methods.load(method).Config.__dataclass_fields__
    own = {name: value for name, value in guidance.items() if name in names}
    frames = torch.rand(9, 3, 32, 48, generator=torch.Generator().manual_seed(5))
    inside = np.zeros((32, 48), bool)
    inside[:, :16] = True  # 2 of 6 columns of cells, 1 of 3 of tokens
    task = EditTask(
        "",
        "",
        "a red ball",
        "a blue ball",
        method=method,
        settings={"steps": STEPS, "strength": 1.0} | own | settings,
    )
    job = in_memory.plan_job(task, model, frames, [inside] * 9)
    source = model.encode(frames)
    return in_memory.finish_loop(job, model), source


@pytest.mark.parametrize("method", HOLDING)
def test_a_region_holds_the_outside_at_the_cost_of_the_mask(method, model):
    settings, cost = HOLDING[method]
    found, source = run(model, method, **settings)  # by default
    off, _ = run(model, method, region="off", **settings)
    assert found.dense_equivalents == pytest.approx(cost * STEPS, abs=0.01)
    assert off.dense_equivalents == off.evaluations == found.evaluations
    assert torch.equal(found.z[..., 2:], source[..., 2:])
    assert torch.equal(off.z[..., 2:], source[..., 2:])
    difference = (found.z - off.z)[..., :2].norm() / (off.z - source)[..., :2].norm()
    assert 0 < difference < 0.5


def test_flowanchor_is_dense_as_printed_and_holds_the_outside_in_a_region(model):
    printed, source = run(model, "flowanchor")
    assert printed.dense_equivalents == printed.evaluations
    assert not torch.equal(printed.z[..., 2:], source[..., 2:])
    # guidance of the source too, of another scale: the difference outside is of the scales alone
    region, _ = run(model, "flowanchor", region="mask", source_guidance=2.0)
    assert torch.equal(region.z[..., 2:], source[..., 2:])
    assert not torch.equal(region.z[..., :2], source[..., :2])


def test_equal_prompts_and_guidance_give_the_source_back_in_a_region(model):
    """Bit for bit where every evaluation runs alone; in one row a sum may end in another bit."""
    frames = torch.rand(9, 3, 32, 48, generator=torch.Generator().manual_seed(5))
    inside = np.zeros((32, 48), bool)
    inside[:, :16] = True
    task = EditTask(
        "",
        "",
        "a red ball",
        "a red ball ",
        method="flowedit",
        settings={"steps": STEPS, "source_guidance": 3.0, "target_guidance": 3.0},
    )
    job = in_memory.plan_job(task, model, frames, [inside] * 9)
    z, source = in_memory.edit_latent(job, model), model.encode(frames)
    assert (z - source).abs().max() < 1e-5


def test_other_backbones_give_the_same_with_and_without(model):
    """Where nothing is packed, the region changes no number inside it."""

    class Separate(BackboneWrapper):
        def velocities(self, sigma, evaluations, frames=None):
            from holdfast.sampling.field import evaluate_in_turn

            return evaluate_in_turn(self.inner.velocity, sigma, evaluations, frames)

    found, _ = run(Separate(model), "flowedit")
    off, _ = run(Separate(model), "flowedit", region="off")
    assert torch.equal(found.z, off.z)
