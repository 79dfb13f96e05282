"""A second edit of a clip finds the source's evaluations: the same result, bit for bit, at the target's cost."""

import dataclasses

import pytest
import torch

from holdfast.models import source_store
from holdfast.models.base import BackboneWrapper
from holdfast.models.source_store import SourceStore, digest
from holdfast.models.wan.packed import PackedAttnProcessor
from holdfast.pipeline import in_memory
from holdfast.pipeline.task import EditTask

STEPS = 3


@pytest.fixture
def model(tiny_wan):
    """The tiny model with a store, which other tests do not see."""
    wrapped = BackboneWrapper(tiny_wan)
    wrapped.source_store = SourceStore(wrapped)
    return wrapped


def edit(model, *arguments, **settings):
    return in_memory.finish_loop(plan(model, *arguments, **settings), model)


def plan(model, target="a blue ball", mask=False, seed=0, **settings):
    frames = torch.rand(9, 3, 32, 48, generator=torch.Generator().manual_seed(5))
    task = EditTask(
        "",
        "",
        source_prompt="a red ball",
        target_prompt=target,
        method="flowedit",
        seed=seed,
        settings={"steps": STEPS, "strength": 1.0, "target_guidance": 3.0} | settings,
    )
    inside = None
    if mask:
        inside = torch.zeros(9, 32, 48, dtype=torch.bool)
        inside[:, :, :16] = True
        inside = list(inside.numpy())
    return in_memory.plan_job(task, model, frames, inside)


@pytest.mark.parametrize("source_guidance", [1.0, 2.0])
def test_a_second_target_costs_its_own_evaluations_alone(model, tiny_wan, source_guidance):
    sources = 1 if source_guidance == 1 else 2
    first = edit(model, source_guidance=source_guidance)
    assert first.evaluations == STEPS * (2 + sources)
    assert first.reused_evaluations == 0
    second = edit(model, "a green ball", source_guidance=source_guidance, target_guidance=4.0)
    assert second.evaluations == second.dense_equivalents == STEPS * 2
    assert second.reused_evaluations == STEPS * sources
    alone = edit(tiny_wan, "a green ball", source_guidance=source_guidance, target_guidance=4.0)
    assert alone.evaluations == STEPS * (2 + sources)
    assert torch.equal(second.z, alone.z)


def test_a_second_edit_in_a_region_costs_the_region(model, tiny_wan):
    """Its source's keys and values are kept, so that only the targets' tokens run: a third of them here."""
    first = edit(model, mask=True, source_guidance=1.0)
    tokens, layers, width, number = 3 * 2 * 3, 2, 24, 4  # float32
    assert model.source_store.bytes == STEPS * (
        4 * 3 * 4 * 6 * number + 2 * layers * tokens * width * number
    )
    assert first.evaluations == STEPS * 3
    assert first.dense_equivalents == pytest.approx(STEPS * (1 + 2 / 3), abs=0.01)
    second = edit(model, "a green ball", mask=True, source_guidance=1.0)
    assert second.evaluations == STEPS * 2
    assert second.dense_equivalents == pytest.approx(STEPS * 2 / 3, abs=0.01)
    alone = edit(tiny_wan, "a green ball", mask=True, source_guidance=1.0)
    assert (second.z - alone.z).norm() < 1e-5 * alone.z.norm()


def test_where_keys_and_values_do_not_fit_the_source_runs_again(tiny_wan):
    model = BackboneWrapper(tiny_wan)
    model.source_store = SourceStore(model, max_bytes=100_000)  # velocities take 4.6 kB each
    edit(model, mask=True, source_guidance=1.0)
    assert tiny_wan.kept_layer_bytes(torch.zeros(1, 4, 3, 4, 6)) == 2 * 2 * 18 * 24 * 4
    fits = model.source_store.bytes <= 100_000
    assert fits
    again = edit(model, "a green ball", mask=True, source_guidance=1.0)
    assert torch.allclose(
        again.z, edit(tiny_wan, "a green ball", mask=True, source_guidance=1.0).z, atol=1e-5
    )


def test_a_source_that_runs_again_for_its_keys_is_not_counted_as_reused(model):
    """A dense edit keeps velocities alone, and a masked one needs the source's keys and values."""
    edit(model, source_guidance=1.0)
    masked = edit(model, mask=True, source_guidance=1.0)
    assert (masked.evaluations, masked.reused_evaluations) == (STEPS * 3, 0)
    again = edit(model, mask=True, source_guidance=1.0)
    assert (again.evaluations, again.reused_evaluations) == (STEPS * 2, STEPS)


def test_an_interrupted_pass_leaves_no_half_of_its_layers(model, tiny_wan, monkeypatch):
    edit(model, source_guidance=1.0)
    attend, calls = PackedAttnProcessor._attend, iter(range(100))

    def fail(self, *arguments):
        if next(calls) == 6:  # in the second of two blocks
            raise torch.OutOfMemoryError
        return attend(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PackedAttnProcessor, "_attend", fail)
        with pytest.raises(torch.OutOfMemoryError):
            edit(model, mask=True, source_guidance=1.0)
    again = edit(model, mask=True, source_guidance=1.0)
    assert torch.allclose(
        again.z, edit(tiny_wan, mask=True, source_guidance=1.0).z, rtol=0, atol=1e-5
    )


def test_the_point_of_both_source_branches_is_hashed_once(model, monkeypatch):
    """A GPU waits for each hash of a latent."""
    shapes = []

    def count(value):
        shapes.append(getattr(value, "ndim", 0))
        return digest(value)

    monkeypatch.setattr(source_store, "digest", count)
    edit(model)
    assert shapes.count(5) == STEPS


def test_another_seed_or_source_is_evaluated(model):
    edit(model)
    assert edit(model, seed=1).reused_evaluations == 0
    assert edit(model, seed=0).reused_evaluations == STEPS * 2
    assert edit(model, shift=1.5).reused_evaluations == 0


def test_old_edits_make_room_for_new_ones(tiny_wan):
    model = BackboneWrapper(tiny_wan)
    model.source_store = SourceStore(model)
    edit(model)
    size = model.source_store.bytes
    model.source_store = store = SourceStore(model, max_bytes=size)
    for seed in range(3):
        edit(model, seed=seed)
        assert store.bytes == size
    assert edit(model, seed=2).reused_evaluations == STEPS * 2
    assert edit(model, seed=0).reused_evaluations == 0
    # of an edit that is larger than the store, the first steps are kept
    model.source_store = SourceStore(model, max_bytes=size // 2)
    edit(model)
    assert edit(model).reused_evaluations == STEPS


def test_a_memory_limit_bounds_what_is_kept(tiny_wan):
    """The model's plan leaves 2,500 bytes of it: two velocities, of this edit and all before."""
    model = BackboneWrapper(tiny_wan)
    model.source_store = store = SourceStore(model)
    edit(model)
    assert store.bytes == STEPS * 2 * 1152
    job = plan(model)
    memory = dataclasses.replace(job.plan.memory, stages={"denoise": 10**9 - 2500})
    limited = dataclasses.replace(job.plan.task, memory="1GB", seed=1)
    limited = dataclasses.replace(job.plan, memory=memory, task=limited)
    in_memory.finish_loop(dataclasses.replace(job, plan=limited), model)
    assert store.bytes == 2 * 1152
    store.begin_edit(0)
    assert store.bytes == 0


def test_what_reads_the_source_is_not_kept_from_it(model):
    """FlowDirector reads the source's attention in every evaluation."""
    task = {"n_avg": 1, "n_worst": 0, "steps": 2, "strength": 1.0}
    frames = torch.rand(9, 3, 32, 48, generator=torch.Generator().manual_seed(5))
    both = []
    for _ in range(2):
        job = in_memory.plan_job(
            EditTask("", "", "a red ball", "a blue ball", method="flowdirector", settings=task),
            model,
            frames,
        )
        both.append(in_memory.finish_loop(job, model))
    assert both[0].evaluations == both[1].evaluations == 8
    assert torch.equal(both[0].z, both[1].z)


def test_a_digest_tells_values_of_every_kind_apart():
    a, b = torch.zeros(2, 3), torch.zeros(3, 2)
    values = [a, b, a.bfloat16(), (a, b), (b, a), {"x": a}, {"y": a}, "a", 1, None]
    assert len({digest(v) for v in values}) == len(values)
    assert digest((a, b)) == digest((a.clone(), b.clone()))
    # of a view, what it shows counts, not what lies beside it
    assert digest(torch.arange(6.0).view(2, 3).T) == digest(torch.arange(6.0).view(2, 3).T.clone())
