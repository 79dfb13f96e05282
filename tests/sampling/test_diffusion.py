"""Noise, guidance, levels and UniPC against their definitions and against diffusers."""

import numpy as np
import pytest
import torch

from holdfast.sampling.field import Evaluation
from holdfast.sampling.guidance import guided_velocity
from holdfast.sampling.masking import normalize_range
from holdfast.sampling.noise import keyed_noise
from holdfast.sampling.schedules import flow_sigmas, shift_sigmas
from holdfast.sampling.solvers import UniPC

from ..methods.analytic import Gaussian, about, as_field


def test_noise_is_keyed_by_frame_step_and_repeat():
    like = torch.zeros(1, 4, 6, 3, 5)
    whole = keyed_noise(like, seed=3, step=7)
    assert torch.equal(whole, keyed_noise(like, 3, 7))
    assert torch.equal(whole[:, :, :3], keyed_noise(like[:, :, :3], 3, 7))
    others = [
        keyed_noise(like, 4, 7),
        keyed_noise(like, 3, 8),
        keyed_noise(like, 3, 7, repeat=1),
    ]
    assert all(not torch.equal(whole, o) for o in others)
    assert not torch.equal(whole[:, :, 0], whole[:, :, 1])


def test_noise_is_standard_normal_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    drawn = keyed_noise(torch.zeros(1, 16, 4, 32, 32), 0, 0)
    assert torch.equal(torch.rand(1), expected)
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.02


def test_guidance_of_one_needs_no_negative():
    class Field(Gaussian):
        seen = ()

        def velocity(self, z, sigma, condition, *, branch, frames=None):
            self.seen += (branch,)
            return z + (1.0 if branch.endswith("+") else 0.0)

    field, z = Field(), torch.zeros(2)
    assert torch.equal(guided_velocity(as_field(field), z, 0.5, None, "tgt", 1), z + 1)
    assert field.seen == ("tgt+",)
    assert torch.equal(guided_velocity(as_field(field), z, 0.5, None, "src", 3.0), z + 3)
    assert set(field.seen) == {"tgt+", "src+", "src-"}


@pytest.mark.parametrize("begin", [0, 3])
def test_unipc_agrees_with_diffusers(begin):
    from diffusers import UniPCMultistepScheduler

    steps = 12
    scheduler = UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0
    )
    scheduler.set_timesteps(sigmas=np.linspace(0.999, 0, steps + 1)[:-1])
    scheduler.set_begin_index(begin)
    levels = [*scheduler.sigmas.tolist()]
    torch.manual_seed(0)
    ours = theirs = torch.randn(1, 3, 2, 4, 4)
    solver = UniPC()
    for i in range(begin, steps):
        velocity = 0.3 * ours + torch.randn_like(ours)
        theirs = scheduler.step(velocity, scheduler.timesteps[i], theirs, return_dict=False)[0]
        ours, solver = solver.step(ours, velocity, levels[i], levels[i + 1], last=i == steps - 1)
        solver = UniPC.from_dict(solver.to_dict())
        assert torch.allclose(ours, theirs, atol=2e-5), i


def test_unipc_returns_the_state_bit_for_bit_where_nothing_moves():
    z = start = torch.randn(1, 3, 2, 4, 4)
    solver, levels = UniPC(), shift_sigmas(torch.linspace(0.999, 0, 9), 5.0).tolist()
    for i in range(8):
        z, solver = solver.step(z, torch.zeros_like(z), levels[i], levels[i + 1], last=i == 7)
    assert torch.equal(z, start)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_the_euler_grid_is_that_of_diffusers(shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(12)
    ours = flow_sigmas("euler", 12, shift, native="wan")
    assert torch.allclose(ours.float(), scheduler.sigmas, atol=1e-6)


def test_grids_by_name():
    own = flow_sigmas("native", 10, 3.0, native="wan")
    assert torch.equal(own, flow_sigmas("wan", 10, 3.0, native="euler"))
    even = torch.linspace(0.999, 0, 11, dtype=torch.float64)
    assert torch.allclose(own, 3 * even / (1 + 2 * even))
    with pytest.raises(ValueError, match="no noise schedule 'karras': use native, wan or euler"):
        flow_sigmas("karras", 10, 3.0, native="wan")


def test_minmax_scales_each_sample_and_leaves_nothing_where_all_is_the_same():
    values = torch.tensor([[1.0, 3.0, 2.0], [4.0, 4.0, 4.0]])
    assert torch.allclose(normalize_range(values), torch.tensor([[0, 1, 0.5], [0, 0, 0]]))


def test_outside_its_region_an_evaluation_has_the_velocity_of_the_source():
    """The contract of `Evaluation.region`, of both signs; without a region nothing changes."""
    region = torch.zeros(1, 1, 2, 3, 3, dtype=torch.bool)
    region[..., :1] = True
    conditioning = about(torch.zeros(1, 2, 2, 3, 3))
    points = {branch: torch.randn(1, 2, 2, 3, 3) for branch in ("src+", "src-", "tgt+", "tgt-")}
    field = as_field(Gaussian())
    plain = field.velocities(0.5, [Evaluation(z, conditioning, b) for b, z in points.items()])
    confined = field.velocities(
        0.5,
        [
            Evaluation(z, conditioning, b, region if b.startswith("tgt") else None)
            for b, z in points.items()
        ],
    )
    assert all(torch.equal(a, b) for a, b in zip(plain[:2], confined[:2], strict=True))
    for source, target, found in zip(plain[:2], plain[2:], confined[2:], strict=True):
        assert torch.equal(found, torch.where(region, target, source))
