"""What an edit will cost is told before: the count is what the edit then asks for, whatever its method and length."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from holdfast.base.errors import UserError
from holdfast.base.notices import Notice
from holdfast.cli.app import app
from holdfast.media import images, video
from holdfast.media.arrays import write_mask
from holdfast.models import registry
from holdfast.models.base import BackboneWrapper
from holdfast.pipeline import (
    agreement,
    estimate,
    evaluation_count,
    in_memory,
    loop,
    run,
    validation,
)
from holdfast.pipeline.dry_run import DryRunBackbone
from holdfast.pipeline.evaluation_count import count_evaluations
from holdfast.pipeline.task import EditTask

from .. import tiny

CASES = {
    "flowedit": ("shapeworld-wan", {"steps": 3}),
    "flowanchor": ("shapeworld-wan", {"steps": 2}),  # looks into the network
    "rfsolver": ("shapeworld-wan", {"steps": 2}),  # inverts first
    "assd": ("shapeworld-t2v", {"steps": 2}),  # asks a second model too
    "sds": ("shapeworld-t2v", {"steps": 3}),
    "i2vedit": ("shapeworld-svd", {"steps": 2, "tuning_steps": 1}),  # goes in clips, tunes in each
}


@pytest.fixture(scope="module")
def load():
    """Load an embedded model once."""
    return functools.cache(registry.load_backbone)


@pytest.mark.parametrize("frames", [5, 9])
@pytest.mark.parametrize("method", CASES)
def test_the_count_is_what_the_edit_asks_for(method, frames, load):
    name, settings = CASES[method]
    model = load(name)
    clip = torch.rand(frames, 3, 16, 16)
    task = EditTask("", "", "a red ball", "a blue ball", method=method, backbone=name)
    task = dataclasses.replace(task, settings=settings, window=5, mask="0,0,8,8")
    shown = clip[0] if "image" in model.capabilities else None
    if shown is not None:
        task = dataclasses.replace(task, first_frame="given", source_prompt="", target_prompt="")
    inside = [np.ones((16, 16), bool)] * frames
    job = in_memory.plan_job(task, model, clip, inside, shown)
    assert job.plan.windows.count == (1 if frames == 5 else 2)
    idle = DryRunBackbone(model)
    event = in_memory.finish_loop(job, idle)
    count = count_evaluations(job.plan)
    assert count[:3] == (
        event.evaluations,
        idle.gradient_evaluations,
        event.image_model_evaluations,
    )
    if method == "flowedit":  # of three evaluations a step, the target's two run in a region
        assert count.in_region == 2 * event.evaluations / 3
        assert count.in_windows([0.1])[1] == pytest.approx(0.4 * event.evaluations)
    else:
        assert count.in_region == 0
    assert count.with_gradient == settings.get("tuning_steps", 0) * job.plan.windows.count
    assert bool(count.image_model) == (method == "assd")


NULL_TEXT = {"source_guidance": 7.5}  # at 1, which the model recommends, nothing is fitted


@pytest.mark.parametrize(
    ("method", "frames", "settings", "is_exact"),
    [
        ("spacetime", 9, {"feature_iterations": 3, "feature_share": 1.0}, True),
        ("vmc", 9, {"tuning_steps": 3}, True),
        ("tuneavideo", 3, {"tuning_steps": 3}, True),
        ("p2p", 3, NULL_TEXT | {"null_text_iterations": 1}, True),
        ("p2p", 3, NULL_TEXT | {"null_text_iterations": 0}, True),
        ("p2p", 3, NULL_TEXT | {"null_text_iterations": 3}, False),  # may end early
    ],
)
def test_iterations_with_a_gradient_are_counted_by_one_of_them(
    method, frames, settings, is_exact, load, monkeypatch
):
    """A gradient takes long, so that all of them would make the count as slow as a small edit."""
    name = "shapeworld-t2v" if method in ("spacetime", "vmc") else "shapeworld-sd"
    model, short = load(name), {"steps": 2, "inversion_steps": 2, "strength": 1.0}
    task = EditTask("", "", "a red ball", "a blue ball", method=method, backbone=name)
    task = dataclasses.replace(task, settings=short | settings, window=5)
    job = in_memory.plan_job(task, model, torch.rand(frames, 3, 16, 16))
    idle = DryRunBackbone(model)
    event = in_memory.finish_loop(job, idle)
    repeated = job.plan.method.METHOD.gradient_iterations
    counted, count_one = [], evaluation_count.count_on_embedded

    def watch(model, method, settings, *rest, **named):
        counted.append(json.loads(settings))
        return count_one(model, method, settings, *rest, **named)

    monkeypatch.setattr(evaluation_count, "count_on_embedded", watch)
    count = count_evaluations(job.plan)
    assert count.evaluations - count.with_gradient == event.evaluations - idle.gradient_evaluations
    if is_exact:
        assert count.with_gradient == idle.gradient_evaluations
    else:
        assert idle.gradient_evaluations <= count.with_gradient == 2 * 3 * frames
    assert {ran[repeated] for ran in counted} == {min(settings[repeated], 1)}


def test_a_model_without_an_embedded_member_is_not_counted(monkeypatch, load):
    model = load("shapeworld-wan")
    job = in_memory.plan_job(
        EditTask("", "", "a", "b", backbone="shapeworld-wan"), model, torch.rand(5, 3, 16, 16)
    )
    specs = {"wan2.1-14b": registry.specs()["wan2.1-14b"]}
    family = type("family", (), {"specs": specs})
    monkeypatch.setattr(registry, "backbones", lambda: {"shapeworld-wan": family})
    assert count_evaluations(job.plan) is None


@pytest.fixture
def task(tmp_path):
    moving = [np.full((16, 24, 3), 20 * i, np.uint8) for i in range(5)]
    video.write_frames(tmp_path / "clip.mkv", moving, 8, "ffv1")
    told = {
        "source_prompt": "a red ball",
        "target_prompt": "a blue ball",
        "backbone": "shapeworld-wan",
    }
    return EditTask(str(tmp_path / "clip.mkv"), str(tmp_path / "out.mp4"), **told)


def test_time_is_that_of_one_evaluation_at_the_real_size_times_their_number(task, monkeypatch):
    model, asked = tiny.wan(), []

    class Timed(BackboneWrapper):
        def velocity(self, z, *rest, **named):
            asked.append(tuple(z.shape[2:]))
            return super().velocity(z, *rest, **named)

    seconds = iter([0.5, 0.25, 3.0, 2.0])  # encode, decode, and two evaluations: the better counts
    monkeypatch.setattr(estimate, "_time_call", lambda work: (work(), next(seconds)))
    said = estimate.estimate_edit(task, validation.validate(task, model), Timed(model))
    latent = run.open_session(task, model).plan.fit
    assert said.judge_evaluations == agreement.EVALUATIONS
    assert (
        said.seconds
        == (said.evaluations + said.judge_evaluations) * 2.0 + 0.75 * latent.model_frames
    )
    seconds = iter([0.5, 0.25, 3.0, 2.0])
    both = dataclasses.replace(task, raw=f"{task.input}.raw.mkv")
    with pytest.warns(Notice, match="equals the result"):
        twice = estimate.estimate_edit(both, validation.validate(both, model), Timed(model))
    assert twice.seconds == said.seconds + 0.25 * latent.model_frames  # decoded once more
    assert len(set(asked)) == 1
    assert asked[0][0] == model.clip_format.count_latent_frames(latent.model_frames)
    assert said.memory_mb > 0
    lines = estimate.estimate_lines(said)
    assert "with the model already loaded" in lines[-2]
    assert (
        f"with {said.memory_mb:.0f} MB in use" in lines[-2].partition("(")[2]
    )  # not the plan's peak
    steps = said.details["settings"]["steps"]
    assert f"{steps['value']} steps of the noise schedule ({steps['from']})" in lines
    loading = dataclasses.replace(said, seconds=30.0, load_seconds=12.0)
    assert "about 42 s, 12 s of it to load the model" in estimate.estimate_lines(loading)[-2]


def test_learning_is_counted_with_its_gradient(task, tmp_path, monkeypatch, load):
    model = load("shapeworld-svd")
    shown = tmp_path / "shown.png"
    images.write(shown, torch.zeros(3, 16, 24))
    told = {
        "source_prompt": "",
        "target_prompt": "",
        "backbone": "shapeworld-svd",
        "first_frame": str(shown),
    }
    task = dataclasses.replace(
        task, method="i2vedit", settings={"steps": 4, "tuning_steps": 3}, **told
    )
    gradients = []

    def timed(work):
        result = work()
        gradients.append(result)
        return result, {2: 4.0, 3: 2.0, 4: 16.0, 5: 8.0}.get(len(gradients) - 1, 0.0)

    monkeypatch.setattr(estimate, "_time_call", timed)
    said = estimate.estimate_edit(task, None, model)
    assert said.gradient_evaluations == 3
    assert said.seconds == (said.evaluations - 3) * 2.0 + 3 * 8.0
    assert gradients[5].abs().sum() > 0
    assert "3 of them with a gradient" in estimate.estimate_lines(said)[-2]


@pytest.mark.filterwarnings("ignore:this clip is unlike", "ignore:.*reads both prompts")
def test_the_cost_of_a_mask_is_counted_in_each_window(task, tmp_path, load):
    """Windows overlap, so that a frame counts as often as it is evaluated; no target runs where no mask is."""
    mask = np.zeros((13, 16, 24), bool)
    mask[8:, :9, :10] = True
    path = write_mask(tmp_path, "mask", mask)
    still = [np.full((16, 24, 3), 20 * i, np.uint8) for i in range(13)]
    video.write_frames(tmp_path / "long.mkv", still, 8, "ffv1")
    task = dataclasses.replace(
        task,
        input=str(tmp_path / "long.mkv"),
        mask=str(path),
        method="flowedit",
        settings={"steps": 2, "strength": 1.0},
        window=5,
    )
    model = load("shapeworld-wan")
    said = estimate.estimate_edit(task)
    found = run.edit(task, DryRunBackbone(model)).manifest
    assert len(run.open_session(task, model).plan.windows.ranges) == 3
    assert said.evaluations == found["evaluations"] < 2 * 3 * 4
    assert said.dense_equivalents == pytest.approx(found["dense_equivalents"], abs=0.06)


def test_equal_prompts_cost_nothing(task):
    said = estimate.estimate_edit(
        dataclasses.replace(task, target_prompt=task.source_prompt), None, tiny.wan()
    )
    assert (said.evaluations, said.seconds) == (0, None)
    assert said.preserved == "everything: the edit changes nothing"


def test_the_command_says_what_an_edit_would_do_and_does_nothing(task, tmp_path):
    words = [
        "--source-prompt",
        task.source_prompt,
        "--target-prompt",
        task.target_prompt,
        "--backbone",
        task.backbone,
    ]
    arguments = ["edit", task.input, "-o", task.output, *words, "--mask", "0,0,8,8", "--check"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert "5 of 5 frames, 24x16" in said.output
    assert "every pixel outside the mask" in said.output
    # 16 steps of three evaluations, of which the target's two run at the tokens that the box touches
    assert "about 48 evaluations of the network (the cost of" in said.output
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert found["evaluations"] > 0
    assert [f.name for f in tmp_path.iterdir()] == ["clip.mkv"]


def test_only_what_the_file_keeps_is_promised(task, tmp_path):
    clip = video.probe(task.input)
    masked = dataclasses.replace(task, mask="0,0,8,8")
    ways = (("o.mkv", "ffv1", "outside the mask"), ("o.mp4", "auto", " until it is encoded"))
    for name, codec, said in ways:
        to = dataclasses.replace(masked, output=str(tmp_path / name), codec=codec)
        assert estimate.describe_preserved(to, clip).endswith(said)
    looked_for = estimate.describe_preserved(dataclasses.replace(task, mask="auto"), clip)
    assert "no pixel is promised" in looked_for
    assert "sound" not in looked_for


@pytest.mark.parametrize(("inside", "words"), [(False, "is empty"), (True, "is full")])
def test_a_found_mask_that_is_empty_or_full_stops_before_the_walk(inside, words, monkeypatch):
    model = tiny.wan()
    clip = torch.rand(5, 3, 16, 16)
    task = EditTask("", "", "a red ball", "a blue ball", mask="auto", backbone="shapeworld-wan")
    monkeypatch.setattr(
        loop.maps, "find_auto_mask", lambda field, latent, *_: torch.full(latent.shape[2:], inside)
    )
    with pytest.raises(UserError, match=f"the mask auto {words}"):
        in_memory.edit_latent(in_memory.plan_job(task, model, clip), model)
    allowed = dataclasses.replace(task, allow_any_mask=True, settings={"steps": 1})
    with pytest.warns(UserWarning, match=words):
        assert in_memory.edit_latent(in_memory.plan_job(allowed, model, clip), model) is not None
