"""Noise levels and timesteps of every family: exact at whole timesteps, as the schedulers of published folders say."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from holdfast.base.errors import UserError
from holdfast.base.notices import Notice
from holdfast.models import scheduler_settings
from holdfast.models.noise_schedule import NoiseSchedule
from holdfast.models.svd.adapter import StableVideo
from holdfast.models.wan.adapter import Wan

SD = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
ZERO_SNR = SD | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}


@pytest.mark.parametrize("config", [SD, ZERO_SNR], ids=["published", "zero terminal SNR"])
def test_every_whole_timestep_comes_back_from_the_level_that_is_made_of_it(config):
    """Through the public schedule, whose levels once were float32: 444 of 1,000 lost a timestep."""
    schedule = NoiseSchedule.from_config(config)
    assert [schedule.timestep_at(schedule.sigma_at(t)) for t in range(1000)] == list(range(1000))
    levels = schedule.sigmas(1000, None, "ddim")[:-1]
    told = [schedule.timestep_at(schedule.snap_timestep(sigma)) for sigma in levels]
    assert told == [min(t + 1, 999) for t in reversed(range(1000))]
    told = [
        schedule.timestep_at(schedule.snap_timestep(s)) for s in schedule.sigmas(50, None, "ddim")
    ]
    assert told == [*range(981, 0, -20), 0]


@pytest.mark.parametrize("said", [{}, {"steps_offset": 0}, {"steps_offset": None}])
def test_an_offset_that_is_left_to_its_default_is_the_pipelines(said):
    silent = {name: value for name, value in SD.items() if name != "steps_offset"}
    levels = NoiseSchedule.from_config(silent | said).sigmas(50, None, "ddim")
    assert levels == NoiseSchedule.from_config(SD).sigmas(50, None, "ddim")


@pytest.mark.parametrize("steps", [50, 1000])
def test_cutting_a_shifted_level_cuts_its_timestep_once(steps):
    schedule = NoiseSchedule.from_config(SD)
    levels = schedule.sigmas(steps, 2.0, "native")
    assert (
        schedule.timestep_at(levels[0]) == 999
    )  # the first is the model's noisiest, not just below
    for sigma in levels:
        cut = schedule.snap_timestep(sigma)
        assert schedule.timestep_at(cut) == math.floor(schedule.timestep_at(sigma))
        assert schedule.snap_timestep(cut) == cut


def exact_levels(steps, shift, grid):
    """Wan's levels as fractions: the authors' even spacing, or FlowMatchEuler's between shifted ends."""
    top, low = Fraction(999, 1000), Fraction(1, 1000)

    def shifted(s):
        return shift * s / (1 + (shift - 1) * s)

    if grid == "wan":
        return [shifted(top * (steps - k) / steps) for k in range(steps + 1)]
    first, last = shifted(Fraction(1)), shifted(low)
    even = [first + (last - first) * k / max(steps - 1, 1) for k in range(steps)]
    return [*map(shifted, even), Fraction(0)]


@pytest.mark.parametrize("grid", ["wan", "euler"])
@pytest.mark.parametrize("shift", [1, 3, 5])
def test_a_level_of_wan_that_is_a_whole_thousandth_is_not_cut_to_the_one_below(grid, shift):
    backbone = Wan(shift=float(shift))
    assert [round(1000 * backbone.snap_timestep(k / 1000)) for k in range(1001)] == list(
        range(1001)
    )
    for steps in (3, 10, 100, 333, 999, 1000):
        told = [
            1000 * backbone.snap_timestep(sigma) for sigma in backbone.sigmas(steps, schedule=grid)
        ]
        wanted = [math.floor(1000 * sigma) for sigma in exact_levels(steps, shift, grid)]
        assert [round(t) for t in told] == wanted, steps
        assert told == pytest.approx(wanted, abs=1e-9)


def test_stable_video_is_told_every_level_exactly():
    backbone = StableVideo()
    levels = backbone.sigmas(1000)
    assert all(backbone.snap_timestep(sigma) == sigma for sigma in levels)
    assert all(above > below for above, below in itertools.pairwise(levels))


def diffusers_ddim(**config):
    from diffusers import DDIMScheduler

    return DDIMScheduler(**{k: v for k, v in (SD | config).items() if k != "_class_name"})


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
def test_timesteps_are_spaced_as_the_scheduler_says(spacing, steps):
    scheduler = diffusers_ddim(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    schedule = NoiseSchedule.from_config(SD | {"timestep_spacing": spacing})
    told = [schedule.timestep_at(sigma) for sigma in schedule.sigmas(steps, None, "native")[:-1]]
    assert told == np.minimum(scheduler.timesteps.numpy(), 999).tolist()
    if spacing != "leading":
        assert schedule.sigmas(steps, None, "ddim") == NoiseSchedule.from_config(SD).sigmas(
            steps, None, "native"
        )


@pytest.mark.parametrize(
    "config",
    [
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {"trained_betas": [0.001, 0.01, 0.2, 0.5]},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    ],
    ids=lambda config: next(iter(config)),
)
def test_the_noise_of_each_timestep_is_diffusers(config):
    theirs = diffusers_ddim(**config).alphas_cumprod.double()
    schedule = NoiseSchedule.from_config(SD | config)
    levels = torch.tensor([schedule.sigma_at(t) for t in range(len(theirs))], dtype=torch.float64)
    a, s = theirs.sqrt(), (1 - theirs).sqrt()
    assert torch.allclose(levels, s / (a + s), atol=1e-5)  # diffusers multiplies in float32


def test_a_model_of_v_sees_pure_noise_and_one_of_noise_stops_at_the_level_below():
    """Lin et al., arXiv:2305.08891: at the last timestep a is 0, where v is -clean and noise tells nothing."""
    schedule = NoiseSchedule.from_config(ZERO_SNR | {"timestep_spacing": "trailing"})
    levels = schedule.sigmas(10, None, "native")
    assert levels[0] == 1.0
    z, found = torch.randn(2, 1, 2, 3, 4, 4, dtype=torch.float64)
    assert torch.equal(schedule.velocity(lambda x, t: found, z, 1.0), z + found)
    noise = NoiseSchedule.from_config(
        ZERO_SNR | {"prediction_type": "epsilon", "timestep_spacing": "trailing"}
    )
    assert noise.timestep_at(1.0) == noise.timestep_at(noise.sigmas(10, 2.0, "native")[0]) == 998
    assert all(sigma < 1 for sigma in noise.sigmas(1000, None, "native"))


def test_what_a_file_leaves_out_is_its_classes_default():
    """Euler's own spacing is linspace; SD 1.5's PNDM predicts noise and takes no clip_sample at all."""
    euler = {k: v for k, v in SD.items() if k not in ("clip_sample", "set_alpha_to_one")}
    schedule = NoiseSchedule.from_config(euler | {"_class_name": "EulerDiscreteScheduler"})
    assert schedule.timestep_at(schedule.sigmas(25, None, "native")[0]) == 999
    pndm = NoiseSchedule.from_config(SD | {"_class_name": "PNDMScheduler", "thresholding": True})
    assert (pndm.prediction, pndm.spacing) == ("epsilon", "leading")
    assert NoiseSchedule.from_config({"_class_name": "DDIMScheduler"}).sigma_at(
        999
    ) == pytest.approx(
        NoiseSchedule.from_config(
            {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
        ).sigma_at(999)
    )


def test_what_edits_do_not_apply_is_announced():
    with pytest.warns(Notice, match="scheduler has thresholding=True, which edits do not apply"):
        NoiseSchedule.from_config(SD | {"thresholding": True})
    dpm = SD | {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    with pytest.warns(Notice, match="use_karras_sigmas=True"):
        NoiseSchedule.from_config(dpm)
    flow = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"}
    flow |= {"use_flow_sigmas": True, "flow_shift": 3.0}
    with pytest.warns(Notice, match="use_dynamic_shifting=True, shift_terminal=0.1"):
        scheduler_settings.read_flow_shift(
            flow | {"use_dynamic_shifting": True, "shift_terminal": 0.1}
        )


@pytest.mark.parametrize(
    ("read", "config", "words"),
    [
        (
            NoiseSchedule.from_config,
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "holds no betas",
        ),
        (
            NoiseSchedule.from_config,
            SD | {"trained_betas": [0.1, 2.0]},
            "scheduler's trained_betas",
        ),
        (NoiseSchedule.from_config, SD | {"timestep_spacing": "even"}, "timestep_spacing 'even'"),
        (
            NoiseSchedule.from_config,
            {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
            "whose timesteps are continuous",
        ),
        (scheduler_settings.read_flow_shift, SD, "whose prediction is epsilon"),
        (
            scheduler_settings.read_flow_shift,
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 500},
            "of 500 timesteps",
        ),
        (scheduler_settings.check_edm, SD, "whose prediction is epsilon"),
        (
            scheduler_settings.check_edm,
            SD | {"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"},
            "whose timesteps are discrete",
        ),
    ],
)
def test_a_scheduler_of_another_kind_of_model_is_refused(read, config, words):
    with pytest.raises(UserError, match=words):
        read(config)
