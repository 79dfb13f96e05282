"""Compiled blocks: the same numbers, with and without attention rules and regions, and no trace afterwards."""

import pytest
import torch

from holdfast.models import attention, compiling
from holdfast.models.base import Prompt
from holdfast.pipeline import events, in_memory, loop
from holdfast.pipeline.task import EditTask
from holdfast.sampling.field import Evaluation, Step

from .. import tiny


@pytest.fixture(autouse=True)
def forget_code():
    yield
    torch.compiler.reset()


def evaluate(backbone, z, region=None):
    source, target = (backbone.condition(Prompt(f"a {word} ball")) for word in ("red", "blue"))
    pair = [Evaluation(z, source, "src+"), Evaluation(z, target, "tgt+", region)]
    return torch.cat(backbone.velocities(0.7, pair))


def is_compiled(backbone):
    blocks = compiling._find_blocks(backbone.parts["transformer"])
    return {block._compiled_call_impl is not None for block in blocks}


@torch.no_grad()
def test_compiled_blocks_give_the_same_velocities_with_rules_and_regions():
    backbone = tiny.wan()
    z = torch.randn(1, 4, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    region = torch.zeros(1, 1, 3, 4, 6, dtype=torch.bool)
    region[..., :2] = True

    def silence(layer, q, k, v):
        return torch.zeros_like(q)

    def evaluate_all():
        plain = evaluate(backbone, z, region)
        with attention.use_rule(backbone, silence, attention.hooks.is_cross):
            return plain, evaluate(backbone, z)

    expected = evaluate_all()
    with compiling.compile_blocks(backbone, "eager"):
        assert is_compiled(backbone) == {True}
        found = evaluate_all()
    assert is_compiled(backbone) == {False}
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_where_nothing_can_be_compiled_the_user_is_told_and_the_model_runs():
    backbone = tiny.wan()

    def fail(graph, inputs):
        raise RuntimeError("no C++ compiler")

    with (
        pytest.warns(UserWarning, match="is not compiled: torch.compile does not work here"),
        compiling.compile_blocks(backbone, fail),
    ):
        assert is_compiled(backbone) == {False}
    backbone.streams_blocks = True
    with (
        pytest.warns(UserWarning, match="is not compiled: its blocks are streamed"),
        compiling.compile_blocks(backbone, "eager"),
    ):
        assert is_compiled(backbone) == {False}


def test_an_edit_compiles_for_itself_alone_if_it_is_asked_to(monkeypatch):
    backbone, seen = tiny.wan(), []
    real = compiling.compile_blocks
    monkeypatch.setattr(loop, "compile_blocks", lambda model: real(model, "eager"))
    clip = torch.rand(5, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    texts = {"source_prompt": "a red ball", "target_prompt": "a blue ball", "method": "flowedit"}
    latents = []
    for is_wanted in (False, True):
        task = EditTask("", "", compile=is_wanted, settings={"steps": 1}, **texts)
        for event in loop.run_loop(in_memory.plan_job(task, backbone, clip), backbone):
            if isinstance(event, Step):
                seen.append(is_compiled(backbone))
            elif isinstance(event, events.EditFinished):
                latents.append(event.z)
    assert seen == [{False}, {True}]
    assert is_compiled(backbone) == {False}
    assert torch.allclose(*latents, atol=1e-5)
    keys = {EditTask("a", "b", compile=c).latent_key() for c in (False, True)}
    assert len(keys) == 2
