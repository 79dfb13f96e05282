"""Pure noise, a clean latent, one step, one frame, no strength: every method ends in numbers, on every kind of grid.

And what a model makes of places that are not edited, infinity or no number, reaches nothing: 0 times infinity.
"""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import torch

from holdfast import methods
from holdfast.models.attention import blending
from holdfast.models.noise_schedule import NoiseSchedule
from holdfast.models.svd.adapter import StableVideo
from holdfast.sampling.field import EditInputs, Pixels
from holdfast.sampling.masking import apply_mask, blend_by_mask
from holdfast.sampling.schedules import flow_sigmas
from holdfast.sampling.solvers import UniPC

from .analytic import WITHOUT_LAYERS, Gaussian, about, as_field, last

pytestmark = pytest.mark.filterwarnings("ignore::holdfast.base.notices.Notice")
# what a field without layers and pictures does not have
LAYERS = {"image", "pixels", "control", "spatial_attention", "temporal_attention"}
METHODS = [name for name in methods.names() if not LAYERS & methods.load(name).METHOD.requires]
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
EDGES = {
    "smoothing": 0.5,
    "flow": 0.5,
    "timestep_min": 1,
    "timestep_max": 1000,
}  # the ends of what settings allow


@functools.cache
def source_of_levels(kind):
    if kind == "svd":
        return StableVideo()
    zero = ZERO_SNR | {"prediction_type": "v_prediction"}
    return NoiseSchedule.from_config(zero if kind == "zero snr" else {})


class On(Gaussian):
    """The Gaussian field on a family's levels."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def sigmas(self, steps, shift=None, schedule="native", shape=None):
        if self.kind in ("wan", "euler"):
            return flow_sigmas(self.kind, steps, shift or 3.0, native="wan").tolist()
        return source_of_levels(self.kind).sigmas(steps, shift, "native")

    def snap_timestep(self, sigma):
        if self.kind in ("wan", "euler"):
            return super().snap_timestep(sigma)
        return source_of_levels(self.kind).snap_timestep(sigma)


def given(frames, mask=None):
    torch.manual_seed(0)
    source = torch.randn(1, 2, frames, 4, 4, dtype=torch.float64)
    shown = torch.rand(frames, 3, 16, 16)
    pixels = Pixels(lambda: shown, None, None, None, (1, 4, 4))
    halves = about(0.3 * torch.ones_like(source)), about(-0.5 * torch.ones_like(source))
    return EditInputs(source, *halves, pixels=pixels, mask=mask)


def config(method, **settings):
    known = {f.name for f in dataclasses.fields(method.Config)}
    wanted = {"inject": 0, "n_avg": 2, "n_worst": 1, "joint": 0.0, "fusion": 0.0}
    wanted |= WITHOUT_LAYERS | settings
    wanted["frequency_factor"] = 1  # otherwise a cell of the first latent depends on its neighbours
    wanted["inversion_steps"] = wanted.get("steps", 50)
    return method.Config(**{name: value for name, value in wanted.items() if name in known})


@pytest.mark.parametrize("kind", ["wan", "euler", "sd", "svd", "zero snr"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_ends_in_numbers_from_pure_noise_down_and_from_the_lowest_level(name, kind):
    method = methods.load(name)
    for steps, strength, frames in itertools.product((1, 3), (1.0, 1e-9), (1, 3)):
        cfg = config(method, steps=steps, strength=strength, **EDGES)
        about_it = given(frames)
        z = about_it.latent
        for step in method.edit(as_field(On(kind)), about_it, cfg):
            z = step.z
        assert z.isfinite().all(), (steps, strength, frames)
        assert z.abs().max() < 1e3, (steps, strength, frames)


def test_unipc_starts_from_pure_noise_as_from_just_below():
    """lambda is -infinite there; against levels that come near, and against diffusers, which steps back by 1e-6."""
    from diffusers import UniPCMultistepScheduler

    torch.manual_seed(0)
    begin, answers = torch.randn(1, 3, 2, 4, 4).double(), torch.randn(6, 1, 3, 2, 4, 4).double()
    levels = flow_sigmas("euler", 6, 3.0, native="wan").tolist()
    assert levels[0] == 1

    def walked(levels):
        z, solver = begin, UniPC()
        for i in range(6):
            z, solver = solver.step(z, answers[i], levels[i], levels[i + 1], last=i == 5)
        return z

    ours = walked(levels)
    # the slope between the first two levels fades as 1 / lambda of the first, so slowly
    apart = [(walked([1 - 10.0**-n, *levels[1:]]) - ours).abs().max() for n in (4, 8, 15)]
    assert apart[0] > apart[1] > apart[2]
    assert apart[2] * 15 < apart[0] * 4 * 1.5
    scheduler = UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=1.0
    )
    scheduler.set_timesteps(sigmas=np.array(levels[:-1]))
    theirs = begin
    for i, t in enumerate(scheduler.timesteps):
        theirs = scheduler.step(answers[i], t, theirs, return_dict=False)[0]
    near = walked([*scheduler.sigmas.double().tolist()])
    assert torch.allclose(theirs, near, atol=1e-4)
    assert (ours - near).abs().max() < apart[0]


class Broken(On):
    """Infinite in the last two columns, or no number at all."""

    def __init__(self, value):
        super().__init__("wan")
        self.value = value

    def velocity(self, z, sigma, condition, *, branch, frames=None, network_sigma=None):
        found = super().velocity(z.nan_to_num(0, 0, 0), sigma, condition, branch=branch)
        return torch.cat((found[..., :2], torch.full_like(found[..., 2:], self.value)), -1)


# FlowAnchor's mask steers attention; UniEdit and the flow-smoothed descent scale by extremes of the whole frame, so
# that infinity anywhere leaves no number inside, which a walk refuses
SPREADING = {"flowanchor", "uniedit", "flowdistill"}


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", sorted(set(METHODS) - SPREADING))
def test_infinity_outside_a_mask_leaves_the_source_there_and_the_edit_inside(name, value):
    mask = torch.zeros(1, 1, 3, 4, 4, dtype=torch.float64)
    mask[..., :2] = 1
    method = methods.load(name)
    # FlowDirector's published average picks the worse flows by all places, edited or not
    cfg = config(method, steps=3, strength=1.0, smoothing=0.165, averaging="released")
    edited = last(method.edit(as_field(Broken(value)), given(3, mask), cfg))
    assert torch.equal(edited[..., 2:], given(3).latent[..., 2:])
    assert torch.equal(
        edited[..., :2], last(method.edit(as_field(On("wan")), given(3, mask), cfg))[..., :2]
    )


def test_no_number_inside_a_mask_stays_one_and_weights_between_mix():
    weight = torch.tensor([0.0, 0.0, 0.25, 1.0, 1.0])
    a = torch.tensor([torch.inf, torch.nan, 4.0, 3.0, torch.nan])
    b = torch.tensor([1.0, 2.0, 8.0, torch.inf, 1.0])
    mixed = blend_by_mask(weight, a, b)
    assert mixed[:4].tolist() == [1, 2, 7, 3]
    assert mixed[4].isnan()
    masked = apply_mask(weight, a)
    assert masked[:4].tolist() == [0, 0, 1, 3]
    assert masked[4].isnan()


def test_attention_that_is_kept_hears_nothing_of_an_edit_that_overflowed():
    torch.manual_seed(0)
    q, k, v, q0, k0 = torch.randn(5, 1, 1, 2, 4)
    q[0, 0, 0] = torch.inf
    within = torch.tensor([[0.0, 1.0]])
    out = blending.blend_attention(q.nan_to_num(posinf=3e38), k, v, q0, k0, 0.0, within)
    kept = torch.nn.functional.scaled_dot_product_attention(q0, k0, v)
    assert torch.equal(out[0, 0, 0], kept[0, 0, 0])
