"""Injection of queries, keys and features of the source branch, against networks patched by hand."""

import pytest
import torch

from holdfast.base.errors import UserError
from holdfast.models import attention, feature_hooks
from holdfast.models.base import Prompt
from holdfast.models.injection import Injected, InjectionTable, list_modules
from holdfast.sampling.field import Evaluation

from .. import tiny

RESIDUAL = Injected("residual_branch", ("up_blocks.1.resnets.1", "up_blocks.2.resnets.0"), 2)
ATTENTION = Injected("self", list_modules((1, "attentions", (1, 2)), (3, "attentions", (0,))), 1)


@pytest.fixture(scope="module")
def field():
    return tiny.ADAPTERS["sd"]().field


@pytest.fixture(scope="module")
def evaluations():
    backbone = tiny.ADAPTERS["sd"]()
    text = backbone.condition(Prompt("a red ball", ""))
    x, z = torch.randn(2, 1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return [Evaluation(x, text, "src-"), Evaluation(z, text, "tgt+"), Evaluation(z, text, "tgt-")]


def test_only_the_layers_that_exist_are_in_the_table(field):
    table = InjectionTable(field, [RESIDUAL, ATTENTION])
    assert table.feature_steps == {"up_blocks.1.resnets.1.conv2": 2}
    assert table.attention_steps == {"up_blocks.1.attentions.1.transformer_blocks.0.attn1": 1}


def test_a_model_without_the_layers_is_refused(field):
    with pytest.raises(UserError, match=r"up_blocks\.7\.resnets\.0"):
        InjectionTable(field, [Injected("residual_branch", ("up_blocks.7.resnets.0",), 1)])


def record_inputs(field, evaluations):
    """Return (q, k, v) and the branch's output of the injected layers, by branch."""
    values = {}

    def keep_attention(layer, q, k, v):
        if layer.path.startswith("up_blocks.1.attentions.1."):
            values[layer.branch, layer.kind] = q, k, v

    def keep_feature(layer, x):
        if layer.path == "up_blocks.1.resnets.1.conv2":
            values[layer.branch, "branch"] = x

    with (
        torch.no_grad(),
        attention.use_rule(field, keep_attention),
        feature_hooks.use_rule(field, keep_feature),
    ):
        velocities = field.velocities(0.5, evaluations)
    return velocities, values


@pytest.mark.parametrize("step", [0, 1, 2])
def test_targets_take_the_values_of_the_source_for_their_steps(field, evaluations, step):
    stock, own = record_inputs(field, evaluations)

    def attend(layer, q, k, v):
        if layer.branch == "src-" or not layer.path.endswith(
            "1.attentions.1.transformer_blocks.0.attn1"
        ):
            return None
        q, k, _ = own["src-", "self"]
        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v

    def replace(layer, x):
        is_target = layer.path == "up_blocks.1.resnets.1.conv2" and layer.branch != "src-"
        return own["src-", "branch"] if is_target else None

    with (
        torch.no_grad(),
        attention.use_rule(field, attend if step < 1 else lambda *_: None),
        feature_hooks.use_rule(field, replace if step < 2 else lambda *_: None),
    ):
        expected = field.velocities(0.5, evaluations)
    with torch.no_grad(), InjectionTable(field, [RESIDUAL, ATTENTION]).use(field, step):
        found = field.velocities(0.5, evaluations)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert torch.equal(found[0], stock[0])
    assert torch.allclose(found[1], stock[1], atol=1e-5) == (step == 2)


def test_a_rule_of_a_method_exchanges_by_itself(field, evaluations):
    table, seen = InjectionTable(field, [ATTENTION]), {}
    with torch.no_grad(), table.use(field, 0) as injection:

        def rule(layer, q, k, v):
            if layer.kind == "self":
                seen[layer.branch, layer.path] = injection.exchange(layer, q, k)

        with attention.use_rule(field, rule):
            field.velocities(0.5, evaluations)
    for path in {path for _, path in seen}:
        is_same = seen["src-", path][0] is seen["tgt+", path][0]
        assert is_same == (path in table.attention_steps), path
