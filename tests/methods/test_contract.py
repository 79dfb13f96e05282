"""What every method over every backbone that carries it owes: identity, seed, resume at every step, masks, odd clips."""

import dataclasses

import pytest
import torch

from holdfast import fit, methods, registry, windows
from holdfast.run import Metered, Step, Store, drive
from holdfast.shapeworld.render import render
from holdfast.shapeworld.scenes import sample

from .analytic import last

pytestmark = pytest.mark.filterwarnings("ignore:without a mask the target's attention")
METHODS = methods.names()
RESAMPLES = {"sdedit"}  # has one branch pair and no source to hold on to: only strength 0 gives the source back
INVERTS = {"rfsolver", "uniedit"}  # walks up and down again: returns near the source, and is not random
STEERED = {"flowanchor"}  # the mask steers attention and does not cut the signal: only the composite holds the outside
BRANCHES = {
    "sdedit": ["tgt+", "tgt-"],
    "flowalign": ["src+", "tgt+", "tgt-"],
    "rfsolver": ["src+", "tgt+", "tgt-"],
    "uniedit": ["src+", "src-", "tgt+"],
}
STEPS = 4


@pytest.fixture(scope="module", params=["tiny_wan", "shapeworld"])
def backbone(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=METHODS)
def case(request, backbone):
    return Case(registry.method(request.param), request.param, backbone)


class Case:
    """One method over one backbone on a small random clip."""

    def __init__(self, method, name, backbone, frames=5, size=(32, 48)):
        self.method, self.name, self.backbone = method, name, backbone
        torch.manual_seed(5)
        plan = fit.plan(backbone.grid, frames, size)
        self.source = backbone.encode(plan.forward(torch.rand(frames, 3, *size)))
        self.src = backbone.condition("a plain red ball moves right over a lake", words=[2])
        self.tgt = backbone.condition("a plain blue ball moves right over a lake", words=[2])

    def config(self, **settings):
        known = {f.name for f in dataclasses.fields(self.method.Config)}
        wanted = {"steps": STEPS, "strength": 1.0, "n_avg": 2, "worse": 1} | settings
        return self.method.Config(**{k: v for k, v in wanted.items() if k in known})

    def steps(self, src=None, tgt=None, field=None, **options):
        cfg = options.pop("cfg", self.config())
        return self.method.edit(field or self.backbone, self.source, src or self.src, tgt or self.tgt, cfg, **options)


def test_equal_prompts_and_guidance_return_the_source_bit_for_bit(case):
    if case.name in RESAMPLES | INVERTS:
        assert list(case.steps(cfg=case.config(strength=0.0))) == []
        return
    cfg = case.config(source_guidance=3.0, target_guidance=3.0)
    assert torch.equal(last(case.steps(tgt=case.src, cfg=cfg)), case.source)


def test_the_seed_decides_and_nothing_else(case):
    torch.manual_seed(1)
    first = last(case.steps(seed=1))
    torch.manual_seed(2)
    assert torch.equal(first, last(case.steps(seed=1)))
    assert torch.equal(first, last(case.steps(seed=2))) == (case.name in INVERTS)
    assert not torch.equal(first, case.source)


@pytest.mark.parametrize("masked", [False, True])
def test_stopped_and_resumed_at_every_step_through_the_disk(case, masked, tmp_path):
    mask = torch.zeros(1, 1, *case.source.shape[2:])
    mask[..., :2] = 1
    mask = mask if masked else None
    whole = list(case.steps(mask=mask))
    assert [s.index for s in whole] == list(range(whole[0].index, whole[-1].count + 1))
    assert whole[-1].count == STEPS * (2 if case.name in INVERTS else 1)
    store = Store(tmp_path / "latents.safetensors", "key")
    for step in whole:
        store.save(step)
        resumed = drive(case.steps(start=store.load(), mask=mask), store.load())
        assert torch.equal(resumed.z, whole[-1].z), step.index


def test_an_empty_mask_returns_the_source_and_a_full_one_changes_nothing(case):
    mask = torch.ones(1, 1, *case.source.shape[2:])
    assert torch.equal(ended(case, case.steps(mask=0 * mask)), case.source)
    if case.name not in STEERED:
        assert torch.equal(last(case.steps(mask=mask)), last(case.steps()))


def ended(case, steps):
    """The last step's latent, or the source where a method found nothing to do."""
    return drive(steps, Step(STEPS, STEPS, case.source, {})).z


def test_flowedit_last_steps_keep_to_the_mask_and_resume(backbone, tmp_path):
    case = Case(registry.method("flowedit"), "flowedit", backbone)
    mask = torch.zeros(1, 1, *case.source.shape[2:])
    mask[..., :2] = 1
    cfg = case.config(n_min=9, strength=0.5)  # more last steps than the walk has
    whole = list(case.steps(cfg=cfg, mask=mask))
    outside = mask.expand_as(case.source) == 0
    assert torch.equal(whole[-1].z[outside], case.source[outside])
    assert not torch.equal(whole[-1].z, case.source)
    assert torch.equal(last(case.steps(cfg=cfg, mask=mask, start=whole[0])), whole[-1].z)


def test_latents_outside_a_mask_stay_bit_for_bit(case):
    mask = torch.zeros(1, 1, *case.source.shape[2:])
    mask[..., :2] = 1
    edited = last(case.steps(mask=mask))
    outside = mask.expand_as(edited) == 0
    assert torch.equal(edited[outside], case.source[outside]) == (case.name not in STEERED)
    assert not torch.equal(edited, case.source)


def test_all_branches_are_seen_by_their_names(case):
    class Watched:
        levels, door, branches = staticmethod(case.backbone.levels), case.backbone.door, set()

        def velocity(self, z, sigma, condition, *, branch):
            self.branches.add(branch)
            return case.backbone.velocity(z, sigma, condition, branch=branch)

    field = Metered(Watched())
    last(case.steps(field=field))
    expected = BRANCHES.get(case.name, ["src+", "src-", "tgt+", "tgt-"])
    assert sorted(field.field.branches) == expected
    if case.name not in INVERTS:
        assert field.evaluations == len(expected) * STEPS * getattr(case.config(), "n_avg", 1)


def test_an_inverting_method_returns_near_the_source_for_equal_prompts(shapeworld):
    """What it cannot return exactly it returns to the order of its solver: the error is bounded, and falls with more steps."""
    for name in sorted(INVERTS):
        case = Case(registry.method(name), name, shapeworld)
        scene = sample(7)
        case.source, case.src = shapeworld.encode(render([scene])[0]), shapeworld.condition(scene.caption())
        errors = []
        for steps in (8, 32):
            cfg = case.config(steps=steps, target_guidance=1.0, source_prompt=True, strength=0.5)
            errors.append((last(case.steps(tgt=case.src, cfg=cfg)) - case.source).square().mean().sqrt().item())
        assert errors[1] < 0.5 * errors[0], (name, errors)
        assert errors[1] < 0.1 * case.source.std().item(), (name, errors)


def test_windows_of_a_long_clip_see_the_same_noise_and_one_window_is_no_window(case):
    long = Case(case.method, case.name, case.backbone, frames=13)
    one, two = (windows.plan(case.backbone.grid, 13, w) for w in (13, 9))
    assert (one.count, two.count) == (1, 2)
    plain = last(long.steps())
    assert torch.equal(last(long.steps(field=windows.fitted(case.backbone, one))), plain)
    mask = torch.ones(1, 1, *long.source.shape[2:])
    split = last(long.steps(field=windows.fitted(case.backbone, two), mask=mask))
    assert split.shape == plain.shape
    assert split.isfinite().all()
    assert not torch.equal(split, plain)


@pytest.mark.parametrize(("frames", "size"), [(1, (32, 32)), (2, (32, 32)), (6, (32, 64)), (5, (64, 32)), (3, (30, 50))])
def test_odd_clips(case, frames, size):
    """One frame, shorter than a group, not 4n+1, landscape, portrait, no legal size."""
    odd = Case(case.method, case.name, case.backbone, frames, size)
    plan = fit.plan(case.backbone.grid, frames, size)
    back = torch.stack(list(plan.back(case.backbone.decode(last(odd.steps())))))
    assert back.shape == (frames, 3, *size)
    assert back.isfinite().all()
    assert 0 <= back.min() <= back.max() <= 1
