"""FlowAnchor: when its refinement is in force, where, on which tokens of every layout; and what its parts are without
it.
"""

import pytest
import torch

from holdfast import methods
from holdfast.methods.flowanchor import Config, RefinementRule
from holdfast.models import attention
from holdfast.models.attention import refinement
from holdfast.models.attention.hooks import Layer
from holdfast.models.base import Conditioning, Prompt
from holdfast.sampling.field import TargetArea

from .analytic import last
from .test_contract import STEPS, Case

pytestmark = pytest.mark.filterwarnings("ignore:without a mask the target's attention")


@pytest.fixture
def case(tiny_wan):
    return Case("flowanchor", tiny_wan)


def test_beta_zero_is_stock_attention_bit_for_bit(case):
    with_mask = last(case.steps(case.config(beta_text=0.0, beta_video=0.0), mask=case.part()))
    assert torch.equal(with_mask, last(case.steps()))


def test_gamma_zero_and_one_frame_leave_the_signal(case):
    flowedit = methods.load("flowedit")
    guidance = {"source_guidance": 2.0, "target_guidance": 4.0}
    cfg = flowedit.Config(steps=STEPS, strength=1.0, timesteps="whole", **guidance)
    plain = last(flowedit.edit(case.backbone.field, case.given, cfg))
    assert torch.equal(last(case.steps(case.config(gamma=0.0, **guidance))), plain)
    one = Case("flowanchor", case.backbone, frames=1)
    loud, silent = (last(one.steps(one.config(gamma=g))) for g in (5.0, 0.0))
    assert torch.equal(loud, silent)


def test_only_the_targets_conditional_calls_above_tau_are_refined(case, monkeypatch):
    sites = []
    monkeypatch.setattr(RefinementRule, "__call__", lambda self, site, q, k, v: sites.append(site))
    levels = case.backbone.sigmas(STEPS)
    for by, count in (("sigma", sum(s >= 0.6 for s in levels[:STEPS])), ("step", 2)):
        sites.clear()
        last(case.steps(case.config(tau_by=by), mask=case.part()))
        layers = len(case.backbone.transformer.blocks)
        assert len(sites) == count * layers
        assert {(s.kind, s.branch) for s in sites} == {("cross", "tgt+")}


def test_the_mask_reaches_the_tokens_it_covers(case, monkeypatch):
    seen = []

    def look(q, k, v, rows, *_):
        seen.append(rows)
        return torch.zeros_like(q)

    monkeypatch.setattr(refinement, "refine_attention", look)
    next(case.steps(mask=case.part()))
    f, h, w = (
        n // p for n, p in zip(case.source.shape[2:], case.backbone.clip_format.patch, strict=True)
    )
    covered = torch.zeros(f * h * w, dtype=torch.bool)
    (inside,) = seen[0].inside
    covered[inside] = True
    assert torch.equal((~covered).nonzero().flatten(), seen[0].outside)
    covered = covered.view(f, h, w)
    patch = case.backbone.clip_format.patch[2]
    assert covered[..., : 2 // patch].all()
    assert not covered[..., 2 // patch :].any()


def test_statistics_and_padding_go_by_where_the_prompt_stands(monkeypatch):
    """Keys: 3 of something else, then 5 tokens of text of which the prompt has 2."""
    seen = []

    def look(q, k, v, rows, target, how):
        seen.append((target, how))
        return q

    monkeypatch.setattr(refinement, "refine_attention", look)
    site = Layer("a", "block", 0, "cross", "joint", (1, 2, 2), (0,), text_span=(3, 8))
    q, k = torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 8, 2)
    condition = Conditioning(None, None, token_count=2, edit_tokens=(1,))
    for cfg in (Config(), Config(text_range="prompt", padding="kept")):
        RefinementRule(torch.ones(1, 1, 1, 2, 2), condition, cfg)(site, q, k, k)
    (target, whole), (_, prompt) = seen
    assert target.positions.tolist() == [4]
    assert (whole.key_begin, whole.key_end) == (3, 8)
    assert whole.exempt_keys.tolist() == [True] * 3 + [False] * 5  # what is no text is left alone
    assert (prompt.key_begin, prompt.key_end) == (3, 5)
    assert prompt.exempt_keys.tolist() == [True] * 3 + [False] * 2 + [True] * 3


def test_each_area_brings_its_rows_and_its_words(monkeypatch):
    seen = []

    def look(q, k, v, rows, words, how):
        seen.append((rows, words))
        return q

    monkeypatch.setattr(refinement, "refine_attention", look)
    site = Layer("a", "block", 0, "cross", "joint", (1, 2, 2), (0,), text_span=(3, 8))
    q, k = torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 8, 2)
    condition = Conditioning(None, None, token_count=4, edit_tokens=(1, 3))
    left, right = torch.zeros(2, 1, 1, 1, 2, 2).unbind()
    left[..., 0], right[..., 0, 1] = 1, 1
    areas = TargetArea(left, (1,)), TargetArea(right, (3,))
    RefinementRule(left + right, condition, Config(), areas)(site, q, k, k)
    ((rows, words),) = seen
    assert [inside.tolist() for inside in rows.inside] == [[0, 2], [1]]
    assert rows.outside.tolist() == [3]
    assert words.positions.tolist() == [4, 6]
    assert words.own.tolist() == [[True, False], [False, True]]


def test_one_area_is_the_whole_mask_bit_for_bit(case):
    mask, tokens = case.part(), case.given.target.edit_tokens
    one = last(case.steps(mask=mask))
    assert torch.equal(last(case.steps(mask=mask, areas=(TargetArea(mask, tokens),))), one)
    other = TargetArea(1 - mask, tokens)
    assert not torch.equal(last(case.steps(mask=mask, areas=(other,))), one)


@pytest.mark.parametrize("axis", ["spatial", "temporal"])
def test_it_is_the_same_whatever_the_batch_runs_over(axis):
    """The equations' extremes run over all frames: a layer with frames or places in its batch refines as one over all
    tokens.
    """
    f, h, w = 3, 2, 4
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 2, f * h * w, 8, generator=generator)
    k, v = (torch.randn(1, 2, 6, 8, generator=generator) for _ in range(2))
    mask = torch.zeros(1, 1, f, h, w)
    mask[..., 1:3] = 1
    anchor = RefinementRule(mask, Conditioning(None, None, 5, (2,)), Config(padding="kept"))

    def site(axis):
        return Layer("a", "down", 0, "cross", axis, (f, h, w), (0, 1, 2), text_span=(0, 6))

    def laid(x, axis):  # 1 heads N d -> B heads n d
        heads = [
            site(axis).to_tokens(x[:, i, :, j].view(1, 1, f, h, w))
            for i in range(2)
            for j in range(8)
        ]
        return torch.stack(heads, -1).unflatten(-1, (2, 8)).transpose(1, 2)

    whole = anchor(site("joint"), q, k, v)
    batch = len(laid(q, axis))
    parts = anchor(
        site(axis), laid(q, axis), k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1)
    )
    assert torch.allclose(parts, laid(whole, axis), atol=1e-5)


def test_the_refinement_runs_in_bfloat16(tiny_wan):
    import copy

    from holdfast.models.wan.adapter import Wan

    half = Wan(copy.deepcopy(tiny_wan.transformer).to(torch.bfloat16), shift=3.0)
    condition = tiny_wan.condition(Prompt("a plain red ball", words=(2,)))
    z, mask = torch.randn(1, 4, 3, 4, 6), torch.zeros(1, 1, 3, 4, 6)
    mask[..., :3] = 1
    results = []
    for backbone in (tiny_wan, half):
        with attention.use_rule(
            backbone, RefinementRule(mask, condition, Config()), RefinementRule.applies_to
        ):
            results.append(backbone.velocity(z, 0.7, condition, branch="tgt+"))
    assert torch.allclose(*results, atol=0.05)


WRONG = [
    {"tau_by": "time"},
    {"contrast": "none"},
    {"beta_text": 1.5},
    {"padding": "no"},
    {"base_frames": 1},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_settings_that_there_are_not_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Config(**wrong)


def test_cut_keeps_latents_outside_the_mask(case):
    mask = case.part()
    outside = mask.expand_as(case.source) == 0
    for cut in (True, False):
        edited = last(case.steps(case.config(mask_velocity=cut), mask=mask))
        assert torch.equal(edited[outside], case.source[outside]) == cut
