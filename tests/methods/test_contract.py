"""What every method over every backbone that carries it owes: identity, seed, resume at every
step, masks, odd clips.
"""

import dataclasses
import functools

import pytest
import torch

from holdfast import methods
from holdfast.media import fitting
from holdfast.models.base import Prompt
from holdfast.models.modelscope import spec as modelscope
from holdfast.models.stable_diffusion import spec as stable_diffusion
from holdfast.models.svd import spec as svd
from holdfast.models.wan import spec as wan
from holdfast.pipeline.metering import EvaluationMeter
from holdfast.pipeline.progress import SavedProgress
from holdfast.sampling import windows
from holdfast.sampling.field import EditInputs, Pixels

from .. import tiny
from .analytic import as_field, last

pytestmark = pytest.mark.filterwarnings("ignore:without a mask the target's attention")
RESAMPLES = {
    "sdedit",
    "sds",
}  # has one branch pair and no source to hold on to: only strength 0 gives the source back
INVERTS = {
    "flatten",
    "i2vedit",
    "rfsolver",
    "tokenflow",
    "uniedit",
}  # walks up and down again: returns near the source
FIXED = {"rfsolver", "uniedit"}  # nothing random in them
STEERED = {
    "flowanchor"
}  # the mask steers attention and does not cut the signal: only the composite holds the outside
BRANCHES = {
    "flatten": ["src-", "tgt+", "tgt-"],
    "sdedit": ["tgt+", "tgt-"],
    "sds": ["tgt+", "tgt-"],
    "flowalign": ["src+", "tgt+", "tgt-"],
    "holdfast": ["src+", "tgt+", "tgt-"],
    "rfsolver": ["src+", "tgt+", "tgt-"],
    "tokenflow": ["src+", "tgt+", "tgt-"],
    "uniedit": ["src+", "src-", "tgt+"],
    "i2vedit": ["src+", "tgt+", "tgt-"],
}
PARTS = {"tokenflow"}  # evaluates some frames of the clip at a time
STEPS = 3
INVERSION_STEPS = {"flatten": STEPS - 1}  # begins at the lowest level of the schedule
ALL_SETTINGS = {
    field.name
    for name in methods.names()
    for field in dataclasses.fields(methods.load(name).Config)
}
STAGES = {
    "flatten": ["invert", "edit"],
    "i2vedit": ["tune", "invert", "edit"],
    "rfsolver": ["invert", "edit"],
    "tokenflow": ["invert", "edit"],
    "uniedit": ["invert", "edit"],
}


@pytest.fixture(scope="module")
def families():
    """A tiny random member of each family, made when it is asked for."""
    return functools.cache(lambda name: tiny.ADAPTERS[name]())


@pytest.fixture(scope="module")
def backbone(families):
    return families("wan")


def pairs():
    """Every method over every family that carries it."""
    known = {
        "wan": wan.CAPABILITIES,
        "sd": stable_diffusion.CAPABILITIES,
        "t2v": modelscope.CAPABILITIES,
    }
    known["svd"] = svd.CAPABILITIES
    for family, carries in known.items():
        for name in methods.list_compatible(carries):
            yield pytest.param((name, family), id=f"{name}-{family}")


@pytest.fixture(params=pairs())
def case(request, families):
    name, family = request.param
    return Case(name, families(family))


class Case:
    """One method over one backbone on a small random clip."""

    def __init__(self, name, backbone, frames=5, size=(32, 48)):
        self.method, self.name, self.backbone = methods.load(name), name, backbone
        torch.manual_seed(5)
        plan = fitting.choose_fit(backbone.clip_format, frames, size)
        fitted = list(plan.to_model(torch.rand(frames, 3, *size)))
        source, first = backbone.encode(fitted), fitted[0]
        red = Prompt("a plain red ball moves right over a lake", words=(2,), image=first)
        blue = Prompt("a plain blue ball moves right over a lake", words=(2,), image=1 - first)
        ways = (backbone.encode, backbone.decode, backbone.condition, backbone.clip_format.stride)
        pixels = Pixels(lambda: fitted, *ways)
        conditions = backbone.condition(red), backbone.condition(blue)
        self.given = EditInputs(source, *conditions, pixels=pixels)

    @property
    def source(self):
        return self.given.latent

    def config(self, **settings):
        assert settings.keys() <= ALL_SETTINGS  # a name that no method has would be dropped below
        known = {f.name for f in dataclasses.fields(self.method.Config)}
        wanted = {"steps": STEPS, "strength": 1.0, "schedule": "native", "n_avg": 2, "n_worst": 1}
        wanted |= {"tuning_steps": STEPS, "rank": 2, "group_frames": 3} | settings
        wanted = {"inversion_steps": wanted["steps"]} | wanted
        return self.method.Config(**{k: v for k, v in wanted.items() if k in known})

    def steps(self, cfg=None, field=None, start=None, **given):
        about = dataclasses.replace(self.given, **given)
        return self.method.edit(
            as_field(field or self.backbone), about, cfg or self.config(), start
        )

    def part(self):
        """A mask of the first two columns."""
        mask = torch.zeros(1, 1, *self.source.shape[2:])
        mask[..., :2] = 1
        return mask


def test_equal_prompts_and_guidance_return_the_source_bit_for_bit(case):
    if case.name in RESAMPLES | INVERTS:
        assert list(case.steps(case.config(strength=0.0))) == []
        return
    # a part that moves the reference alone, or looks at the clip alone, is off
    parts = {"smoothing": 0.0, "consistency": 0.0}
    cfg = case.config(source_guidance=3.0, target_guidance=3.0, **parts)
    assert torch.equal(last(case.steps(cfg, target=case.given.source)), case.source)


def test_the_seed_decides_and_nothing_else(case):
    torch.manual_seed(1)
    config = case.config(steps=2, tuning_steps=2)
    first = last(case.steps(config, seed=1))
    torch.manual_seed(2)
    assert torch.equal(first, last(case.steps(config, seed=1)))
    assert torch.equal(first, last(case.steps(config, seed=2))) == (case.name in FIXED)
    assert not torch.equal(first, case.source)


@pytest.mark.parametrize("masked", [False, True])
def test_stopped_and_resumed_at_every_step_through_the_disk(case, masked, tmp_path):
    mask = case.part() if masked else None
    whole, copies = [], []
    for step in case.steps(mask=mask):
        whole.append(step)
        tensors = {"z": step.z} | step.state
        copies.append({name: value.clone() for name, value in tensors.items()})
    for step, copied in zip(whole, copies, strict=True):  # it may be saved while the next one runs
        for name, value in ({"z": step.z} | step.state).items():
            assert torch.equal(value, copied[name]), (step.stage, step.index, name)
    stages = STAGES.get(case.name, ["edit"])
    counts = {"invert": INVERSION_STEPS.get(case.name, STEPS)}
    expected = [
        (stage, i, counts.get(stage, STEPS))
        for stage in stages
        for i in range(1, counts.get(stage, STEPS) + 1)
    ]
    assert [(s.stage, s.index, s.count) for s in whole] == expected
    store = SavedProgress(tmp_path / "latents.safetensors", "key")
    for step in whole:
        store.save(step)
        saved, _ = store.load()
        rest = list(case.steps(mask=mask, start=saved))
        assert len(rest) == len(whole) - 1 - whole.index(step)
        assert torch.equal((rest or [saved])[-1].z, whole[-1].z), (step.stage, step.index)


def test_an_empty_mask_returns_the_source_and_a_full_one_changes_nothing(case):
    mask = torch.ones(1, 1, *case.source.shape[2:])
    no_refinement = {"beta_text": 0.0, "beta_video": 0.0}  # of attention, by a mask alone
    config = case.config(steps=2, tuning_steps=2, **no_refinement)
    kept = list(case.steps(config, mask=0 * mask))
    assert not kept or torch.equal(kept[-1].z, case.source)  # a method may find nothing to do
    if case.name not in STEERED:
        assert torch.equal(last(case.steps(config, mask=mask)), last(case.steps(config)))


def test_flowedit_last_steps_keep_to_the_mask_and_resume(backbone):
    case = Case("flowedit", backbone)
    mask, cfg = case.part(), case.config(n_min=9, strength=0.5)  # more last steps than the walk has
    whole = list(case.steps(cfg, mask=mask))
    outside = mask.expand_as(case.source) == 0
    assert torch.equal(whole[-1].z[outside], case.source[outside])
    assert not torch.equal(whole[-1].z, case.source)
    assert torch.equal(last(case.steps(cfg, mask=mask, start=whole[0])), whole[-1].z)


def test_latents_outside_a_mask_stay_bit_for_bit(case):
    mask = case.part()
    edited = last(case.steps(mask=mask))
    outside = mask.expand_as(edited) == 0
    assert torch.equal(edited[outside], case.source[outside]) == (case.name not in STEERED)
    assert not torch.equal(edited[~outside], case.source[~outside])


class Watched:
    """A field that remembers what it was asked, around another."""

    def __init__(self, inner):
        self.inner, self.branches, self.told, self.frames = inner, [], [], []
        self.sigmas, self.snap_timestep = inner.sigmas, inner.snap_timestep
        self.clip_norms, self.clean_sigma = inner.clip_norms, inner.clean_sigma
        self.attention_hooks, self.feature_hooks, self.network = (
            inner.attention_hooks,
            inner.feature_hooks,
            inner.network,
        )

    def velocity(self, z, sigma, condition, *, branch, frames=None, network_sigma=None):
        self.branches.append(branch)
        self.told.append(sigma)
        self.frames.append(frames)
        options = {} if network_sigma is None else {"network_sigma": network_sigma}
        return self.inner.velocity(z, sigma, condition, branch=branch, frames=frames, **options)


def test_all_branches_are_seen_by_their_names(case):
    watched = Watched(case.backbone)
    meter = EvaluationMeter()
    last(case.steps(case.config(contrast_guidance=0.0), field=meter.wrap(as_field(watched))))
    expected = BRANCHES.get(case.name, ["src+", "src-", "tgt+", "tgt-"])
    assert sorted(set(watched.branches)) == expected
    if case.name not in INVERTS:
        assert meter.evaluations == len(expected) * STEPS * getattr(case.config(), "n_avg", 1)


def test_timesteps_are_whole_or_exact_as_asked(case):
    """A model is told a level whose timestep is cut, or the level as it is; a grid may be of whole timesteps itself."""
    levels = case.backbone.sigmas(7)
    whole_grid = all(abs(case.backbone.snap_timestep(s) - s) < 1e-9 for s in levels)
    for timesteps in ("whole", "exact"):
        watched = Watched(case.backbone)
        last(
            case.steps(
                case.config(timesteps=timesteps, steps=7, tuning_steps=1, n_avg=1), field=watched
            )
        )
        cut = [abs(case.backbone.snap_timestep(s) - s) < 1e-9 for s in watched.told]
        if timesteps == "whole" or not whole_grid:
            assert all(cut) == (timesteps == "whole"), timesteps


def test_windows_of_a_long_clip_see_the_same_noise_and_one_window_is_no_window(case):
    long = Case(case.name, case.backbone, frames=13)
    one, two = (windows.plan_windows(case.backbone.clip_format, 13, w) for w in (13, 9))
    assert (one.count, two.count) == (1, 2)
    config = long.config(steps=2, tuning_steps=2, n_avg=1)
    plain = last(long.steps(config))
    assert torch.equal(
        last(long.steps(config, field=windows.apply_windows(case.backbone.field, one))), plain
    )
    watched = Watched(case.backbone)
    mask = torch.ones(1, 1, *long.source.shape[2:])
    split = last(long.steps(config, field=windows.apply_windows(as_field(watched), two), mask=mask))
    spans = {tuple(range(*span)) for span in two.ranges}
    if case.name in PARTS:
        spans = {part for part in watched.frames if any(set(part) <= set(span) for span in spans)}
    assert set(watched.frames) == spans
    assert split.isfinite().all()
    if {
        "joint_attention",
        "temporal_attention",
    } & case.backbone.capabilities:  # frames see each other
        assert not torch.equal(split, plain)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_walk_of_one_or_two_steps_is_sound_and_one_of_none_does_nothing(steps, case):
    """Inversions walk from a level below the lowest, solvers look back: there must be one to look at."""
    for strength in (0.0, 0.01):
        assert list(case.steps(case.config(steps=steps, strength=strength))) == []
    for conditions in ({}, {"target": case.given.source}):
        edited = last(case.steps(case.config(steps=steps, tuning_steps=1), **conditions))
        assert edited.isfinite().all()
        assert edited.abs().max() < 1000


SHAPES = [(1, (32, 32)), (2, (32, 32)), (6, (32, 64)), (5, (64, 32)), (3, (30, 50))]


@pytest.mark.parametrize(("frames", "size"), SHAPES)
def test_odd_clips(case, frames, size):
    """One frame, shorter than a group, not 4n+1, landscape, portrait, no legal size."""
    odd = Case(case.name, case.backbone, frames, size)
    config = odd.config(steps=2, tuning_steps=1, n_avg=1)
    plan = fitting.choose_fit(case.backbone.clip_format, frames, size)
    back = torch.stack(list(plan.to_clip(case.backbone.decode(last(odd.steps(config))))))
    assert back.shape == (frames, 3, *size)
    assert back.isfinite().all()
    assert 0 <= back.min() <= back.max() <= 1


@pytest.mark.parametrize("name", methods.list_compatible(wan.CAPABILITIES))
def test_the_embedded_model_runs_every_method(name, shapeworld):
    case = Case(name, shapeworld, frames=1, size=(64, 64))
    edited = last(case.steps(case.config(steps=2), mask=torch.ones(1, 1, 1, 8, 8)))
    assert edited.isfinite().all()
    assert not torch.equal(edited, case.source)
