"""What methods observe on their way, and the strips that are drawn of it. Nothing is computed unless it is observed."""

import pytest
import torch

from holdfast import methods
from holdfast.base.errors import UserError
from holdfast.media import video
from holdfast.methods.flowanchor import Config, RefinementRule
from holdfast.models.attention import blending
from holdfast.models.attention.hooks import Layer
from holdfast.models.base import Conditioning
from holdfast.pipeline import explaining
from holdfast.pipeline.task import EditTask
from holdfast.sampling import observing
from holdfast.sampling.field import TargetArea

from .. import tiny
from ..models.attention.test_refinement import naive_logits_of_targets
from .analytic import last
from .test_contract import STEPS, Case


def test_observing_keeps_the_first_map_of_a_step_and_ends_with_its_block():
    x = torch.arange(12.0).view(1, 2, 1, 2, 3)
    observing.observe("map", 0, x)
    with observing.observe_edit() as observations:
        assert observing.is_observed()
        observing.observe("map", 3, x)
        observing.observe("map", 3, 2 * x)
    assert not observing.is_observed()
    assert observations.keys() == {"map"}
    assert torch.equal(observations["map"][3], x.mean(1, keepdim=True))


def observe(name, family, mask=True, **settings):
    case = Case(name, tiny.ADAPTERS[family]())
    with observing.observe_edit() as observations:
        explained = last(case.steps(case.config(**settings), mask=case.part() if mask else None))
    return case, explained, observations


def test_flowanchor_shows_attention_before_and_after_and_its_signal():
    case, explained, observations = observe("flowanchor", "wan")
    assert observations.keys() == {
        "attention: before",
        "attention: after",
        "contrast C",
        "change |dV|",
    }
    assert list(observations["contrast C"]) == list(range(STEPS))
    for contrast in observations["contrast C"].values():
        assert (contrast.min(), contrast.max()) == (0, pytest.approx(1, abs=1e-4))
    before, after = (observations[f"attention: {name}"][0] for name in ("before", "after"))
    assert (after > before)[..., :1].all()  # inside the mask, which is the first column of tokens
    assert (after < before)[..., 1:].float().mean() > 0.5
    assert torch.equal(last(case.steps(mask=case.part())), explained)  # as it is without observing


def test_the_observed_attention_is_that_of_the_refined_logits():
    q, k = (torch.randn(1, 2, n, 8, generator=torch.Generator().manual_seed(n)) for n in (4, 6))
    left, right = torch.zeros(2, 1, 1, 1, 2, 2).unbind()
    left[..., 0], right[..., 1, 1] = 1, 1
    areas, config = (TargetArea(left, (1,)), TargetArea(right, (3,))), Config(beta_text=0.5)
    condition = Conditioning(None, None, token_count=6, edit_tokens=(1, 3))
    rule = RefinementRule(left + right, condition, config, areas)
    layer = Layer("a", "block", 0, "cross", "joint", (1, 2, 2), (0,), text_span=(0, 6))
    found = dict(rule.attention_to_words(layer, q, k, torch.ones_like(k)))
    a = q @ k.mT / 8**0.5
    masks = [torch.tensor([True, False, True, False]), torch.tensor([False, False, False, True])]
    how = blending_parameters(config)
    refined = naive_logits_of_targets(a, masks, [[1], [3]], how).softmax(-1).mean(1)
    for number, token in ((1, 1), (2, 3)):
        assert torch.allclose(
            found[f"mask {number}, before"], a.softmax(-1).mean(1)[..., token], atol=1e-5
        )
        assert torch.allclose(found[f"mask {number}, after"], refined[..., token], atol=1e-5)


def blending_parameters(config):
    from holdfast.models.attention.refinement import LogitRefinement

    return LogitRefinement(config.beta_text, config.beta_video, 6)


@pytest.mark.filterwarnings("ignore:.*without an image model")
def test_assd_shows_its_smoothing_mask():
    _, _, observations = observe("assd", "t2v", joint=0.0, tau=0.01)
    shown = observations["smoothing mask m"]
    assert list(shown) == list(range(STEPS))
    assert all(0 < m.mean() < 1 for m in shown.values())


def test_i2vedit_shows_the_difference_of_attention_maps(monkeypatch):
    calls = []
    distance = blending.attention_distance
    monkeypatch.setattr(
        blending, "attention_distance", lambda *qk: calls.append(1) or distance(*qk)
    )
    case, _, observations = observe("i2vedit", "svd", mask=False)
    shown = observations["difference map"]
    assert list(shown) == list(range(STEPS))
    assert all(m.min() >= 0 and 0 < m.max() <= 1 for m in shown.values())
    observed = len(calls)
    last(case.steps())
    assert len(calls) - observed == observed - STEPS  # one more a step only while it is observed


def test_strips_are_drawn_for_each_group(make_clip, tmp_path):
    clip = video.probe(make_clip())
    maps = {step: torch.rand(1, 1, 3, 4, 6) for step in range(25)}
    observations = {"attention: before": maps, "attention: after": maps, "change |dV|": maps}
    paths = explaining.write_strips(tmp_path / "why", observations, clip, range(1, 5))
    assert [path.name for path in paths] == ["attention.png", "change-dv.png"]
    two, one = (next(video.read(video.probe(path))) for path in paths)
    assert two.shape[1] == one.shape[1]
    assert len(two) > 1.5 * len(one)
    assert two.std() > 10
    assert explaining.choose_steps(list(range(25))) == [0, 5, 10, 15, 20, 24]
    assert explaining.choose_steps([3, 4]) == [3, 4]


def test_a_method_without_anything_to_explain_is_refused_in_one_sentence(tmp_path):
    task = EditTask("a.mp4", "b.mp4", "a", "b", method="flowedit")
    with pytest.raises(
        UserError, match="flowedit has nothing to explain: remove --explain, or use"
    ):
        explaining.check_explainable(task, tmp_path)
    (tmp_path / "file").touch()
    anchored = EditTask("a.mp4", "b.mp4", "a", "b", method="flowanchor")
    with pytest.raises(UserError, match="file is a file: give --explain a folder"):
        explaining.check_explainable(anchored, tmp_path / "file")
    explaining.check_explainable(anchored, tmp_path / "new")
    able = {name for name in methods.names() if methods.load(name).METHOD.explains}
    assert able >= {"assd", "flowanchor", "i2vedit"}
