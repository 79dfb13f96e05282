"""`quality` chooses the number of steps, and nothing else about the edit."""

import dataclasses

import pytest

from holdfast import methods
from holdfast.base import schema
from holdfast.base.notices import Notice
from holdfast.models import registry
from holdfast.pipeline.planning import make_plan
from holdfast.pipeline.quality import NOT_MEASURED, apply_quality, draft_steps
from holdfast.pipeline.task import EditTask

QUALITIES = ("draft", "normal", "best")
PROMPTS = {"source_prompt": "a red ball", "target_prompt": "a blue ball"}


@dataclasses.dataclass
class Model:
    name: str
    recommended: dict


def plan_settings(quality: str, method: str, backbone: str, **settings) -> dict:
    """Return the settings of an edit, each with its value and its source."""
    task = EditTask(
        "", "", **PROMPTS, method=method, backbone=backbone, quality=quality, settings=settings
    )
    model = Model(backbone, registry.specs()[backbone].recommended)
    config = methods.load(method).Config
    chosen = schema.configure(config, model.recommended, task.strength, task.settings)
    made, sources = apply_quality(task, model, *chosen)
    values = dataclasses.asdict(made)
    return {name: {"value": values[name], "from": sources[name]} for name in values}


def test_a_plan_has_the_steps_of_the_quality():
    task = EditTask("", "", **PROMPTS, backbone="shapeworld-wan", quality="best")
    plan = make_plan(task, registry.describe_backbone("shapeworld-wan"), 9, (64, 64))
    assert plan.settings()["steps"] == {"value": 50, "from": f"quality best, {NOT_MEASURED}"}


@pytest.mark.parametrize(
    ("quality", "steps"),
    [
        ("draft", {"value": 20, "from": f"quality draft, {NOT_MEASURED}"}),
        ("normal", {"value": 50, "from": f"the method's default, {NOT_MEASURED}"}),
        ("best", {"value": 50, "from": f"quality best, {NOT_MEASURED}"}),
    ],
)
def test_published_weights_take_the_authors_steps_which_are_not_measured(quality, steps):
    assert plan_settings(quality, "flowedit", "wan2.1-1.3b")["steps"] == steps


def test_the_embedded_model_has_measured_steps():
    recommended = registry.specs()["shapeworld-wan"].recommended["steps"]
    found = {q: plan_settings(q, "flowedit", "shapeworld-wan")["steps"] for q in QUALITIES}
    assert found["normal"] == {"value": recommended, "from": "suits this backbone"}
    assert found["draft"] == {"value": round(0.4 * recommended), "from": "quality draft"}
    assert found["best"] == {"value": 50, "from": f"quality best, {NOT_MEASURED}"}
    best = plan_settings("best", "flowanchor", "shapeworld-wan")["steps"]
    assert best == {"value": recommended, "from": "quality best"}


@pytest.mark.parametrize("backbone", ["svd", "shapeworld-sd"])
def test_what_was_not_measured_says_so(backbone):
    """Of the embedded models only Wan's steps were compared; published weights were never run."""
    normal = plan_settings("normal", "flowedit", backbone)["steps"]["from"]
    assert normal.endswith(NOT_MEASURED) == (backbone == "svd")
    assert plan_settings("draft", "flowedit", backbone)["steps"]["from"].endswith(NOT_MEASURED)


@pytest.mark.parametrize("quality", ["draft", "best"])
def test_the_setting_overrides_the_quality_and_a_notice_says_so(quality):
    with pytest.warns(Notice, match="quality has no effect: steps is given"):
        steps = plan_settings(quality, "dds", "shapeworld-t2v", steps=7)
    assert steps["steps"] == {"value": 7, "from": "given"}
    assert steps["learning_rate"]["value"] == 0.04


# of the methods that Wan lacks the layers for
OWN_BACKBONES = {
    "anyv2v": "shapeworld-svd",
    "ebsynth": "pixels",
    "i2vedit": "shapeworld-svd",
    "spacetime": "shapeworld-t2v",
}


@pytest.mark.parametrize("name", methods.names())
def test_quality_changes_no_other_setting(name):
    """But the learning rate of score distillation, whose iterations add up."""
    backbone = OWN_BACKBONES.get(name, "wan2.1-1.3b")
    draft, normal, best = (plan_settings(q, name, backbone) for q in QUALITIES)
    is_sum = normal["steps"]["value"] == 200
    assert changed_settings(normal, draft) == {"steps"} | ({"learning_rate"} if is_sum else set())
    assert changed_settings(normal, best) <= {"steps"}


def changed_settings(a: dict, b: dict) -> set[str]:
    return {name for name in a if a[name]["value"] != b[name]["value"]}


def test_a_draft_of_score_distillation_moves_as_far_as_the_whole():
    normal, draft = (plan_settings(q, "dds", "shapeworld-t2v") for q in ("normal", "draft"))
    assert (normal["steps"]["value"], draft["steps"]["value"]) == (200, 80)
    assert 80 * draft["learning_rate"]["value"] == pytest.approx(200 * 0.04)
    given = plan_settings("draft", "dds", "shapeworld-t2v", learning_rate=0.3)
    assert (given["steps"]["value"], given["learning_rate"]["value"]) == (80, 0.3)


@pytest.mark.parametrize("steps", [1, 2, 5, 25, 50])
@pytest.mark.parametrize("strength", [0.0, 0.02, 0.1, 0.5, 0.92, 1.0])
def test_a_draft_runs_a_step_wherever_the_whole_does(steps, strength):
    draft = draft_steps(steps, strength)
    assert 1 <= draft <= steps
    assert bool(round(strength * draft)) == bool(round(strength * steps))


def test_the_key_holds_the_quality_unless_it_is_normal(monkeypatch):
    """So that results of releases without a quality stay valid."""
    keys = {q: EditTask("", "", **PROMPTS, quality=q).latent_key() for q in QUALITIES}
    assert len(set(keys.values())) == 3
    hashed = []
    monkeypatch.setattr("holdfast.pipeline.task._hash", hashed.append)
    EditTask("", "", **PROMPTS).latent_key()
    assert "quality" not in hashed[0]
