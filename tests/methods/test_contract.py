"""What every method over every backbone that carries it owes: identity, seed, resume at every step, masks, odd clips."""

import pytest
import torch

from holdfast import fit, methods, registry
from holdfast.run import Metered, Store, drive

from .analytic import last

METHODS = methods.names()
RESAMPLES = {"sdedit"}  # has one branch pair and no source to hold on to: only strength 0 gives the source back
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
        self.src = backbone.condition("a plain red ball moves right over a lake")
        self.tgt = backbone.condition("a plain blue ball moves right over a lake")

    def config(self, **settings):
        return self.method.Config(**{"steps": STEPS, "strength": 1.0} | settings)

    def steps(self, src=None, tgt=None, field=None, **options):
        cfg = options.pop("cfg", self.config())
        return self.method.edit(field or self.backbone, self.source, src or self.src, tgt or self.tgt, cfg, **options)


def test_equal_prompts_and_guidance_return_the_source_bit_for_bit(case):
    if case.name in RESAMPLES:
        assert list(case.steps(cfg=case.config(strength=0.0))) == []
        return
    cfg = case.config(source_guidance=3.0, target_guidance=3.0)
    assert torch.equal(last(case.steps(tgt=case.src, cfg=cfg)), case.source)


def test_the_seed_decides_and_nothing_else(case):
    torch.manual_seed(1)
    first = last(case.steps(seed=1))
    torch.manual_seed(2)
    assert torch.equal(first, last(case.steps(seed=1)))
    assert not torch.equal(first, last(case.steps(seed=2)))
    assert not torch.equal(first, case.source)


def test_stopped_and_resumed_at_every_step_through_the_disk(case, tmp_path):
    whole = list(case.steps())
    assert [s.index for s in whole] == list(range(whole[0].index, STEPS + 1))
    store = Store(tmp_path / "latents.safetensors", "key")
    for step in whole:
        store.save(step)
        resumed = drive(case.steps(start=store.load()), store.load())
        assert torch.equal(resumed.z, whole[-1].z), step.index


def test_an_empty_mask_returns_the_source_and_a_full_one_changes_nothing(case):
    mask = torch.ones(1, 1, *case.source.shape[2:])
    assert torch.equal(last(case.steps(mask=0 * mask)), case.source)
    assert torch.equal(last(case.steps(mask=mask)), last(case.steps()))


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
    assert torch.equal(edited[outside], case.source[outside])
    assert not torch.equal(edited, case.source)


def test_all_branches_are_seen_by_their_names(case):
    class Watched:
        levels, branches = staticmethod(case.backbone.levels), set()

        def velocity(self, z, sigma, condition, *, branch):
            self.branches.add(branch)
            return case.backbone.velocity(z, sigma, condition, branch=branch)

    field = Metered(Watched())
    last(case.steps(field=field))
    expected = {"tgt+", "tgt-"} if case.name in RESAMPLES else {"src+", "src-", "tgt+", "tgt-"}
    assert field.field.branches == expected
    assert field.evaluations == len(expected) * STEPS


@pytest.mark.parametrize(("frames", "size"), [(1, (32, 32)), (2, (32, 32)), (6, (32, 64)), (5, (64, 32)), (3, (30, 50))])
def test_odd_clips(case, frames, size):
    """One frame, shorter than a group, not 4n+1, landscape, portrait, no legal size."""
    odd = Case(case.method, case.name, case.backbone, frames, size)
    plan = fit.plan(case.backbone.grid, frames, size)
    back = torch.stack(list(plan.back(case.backbone.decode(last(odd.steps())))))
    assert back.shape == (frames, 3, *size)
    assert back.isfinite().all()
    assert 0 <= back.min() <= back.max() <= 1
