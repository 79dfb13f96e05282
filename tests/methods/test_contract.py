"""What every method over every backbone that carries it owes: identity, seed, resume at every
step, masks, odd clips.
"""

import contextlib
import dataclasses
import functools
import itertools

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
    "controlvideo",
    "rerender",
    "sdedit",
    "sds",
    "motiondirector",
}  # has one branch pair and no source to hold on to: only strength 0 gives the source back
INVERTS = {
    "anyv2v",
    "fatezero",
    "flatten",
    "i2vedit",
    "p2p",
    "tuneavideo",
    "videograin",
    "vmc",
    "motiondirector",  # tunes as well, which evaluates the source
    "rfsolver",
    "spacetime",
    "tokenflow",
    "uniedit",
}  # walks up and down again: returns near the source
FIXED = {"anyv2v", "fatezero", "p2p", "rfsolver", "uniedit"}  # nothing random in them
FRAME_BY_FRAME = {"rerender"}  # evaluates one key frame at a time
STEERED = {
    "flowanchor"
}  # the mask steers attention and does not cut the signal: only the composite holds the outside
BRANCHES = {
    "anyv2v": ["src+", "tgt+", "tgt-"],
    "videograin": ["src+", "tgt+", "tgt-"],
    "flatten": ["src-", "tgt+", "tgt-"],
    "controlvideo": ["tgt+", "tgt-"],
    "rerender": ["tgt+", "tgt-"],
    "sdedit": ["tgt+", "tgt-"],
    "sds": ["tgt+", "tgt-"],
    "flowalign": ["src+", "tgt+", "tgt-"],
    "holdfast": ["src+", "tgt+", "tgt-"],
    "rfsolver": ["src+", "tgt+", "tgt-"],
    "tokenflow": ["src+", "tgt+", "tgt-"],
    "uniedit": ["src+", "src-", "tgt+"],
    "fatezero": ["src+", "tgt+", "tgt-"],
    "i2vedit": ["src+", "tgt+", "tgt-"],
    "spacetime": ["src+", "tgt+", "tgt-"],
    "tuneavideo": ["src+", "src-", "tgt+", "tgt-"],
    "vmc": ["src+", "src-", "tgt+", "tgt-"],
    "motiondirector": ["src+", "tgt+", "tgt-"],
}
PARTS = {"tokenflow"}  # evaluates some frames of the clip at a time
STEPS = 3
INVERSION_STEPS = {
    "flatten": STEPS - 1,
    "videograin": STEPS - 1,
}  # begin at the lowest level of the schedule
ALL_SETTINGS = {
    field.name
    for name in methods.names()
    for field in dataclasses.fields(methods.load(name).Config)
}
STAGES = {
    "anyv2v": ["invert", "edit"],
    "fatezero": ["invert", "edit"],
    "p2p": ["invert", "edit"],
    "videograin": ["invert", "edit"],
    "flatten": ["invert", "edit"],
    "i2vedit": ["tune", "invert", "edit"],
    "tuneavideo": ["tune", "invert", "edit"],
    "vmc": ["tune", "invert", "edit"],
    "motiondirector": ["tune", "edit"],
    "rfsolver": ["invert", "edit"],
    "spacetime": ["invert", "edit"],
    "tokenflow": ["invert", "edit"],
    "uniedit": ["invert", "edit"],
}


@pytest.fixture(scope="module")
def families():
    """A tiny random member of each family, made when it is asked for."""
    yield functools.cache(lambda name: tiny.ADAPTERS[name]())
    make_inputs.cache_clear()


@pytest.fixture(scope="module")
def cases(families):
    """Each method over each family, made once: its recorded runs serve several tests."""
    return functools.cache(lambda name, family: Case(name, families(family)))


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
def case(request, cases):
    return cases(*request.param)


@functools.cache
def make_inputs(backbone, frames, size):
    """The inputs of an edit of a small random clip; no method changes them."""
    torch.manual_seed(5)
    plan = fitting.choose_fit(backbone.clip_format, frames, size)
    fitted = list(plan.to_model(torch.rand(frames, 3, *size)))
    source, first = backbone.encode(fitted), fitted[0]
    red = Prompt("a plain red ball moves right over a lake", words=(2,), image=first)
    blue = Prompt("a plain blue ball moves right over a lake", words=(2,), image=1 - first)
    ways = (backbone.encode, backbone.decode, backbone.condition, backbone.clip_format.stride)
    pixels = Pixels(lambda: fitted, *ways)
    return EditInputs(source, backbone.condition(red), backbone.condition(blue), pixels=pixels)


class Case:
    """One method over one backbone on a small random clip."""

    def __init__(self, name, backbone, frames=5, size=(32, 48)):
        self.method, self.name, self.backbone = methods.load(name), name, backbone
        self.given = make_inputs(backbone, frames, size)
        self.records = {}

    @property
    def source(self):
        return self.given.latent

    def config(self, **settings):
        assert settings.keys() <= ALL_SETTINGS  # a name that no method has would be dropped below
        known = {f.name for f in dataclasses.fields(self.method.Config)}
        wanted = {"steps": STEPS, "strength": 1.0, "schedule": "native", "n_avg": 1, "n_worst": 1}
        wanted |= {"tuning_steps": STEPS, "rank": 2, "feature_iterations": 1}
        wanted |= {"null_text_iterations": 1, "propagation": "flow", "group_frames": 3} | settings
        wanted = {"inversion_steps": wanted["steps"]} | wanted
        return self.method.Config(**{k: v for k, v in wanted.items() if k in known})

    def steps(self, cfg=None, field=None, start=None, **given):
        about = dataclasses.replace(self.given, **given)
        return self.method.edit(
            as_field(field or self.backbone), about, cfg or self.config(), start
        )

    def record(self, masked=False, **settings):
        """The steps of a run, and copies of their tensors from when they were yielded. It runs once."""
        config, mask = self.config(**settings), self.part() if masked else None
        key = masked, repr(config)
        if key not in self.records:
            yielded = [(step, copy_tensors(step)) for step in self.steps(config, mask=mask)]
            self.records[key] = tuple(zip(*yielded, strict=True))
        return self.records[key]

    def part(self):
        """A mask of the first two columns."""
        mask = torch.zeros(1, 1, *self.source.shape[2:])
        mask[..., :2] = 1
        return mask


def copy_tensors(step):
    return {name: value.clone() for name, value in ({"z": step.z} | step.state).items()}


def test_equal_prompts_and_guidance_return_the_source_bit_for_bit(case):
    if case.name in RESAMPLES | INVERTS:
        assert list(case.steps(case.config(strength=0.0))) == []
        return
    # a part that moves the reference alone, or looks at the clip alone, is off
    parts = {"smoothing": 0.0, "consistency": 0.0}
    cfg = case.config(steps=2, source_guidance=3.0, target_guidance=3.0, **parts)
    assert torch.equal(last(case.steps(cfg, target=case.given.source)), case.source)


def test_the_seed_decides_and_nothing_else(case):
    torch.manual_seed(1)
    first = case.record(steps=2, tuning_steps=2)[0][-1].z
    torch.manual_seed(2)
    config = case.config(steps=2, tuning_steps=2)
    assert torch.equal(first, last(case.steps(config)))
    assert torch.equal(first, last(case.steps(config, seed=1))) == (case.name in FIXED)
    assert not torch.equal(first, case.source)


@pytest.mark.parametrize("masked", [False, True])
def test_stopped_and_resumed_at_every_step_through_the_disk(case, masked, tmp_path):
    """Every resumed run gives the next two steps of the whole one, and the first of them all steps."""
    mask, cfg = case.part() if masked else None, case.config(n_avg=2 if masked else 1)
    whole, copies = case.record(masked, n_avg=2 if masked else 1)
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
    for done, step in enumerate(whole, 1):
        store.save(step)
        saved, _ = store.load()
        limit = None if done == 1 else 2
        with contextlib.closing(case.steps(cfg, mask=mask, start=saved)) as steps:
            rest = list(itertools.islice(steps, limit))
        assert [(s.stage, s.index, s.count) for s in rest] == expected[done:][:limit]
        for found, wanted in zip(rest, whole[done:]):  # noqa: B905
            assert torch.equal(found.z, wanted.z), (step.stage, step.index, found.stage)


def test_an_empty_mask_returns_the_source_and_a_full_one_changes_nothing(case):
    mask = torch.ones(1, 1, *case.source.shape[2:])
    no_refinement = {"beta_text": 0.0, "beta_video": 0.0}  # of attention, by a mask alone
    config = case.config(steps=2, tuning_steps=2, **no_refinement)
    kept = list(case.steps(config, mask=0 * mask))
    assert not kept or torch.equal(kept[-1].z, case.source)  # a method may find nothing to do
    if case.name not in STEERED:
        plain = case.record(steps=2, tuning_steps=2, **no_refinement)[0][-1].z
        assert torch.equal(last(case.steps(config, mask=mask)), plain)


def test_flowedit_last_steps_keep_to_the_mask_and_resume(backbone):
    case = Case("flowedit", backbone)
    mask, cfg = case.part(), case.config(n_min=9, strength=0.5)  # more last steps than the walk has
    whole = list(case.steps(cfg, mask=mask))
    outside = mask.expand_as(case.source) == 0
    assert torch.equal(whole[-1].z[outside], case.source[outside])
    assert not torch.equal(whole[-1].z, case.source)
    assert torch.equal(last(case.steps(cfg, mask=mask, start=whole[0])), whole[-1].z)


def test_latents_outside_a_mask_stay_bit_for_bit(case):
    mask, edited = case.part(), case.record(masked=True, n_avg=2)[0][-1].z
    outside = mask.expand_as(edited) == 0
    assert torch.equal(edited[outside], case.source[outside]) == (case.name not in STEERED)
    assert not torch.equal(edited[~outside], case.source[~outside])


class Watched:
    """A field that remembers what it was asked, around another."""

    def __init__(self, inner):
        self.inner, self.branches, self.told, self.frames = inner, [], [], []
        self.sigmas, self.snap_timestep = inner.sigmas, inner.snap_timestep
        self.attention_hooks, self.feature_hooks = inner.attention_hooks, inner.feature_hooks
        self.network, self.clip_norms = inner.network, inner.clip_norms
        self.clean_sigma, self.prediction = inner.clean_sigma, inner.prediction
        self.training_sigmas = inner.training_sigmas

    def velocity(self, z, sigma, condition, *, branch, frames=None, network_sigma=None):
        self.branches.append(branch)
        self.told.append(sigma if network_sigma is None else network_sigma)
        self.frames.append(frames)
        levels = {} if network_sigma is None else {"network_sigma": network_sigma}
        return self.inner.velocity(z, sigma, condition, branch=branch, frames=frames, **levels)


def test_all_branches_are_seen_by_their_names(case):
    watched = Watched(case.backbone)
    meter = EvaluationMeter()
    config = case.config(steps=2, n_avg=2, contrast_guidance=0.0)
    last(case.steps(config, field=meter.wrap(as_field(watched))))
    expected = BRANCHES.get(case.name, ["src+", "src-", "tgt+", "tgt-"])
    assert sorted(set(watched.branches)) == expected
    if case.name not in INVERTS:
        assert meter.evaluations == len(expected) * 2 * getattr(config, "n_avg", 1)


def test_timesteps_are_whole_or_exact_as_asked(case):
    """A model is told a level whose timestep is cut, or the level as it is; a grid may be of whole timesteps itself."""
    levels = case.backbone.sigmas(STEPS)
    whole_grid = all(abs(case.backbone.snap_timestep(s) - s) < 1e-9 for s in levels)
    for timesteps in ("whole",) if whole_grid else ("whole", "exact"):
        watched = Watched(case.backbone)
        config = case.config(timesteps=timesteps, tuning_steps=1)
        last(case.steps(config, field=watched))
        cut = [abs(case.backbone.snap_timestep(s) - s) < 1e-9 for s in watched.told]
        assert all(cut) == (timesteps == "whole"), timesteps


def test_windows_of_a_long_clip_see_the_same_noise_and_one_window_is_no_window(case):
    long = Case(case.name, case.backbone, frames=9)
    one, two = (windows.plan_windows(case.backbone.clip_format, 9, w) for w in (9, 5))
    assert (one.count, two.count) == (1, 2)
    config = long.config(steps=2, tuning_steps=2, null_text_iterations=0)
    plain = last(long.steps(config))
    assert torch.equal(
        last(long.steps(config, field=windows.apply_windows(case.backbone.field, one))), plain
    )
    watched = Watched(case.backbone)
    mask = torch.ones(1, 1, *long.source.shape[2:])
    split = last(long.steps(config, field=windows.apply_windows(as_field(watched), two), mask=mask))
    parts = {frames for frames in watched.frames if len(frames) > 1}  # a method may take one frame
    spans = {tuple(range(*span)) for span in two.ranges}
    if case.name in PARTS:
        spans = {part for part in parts if any(set(part) <= set(span) for span in spans)}
    if case.name not in FRAME_BY_FRAME:
        assert parts == spans
    assert split.isfinite().all()
    if {
        "joint_attention",
        "temporal_attention",
    } & case.backbone.capabilities:  # frames see each other
        assert not torch.equal(split, plain)


def test_a_walk_of_one_or_two_steps_is_sound_and_one_of_none_does_nothing(case):
    """Inversions walk from a level below the lowest, solvers look back: there must be one to look at."""
    for steps, strength in itertools.product((1, 2), (0.0, 0.01)):
        assert list(case.steps(case.config(steps=steps, strength=strength))) == []
    one, two = (case.config(steps=steps, tuning_steps=1) for steps in (1, 2))
    edited = [last(case.steps(cfg, target=case.given.source)) for cfg in (one, two)]
    edited += [last(case.steps(one)), case.record(steps=2, tuning_steps=2)[0][-1].z]
    for z in edited:
        assert z.isfinite().all()
        assert z.abs().max() < 1000


SHAPES = [(1, (32, 32)), (2, (32, 32)), (6, (32, 64)), (5, (64, 32)), (3, (30, 50))]


@pytest.mark.parametrize(("frames", "size"), SHAPES)
def test_odd_clips(case, frames, size):
    """One frame, shorter than a group, not 4n+1, landscape, portrait, no legal size."""
    odd = Case(case.name, case.backbone, frames, size)
    config = odd.config(steps=2 if frames < 5 else 1, tuning_steps=1)
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
