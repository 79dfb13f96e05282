"""A contact sheet: each clip is what a single edit makes, the clip is encoded once, the preference can be traced."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from holdfast.bench import contact_sheet
from holdfast.cli.app import app
from holdfast.media import video
from holdfast.models import registry
from holdfast.models.base import Prompt
from holdfast.pipeline import agreement, run
from holdfast.pipeline.task import EditTask

from .. import tiny


@pytest.fixture
def clip(tmp_path):
    moving = [np.full((16, 24, 3), 20 * i, np.uint8) for i in range(5)]
    video.write_frames(tmp_path / "clip.mkv", moving, 8, "ffv1")
    return str(tmp_path / "clip.mkv")


def task(clip, folder):
    told = {
        "source_prompt": "a red ball",
        "target_prompt": "a blue ball",
        "backbone": "shapeworld-wan",
    }
    return EditTask(clip, str(folder / "x.mkv"), **told, settings={"steps": 3}, codec="ffv1")


def test_each_clip_is_a_single_edit_and_what_they_share_is_encoded_once(clip, tmp_path):
    model, calls = tiny.wan(), Counter()

    class Counted(contact_sheet.BackboneWrapper):
        def encode(self, frames, *eps):
            calls["clip"] += 1
            return super().encode(frames, *eps)

        def condition(self, prompt):
            calls[prompt.text] += 1
            return super().condition(prompt)

    ways = contact_sheet.parse_sweep("flowedit,sdedit", "0.5,1", "0:2")
    record = contact_sheet.make_sheet(task(clip, tmp_path), ways, tmp_path / "out", Counted(model))
    assert len(record["clips"]) == 8
    assert calls["clip"] == 1
    # with the words that drive the edit, and without: for the judgement
    assert max(calls["a red ball"], calls["a blue ball"]) <= 2
    name = "sdedit strength 0.5 seed 1"
    alone = contact_sheet.make_task(
        task(clip, tmp_path), contact_sheet.SheetEntry("sdedit", 0.5, 1), tmp_path / "alone"
    )
    run.edit(alone, model).save()
    paths = (record["clips"][name]["output"], alone.output)
    pairs = zip(*(video.read(video.probe(path)) for path in paths), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert list(record["clips"])[:2] == [
        "flowedit strength 0.5 seed 0",
        "flowedit strength 0.5 seed 1",
    ]
    # of 3 steps, strength 0.5 runs 2, whose source the edit with strength 1 finds
    reused = {name: clip["reused_evaluations"] for name, clip in record["clips"].items()}
    assert reused["flowedit strength 1 seed 1"] == reused["flowedit strength 1 seed 0"] > 0
    assert json.loads((tmp_path / "out" / "sheet.json").read_text())["preferred"]
    with Image.open(tmp_path / "out" / "sheet.png") as picture:
        width, height = picture.size
    assert width == 2 * (contact_sheet.CELL_WIDTH + 2 * contact_sheet.BORDER)
    assert height == 5 * (
        160 + contact_sheet.TEXT_HEIGHT + 2 * contact_sheet.BORDER
    )  # the source, and four rows


def figures(**rows):
    return {
        n: dict(zip(contact_sheet.DIRECTIONS, values, strict=True)) for n, values in rows.items()
    }


def test_the_least_mean_rank_wins_and_a_clip_that_goes_half_of_the_way_does_not():
    found = contact_sheet.choose_preferred(
        figures(half=(0.2, 99.0, 0.0), good=(0.3, 30.0, 1.0), wild=(0.4, 10.0, 9.0))
    )
    assert found["preferred"] == "good"  # ranks 1 0 0 of the two that agree well
    assert found["ranks"] == {"good": pytest.approx(1 / 3), "wild": pytest.approx(2 / 3)}
    assert "2 of 3" in found["why"]


def test_where_none_comes_nearer_to_the_target_that_is_said():
    found = contact_sheet.choose_preferred(figures(a=(-0.1, 20.0, 1.0), b=(-0.2, 10.0, 2.0)))
    assert found["preferred"] == "a"
    assert "more strength may help" in found["why"]
    unsteered = contact_sheet.choose_preferred(figures(a=(None, 20.0, 1.0), b=(None, 10.0, 2.0)))
    assert "no measure shows" in unsteered["why"]
    assert contact_sheet.choose_preferred(figures(a=(0.1, 1.0, 1.0)))["preferred"] is None


def test_a_measure_of_one_frame_alone_is_left_out():
    found = contact_sheet.choose_preferred(figures(a=(0.2, 20.0, None), b=(0.1, 30.0, None)))
    assert found["why"].startswith("best overall by agreement, kept (")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("flowedt", "", "0"), "did you mean flowedit"),
        (("flowedit,flowedit", "", "0"), "use different values, separated by commas"),
        (("flowedit", "2", "0"), "strength"),
        (("flowedit", "", "4:4"), "--seed 4:4 contains no seed"),
        (("flowedit", "", "a:b"), "use a whole number"),
        (("flowedit", "", "0:999"), "at most 100 clips"),
    ],
)
def test_what_a_sheet_does_not_take(asked, said):
    with pytest.raises(ValueError, match=said):
        contact_sheet.parse_sweep(*asked)


def test_seeds_and_strengths_as_one_types_them():
    found = contact_sheet.parse_sweep("FlowEdit", "", "2,0")
    assert found == contact_sheet.Sweep(("flowedit",), (None,), (2, 0))
    assert contact_sheet.parse_sweep("sdedit", "0.5, 0.7", ":3").seeds == (0, 1, 2)


def test_the_model_takes_its_own_target_for_the_target():
    """On the embedded model: a red scene agrees with its caption, and not with that of a blue one."""
    from holdfast.shapeworld.rendering import render
    from holdfast.shapeworld.scenes import sample_edit

    edit = sample_edit(5, "colour", "single")
    model = registry.load_backbone("shapeworld-wan")
    prompts = [model.condition(Prompt(s.caption())) for s in (edit.source, edit.target)]
    source, target = (model.encode(clip) for clip in render([edit.source, edit.target]))
    values = [agreement.score(model, z, *prompts, z.shape[2], 0) for z in (source, target)]
    assert values[0] < -0.5 < 0.5 < values[1]
    assert agreement.score(model, target, prompts[0], prompts[0], 4, 0) is None


def test_the_command_makes_a_sheet(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "load_backbone", lambda *_: tiny.wan())
    words = [
        "--source-prompt",
        "a red ball",
        "--target-prompt",
        "a blue ball",
        "--backbone",
        "shapeworld-wan",
    ]
    arguments = ["sheet", clip, "-o", str(tmp_path / "out"), *words, "--seed", "0:2"]
    done = CliRunner().invoke(app, [*arguments, "--set", "steps=2", "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert set(record["clips"]) == {"flowedit seed 0", "flowedit seed 1"}
    assert (tmp_path / "out" / "flowedit seed 0.mp4.json").exists()
    refused = CliRunner().invoke(app, [*arguments, "--strength", "7"])
    assert refused.exit_code == 2
    assert "use a number between 0 and 1" in refused.output
