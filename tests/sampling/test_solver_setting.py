"""`solver`: the difference of velocities is integrated by the solver that the setting names."""

import pytest
import torch

from holdfast import methods
from holdfast.sampling.field import EditInputs
from holdfast.sampling.solvers import Euler, UniPC

from ..methods.analytic import Gaussian, about, as_field, last

pytestmark = pytest.mark.filterwarnings("ignore:without a mask the target's attention")
METHODS = ("flowanchor", "flowedit", "wanedit")


def make_inputs() -> EditInputs:
    torch.manual_seed(3)
    source, target = torch.randn(2, 1, 2, 3, 4, 4)
    return EditInputs(torch.randn(1, 2, 3, 4, 4), about(source), about(target), seed=1)


def edit(method: str, resume=None, **settings):
    module = methods.load(method)
    config = module.Config(steps=5, strength=1.0, **settings)
    return module.edit(as_field(Gaussian()), make_inputs(), config, resume)


@pytest.mark.parametrize("method", METHODS)
def test_the_two_solvers_agree_on_the_first_step_alone(method):
    found = {name: [s.z for s in edit(method, solver=name)] for name in ("euler", "unipc")}
    assert torch.allclose(found["euler"][0], found["unipc"][0], atol=1e-4)  # order one in both
    assert not torch.equal(found["euler"][-1], found["unipc"][-1])


@pytest.mark.parametrize("method", METHODS)
def test_a_method_integrates_by_the_solver_of_its_paper(method):
    own = "unipc" if method == "wanedit" else "euler"
    assert torch.equal(last(edit(method)), last(edit(method, solver=own)))


def test_euler_is_one_product():
    torch.manual_seed(0)
    z, velocity = torch.randn(2, 1, 2, 3, 4, 4)
    moved, solver = Euler().step(z, velocity, 0.9, 0.4, last=False)
    assert torch.equal(moved, z + (0.4 - 0.9) * velocity)
    assert solver.to_dict() == {}


@pytest.mark.parametrize("n_min", [0, 2])
def test_the_last_step_of_unipc_is_of_first_order_where_plain_sampling_follows(n_min, monkeypatch):
    orders, step = [], UniPC.step

    def recorded(self, z, velocity, sigma, sigma_next, last):
        orders.append(last)
        return step(self, z, velocity, sigma, sigma_next, last)

    monkeypatch.setattr(UniPC, "step", recorded)
    last(edit("flowedit", solver="unipc", n_min=n_min))
    assert orders == [False] * (4 - n_min) + [True]


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_has_the_memory_of_the_solver(method):
    steps = list(edit(method, solver="unipc", negative_every=2))
    for step in steps[:-1]:
        resumed = last(edit(method, step, solver="unipc", negative_every=2))
        assert torch.equal(resumed, steps[-1].z)
