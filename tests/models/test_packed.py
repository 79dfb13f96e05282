"""One pass for all branches of a step (models/wan/packed.py): equal to separate evaluations wherever it must be."""

import pytest
import torch

from holdfast.methods.flowanchor import Config, RefinementRule
from holdfast.models.attention import record, use_rule
from holdfast.models.base import Prompt
from holdfast.sampling.field import Evaluation, KeptEvaluation, confine_to_regions

SIGMA = 0.7
SHAPE = (1, 4, 3, 8, 12)  # of the latent; the token grid is 3 x 4 x 6


def noise(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def left_part(columns: int = 5) -> torch.Tensor:
    """A region of whole frames' left columns, with an odd edge: it is widened to 6 cells, 3 tokens."""
    region = torch.zeros(1, 1, *SHAPE[2:], dtype=torch.bool)
    region[..., :columns] = True
    return region


def everything() -> torch.Tensor:
    return torch.ones(1, 1, *SHAPE[2:], dtype=torch.bool)


@pytest.fixture(scope="module")
def conditions(tiny_wan):
    source = tiny_wan.condition(Prompt("a red ball", "blurry"))
    return source, tiny_wan.condition(Prompt("a blue ball", "blurry", words=(1,)))


def branches(conditions, region, names=("src+", "tgt+", "tgt-"), kept=None):
    source, target = conditions
    kept = kept or {}
    return [
        Evaluation(
            noise(1 if name.startswith("src") else 2),
            source if name.startswith("src") else target,
            name,
            None if name.startswith("src") else region,
            kept.get(name),
        )
        for name in names
    ]


def dense(backbone, evaluations):
    """Each evaluation on its own."""
    return [backbone.velocity(e.z, SIGMA, e.conditioning, branch=e.branch) for e in evaluations]


@torch.no_grad()
@pytest.mark.parametrize("names", [("src+", "tgt+", "tgt-"), ("tgt+", "tgt-", "src-", "src+")])
def test_a_region_of_everything_is_the_dense_evaluation(tiny_wan, conditions, names):
    evaluations = branches(conditions, everything(), names)
    for packed, alone in zip(
        tiny_wan.velocities(SIGMA, evaluations), dense(tiny_wan, evaluations), strict=True
    ):
        assert (packed - alone).norm() < 1e-5 * alone.norm()


@torch.no_grad()
def test_outside_the_region_a_target_equals_its_source(tiny_wan, conditions):
    evaluations = branches(conditions, left_part(), ("src+", "src-", "tgt+", "tgt-"))
    source, unconditional, target, negative = tiny_wan.velocities(SIGMA, evaluations)
    alone = dense(tiny_wan, evaluations)
    assert torch.allclose(source, alone[0], rtol=0, atol=1e-5)
    assert torch.equal(target[..., 6:], source[..., 6:])
    assert torch.equal(negative[..., 6:], unconditional[..., 6:])
    assert not torch.allclose(target[..., :6], source[..., :6], atol=1e-3)
    assert not torch.equal(target[..., 5], source[..., 5])  # the rest of a token that is run
    # a source without its own unconditional evaluation lends the conditional one
    source, negative = tiny_wan.velocities(
        SIGMA, branches(conditions, left_part(), ("src+", "tgt-"))
    )
    assert torch.equal(negative[..., 6:], source[..., 6:])


@torch.no_grad()
def test_the_first_block_is_exact(tiny_wan, conditions):
    """What the first block's attention gives a target's tokens, of the true keys and values of both latents."""
    region = left_part(6)
    evaluations = branches(conditions, region, ("src+", "tgt+"))
    path = "blocks.0.attn1"
    seen = {}
    with record(tiny_wan, lambda layer: layer.path == path) as separate:
        dense(tiny_wan, evaluations)
    with record(tiny_wan, lambda layer: layer.path == path) as together:
        tiny_wan.velocities(SIGMA, evaluations)
    for found in (separate, together):
        seen[id(found)] = {layer.branch: (layer, *values) for layer, values in found.items()}
    alone, packed = seen[id(separate)], seen[id(together)]
    layer, q, k, v = packed["tgt+"]
    tokens = layer.tokens
    assert tokens.tolist() == [i for i in range(72) if i % 6 < 3]
    assert torch.allclose(q, alone["tgt+"][1][:, :, tokens], atol=1e-6)
    for mine, target, source in zip((k, v), alone["tgt+"][2:], alone["src+"][2:], strict=True):
        assert torch.allclose(mine[:, :, tokens], target[:, :, tokens], atol=1e-6)
        outside = [i for i in range(72) if i % 6 >= 3]
        assert torch.allclose(mine[:, :, outside], source[:, :, outside], atol=1e-6)


@torch.no_grad()
def test_rules_act_on_each_branch_at_its_own_tokens(tiny_wan, conditions):
    """FlowAnchor's refinement, whose rows inside the mask are found through the tokens' places."""
    mask = everything().float()
    mask[..., 6:] = 0
    rule = RefinementRule(mask, conditions[1], Config())
    evaluations = branches(conditions, everything())
    with use_rule(tiny_wan, rule, RefinementRule.applies_to):
        alone, packed = dense(tiny_wan, evaluations), tiny_wan.velocities(SIGMA, evaluations)
    plain = dense(tiny_wan, evaluations)
    assert not torch.allclose(alone[1], plain[1], atol=1e-4)
    for together, single in zip(packed, alone, strict=True):
        assert (together - single).norm() < 1e-5 * single.norm()
    # in a region the rule sees the region's tokens alone, all of them inside
    inside = []
    with use_rule(
        tiny_wan,
        lambda layer, q, k, v: inside.append((q.shape[2], layer.tokens_in_mask(mask).tolist())),
        RefinementRule.applies_to,
    ):
        tiny_wan.velocities(SIGMA, branches(conditions, left_part(6)))
    assert inside == [(36, [[True] * 36])] * 2
    assert not tiny_wan.attention_hooks.rules
    assert type(tiny_wan.transformer.blocks[0].attn1.processor).__name__ == "WanAttnProcessor"


@torch.no_grad()
def test_an_empty_region_gives_the_source(tiny_wan, conditions):
    evaluations = branches(conditions, torch.zeros_like(everything()))
    source, target, negative = tiny_wan.velocities(SIGMA, evaluations)
    assert torch.equal(target, source)
    assert torch.equal(negative, source)


@torch.no_grad()
@pytest.mark.parametrize("region", [None, "left"])
def test_a_kept_source_is_not_evaluated_again(tiny_wan, conditions, region):
    region = region and left_part()
    kept = {"src+": KeptEvaluation(keeps_layers=True)}
    evaluations = branches(conditions, region, kept=kept)
    assert sum(tiny_wan.costs(evaluations)) == (3 if region is None else 2)  # a half of two targets
    first = tiny_wan.velocities(SIGMA, evaluations)
    velocity = kept["src+"].velocity
    assert velocity.untyped_storage().nbytes() == velocity.nbytes  # no view of the other branches
    assert sum(tiny_wan.costs(evaluations)) == (2 if region is None else 1)
    branches_run = []
    with use_rule(tiny_wan, lambda layer, *_: branches_run.append(layer.branch)):
        tiny_wan.velocities(SIGMA, evaluations)
    assert set(branches_run) == {"tgt+", "tgt-"}
    for again, before in zip(tiny_wan.velocities(SIGMA, evaluations), first, strict=True):
        assert torch.allclose(again, before, rtol=0, atol=1e-5)


@torch.no_grad()
def test_without_kept_layers_the_source_runs_again_for_a_region(tiny_wan, conditions):
    kept = {"src+": KeptEvaluation()}
    evaluations = branches(conditions, left_part(), kept=kept)
    first = tiny_wan.velocities(SIGMA, evaluations)
    assert kept["src+"].velocity is not None
    assert not kept["src+"].keys_values
    assert sum(tiny_wan.costs(evaluations)) == 2
    for again, before in zip(tiny_wan.velocities(SIGMA, evaluations), first, strict=True):
        assert torch.equal(again, before)


@torch.no_grad()
def test_every_layer_runs_on_the_row_alone(tiny_wan, conditions):
    """The last layers too: their float32 copies of whole targets would take the most memory of a step."""
    shapes, network = [], tiny_wan.transformer
    handles = [
        layer.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape[:2])))
        for layer in (network.blocks[1].ffn, network.norm_out, network.proj_out)
    ]
    tiny_wan.velocities(SIGMA, branches(conditions, left_part()))
    for handle in handles:
        handle.remove()
    assert shapes == [(1, 72 + 2 * 36)] * 3


@torch.no_grad()
def test_nothing_runs_for_an_empty_region_of_a_kept_source(tiny_wan, conditions):
    """As in a window of a long clip that the mask does not touch."""
    kept = {"src+": KeptEvaluation()}
    tiny_wan.velocities(SIGMA, branches(conditions, None, kept=kept))
    empty = torch.zeros_like(everything())
    assert sum(tiny_wan.costs(branches(conditions, empty, kept=kept))) == 0


@torch.no_grad()
def test_a_streamed_denoiser_runs_one_pass_for_all_branches(tiny_wan, conditions, monkeypatch):
    evaluations = branches(conditions, None, ("src+", "src-", "tgt+", "tgt-"))
    alone = tiny_wan.velocities(SIGMA, evaluations)
    monkeypatch.setattr(tiny_wan, "streams_blocks", True)
    passes = []
    block, at_once = tiny_wan.transformer.blocks[0], []
    handles = [
        block.register_forward_hook(lambda *_: passes.append(1)),
        block.ffn.net[0].register_forward_hook(lambda _, x, __: at_once.append(x[0].shape[1])),
    ]
    together = tiny_wan.velocities(SIGMA, evaluations)
    for handle in handles:
        handle.remove()
    assert len(passes) == 1
    assert at_once == [72] * 4  # tokens in the layer that takes most memory: those of one branch
    assert "forward" not in vars(block.ffn)
    for packed, single in zip(together, alone, strict=True):
        assert torch.allclose(packed, single, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_default_implementation_confines_to_the_region(tiny_wan, conditions):
    """A batch of two latents is not packed: every branch runs in full."""
    twice = [
        Evaluation(e.z.expand(2, -1, -1, -1, -1), e.conditioning, e.branch, e.region)
        for e in branches(conditions, left_part(), ("src+", "tgt+"))
    ]
    twice = [
        Evaluation(e.z, c, e.branch, e.region)
        for e, c in zip(twice, map(_double, (x.conditioning for x in twice)), strict=True)
    ]
    source, target = tiny_wan.velocities(SIGMA, twice)
    assert torch.equal(target[..., 5:], source[..., 5:])
    alone = dense(tiny_wan, twice)
    assert torch.equal(target, confine_to_regions(twice, alone)[1])


def _double(conditioning):
    from dataclasses import replace

    return replace(
        conditioning,
        positive=conditioning.positive.expand(2, -1, -1),
        negative=conditioning.negative.expand(2, -1, -1),
    )
