"""Several masks, each with its own words: what is read, what is refused, and what reaches the method."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import holdfast
from holdfast import methods
from holdfast.base.errors import UserError
from holdfast.batch.rows import read_jobs
from holdfast.media import masks
from holdfast.pipeline import estimate, run
from holdfast.pipeline.mask_areas import MaskArea, parse_flags
from holdfast.pipeline.task import EditTask
from holdfast.ui.queue import files_of

LEFT, RIGHT = {"mask": "0,0,16,32", "words": "blue ball"}, {"mask": "32,0,16,32", "words": "green"}
PROMPTS = {
    "source_prompt": "a plain red ball and a plain red star",
    "target_prompt": "a plain blue ball and a plain green star",
}


@pytest.fixture
def task(make_clip, tmp_path):
    def make(**fields):
        common = {"method": "flowanchor", "settings": {"steps": "2", "strength": "1"}} | PROMPTS
        return EditTask(
            **common | {"input": str(make_clip()), "output": str(tmp_path / "out.mp4")} | fields
        )

    return make


def test_flags_split_at_the_last_equals_sign_outside_a_path_that_exists(tmp_path):
    odd = tmp_path / "a=b.png"
    odd.touch()
    assert parse_flags([]) is None
    assert parse_flags(["auto"]) == "auto"
    assert parse_flags([str(odd)]) == str(odd)
    assert parse_flags([f"{odd}=E=mc2"]) == (MaskArea(str(odd), ("E=mc2",)),)
    assert parse_flags(["x=y.png=red ball", "1,2,3,4"]) == (
        MaskArea("x=y.png", ("red ball",)),
        MaskArea("1,2,3,4"),
    )


WRONG = [
    ({"mask": []}, "mask is an empty list: leave it out"),
    ({"mask": ["a.png"]}, "'a.png' is not a mask with its words: write each as"),
    ({"mask": [LEFT | {"word": "x"}]}, "is not a mask with its words"),
    ({"mask": [LEFT | {"words": 3}]}, "is not a mask with its words"),
    ({"mask": [LEFT | {"mask": " "}]}, "a mask of the list is empty"),
    ({"mask": [LEFT | {"mask": "a\0.png"}]}, "use a path that a file can have"),
    ({"mask": [LEFT | {"words": "\udcff"}]}, "write prompts and words as UTF-8"),
    ({"mask": [LEFT, {"mask": "auto", "words": "green"}]}, "give --mask auto alone, and its words"),
    ({"mask": [LEFT, {"mask": "b.png"}]}, "the mask b.png has no words, but 0,0,16,32 has: add"),
    ({"mask": [LEFT], "words": "green"}, "has words, and so has the whole edit: remove --words"),
    ({"mask": 3}, "mask is 3: use"),
]


@pytest.mark.parametrize(("values", "words"), WRONG)
def test_a_list_of_masks_that_does_not_fit_is_refused_in_one_sentence(values, words):
    with pytest.raises(UserError, match=words):
        EditTask(input="a.mp4", output="b.mp4", **PROMPTS, **values)


def test_a_list_of_masks_survives_json_and_its_words_are_part_of_the_key(task):
    made = task(mask=[LEFT, RIGHT | {"words": ["green", "star"]}])
    assert EditTask.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    swapped = task(mask=[LEFT | {"words": "green"}, RIGHT | {"words": "blue ball"}])
    keys = {t.latent_key() for t in (made, swapped, task(mask=[LEFT, RIGHT]), task(mask=[LEFT]))}
    assert len(keys) == 4
    assert files_of(made) == {"input": made.input}  # as the page asks of any run


def test_the_union_holds_the_rest_and_each_mask_brings_its_words(task, tiny_wan, monkeypatch):
    seen = []
    flowanchor = methods.load("flowanchor")
    prepare = flowanchor.prepare_refinement

    def look(field, inputs, config):
        seen.append(inputs)
        return prepare(field, inputs, config)

    monkeypatch.setattr(flowanchor, "prepare_refinement", look)
    result = run.edit(task(mask=[LEFT, RIGHT]), tiny_wan)
    (inputs,) = seen
    left, right = inputs.areas
    assert [area.edit_tokens for area in inputs.areas] == [(2, 3), (7,)]  # of the target prompt
    assert inputs.target.edit_tokens == (2, 3, 7)
    assert torch.equal(torch.maximum(left.mask, right.mask), inputs.mask)
    assert left.mask[..., :2].all()
    assert right.mask[..., 4:].all()
    assert not left.mask[..., 2:].any()
    assert result.manifest["plan"]["words"]["areas"] == [
        {"mask": "0,0,16,32", "words": "blue ball"},
        {"mask": "32,0,16,32", "words": "green"},
    ]
    source = np.stack(list(masks.video.read(result.clip)))
    changed = (result.array() != source).any((0, 1, 3))
    assert not changed[16:32].any()
    assert changed[:16].any()
    assert changed[32:].any()


def test_one_mask_in_a_list_is_that_mask_and_words_stay_in_their_mask(task, tiny_wan):
    # test_flowanchor compares bits: a whole edit's last bits may depend on where its memory lies
    listed = run.edit(task(mask=[LEFT], output=""), tiny_wan)
    plain = run.edit(task(mask=LEFT["mask"], words=LEFT["words"], output=""), tiny_wan)
    assert torch.allclose(listed.z, plain.z, atol=0.01)
    both = run.edit(task(mask=[LEFT, RIGHT], output=""), tiny_wan)
    words = ("blue ball", "green")
    merged = [{"mask": area["mask"]} for area in (LEFT, RIGHT)]
    shared = run.edit(task(mask=merged, words=words, output=""), tiny_wan)
    assert not torch.allclose(both.z, shared.z, atol=0.01)


def test_overlap_empty_masks_and_absent_words_are_reported_before_the_edit(task, tiny_wan):
    overlapping = task(mask=[LEFT, RIGHT | {"mask": "8,0,16,32"}])
    with pytest.warns(match="overlap in 33.3% of their pixels: there, the words of the later one"):
        session = run.open_session(overlapping, tiny_wan)
    assert np.mean(next(iter(session.mask.frames()))) == 0.5
    with pytest.raises(UserError, match="'yellow' is not in the target prompt: choose from"):
        run.open_session(task(mask=[LEFT, RIGHT | {"words": "yellow"}]), tiny_wan)
    with pytest.raises(UserError, match="the box 40,0,16,32 is not inside"):
        run.open_session(task(mask=[LEFT, RIGHT | {"mask": "40,0,16,32"}]), tiny_wan)
    both = task(mask=[LEFT | {"mask": "0,0,24,32"}, RIGHT | {"mask": "24,0,24,32"}])
    with pytest.raises(UserError, match="the mask 0,0,24,32 and 24,0,24,32 is full"):
        run.open_session(both, tiny_wan)


def test_masks_without_words_are_one_and_other_methods_say_what_they_ignore(task, tiny_wan):
    bare = task(mask=[{"mask": LEFT["mask"]}, {"mask": RIGHT["mask"]}])
    assert run.open_session(bare, tiny_wan).areas == ()
    with pytest.warns(match="words have no effect on flowedit"):
        session = run.open_session(task(mask=[LEFT, RIGHT], method="flowedit"), tiny_wan)
    assert session.areas == ()
    assert np.mean(next(iter(session.mask.frames()))) == pytest.approx(2 / 3)
    with pytest.warns(match="flowdirector uses the words of all masks in each of them"):
        run.open_session(task(mask=[LEFT, RIGHT], method="flowdirector", settings={}), tiny_wan)


def test_progress_of_other_words_is_not_resumed(task, tiny_wan):
    made = task(mask=[LEFT, RIGHT])
    result = run.edit(made, tiny_wan)
    assert torch.equal(run.edit(made, tiny_wan, resume=True).z, result.z)  # no step is left
    swapped = dataclasses.replace(made, mask=(MaskArea(LEFT["mask"], ("green",)), made.areas[1]))
    with pytest.raises(UserError, match="saved by another task, or with other settings"):
        run.edit(swapped, tiny_wan, resume=True)


def test_the_estimate_lists_the_words_of_each_mask(task, tiny_wan):
    session = run.open_session(task(mask=[LEFT, RIGHT]), tiny_wan)
    lines = estimate.estimate_lines(estimate.Estimate(estimate._describe_session(session), "", 1))
    assert "inside 0,0,16,32: blue ball" in lines


def test_masks_may_be_in_memory_and_rows_resolve_their_paths(task, tiny_wan, tmp_path):
    left = np.zeros((32, 48), bool)
    left[:, :16] = True
    clip = np.stack(list(masks.video.read(masks.video.probe(task().input))))
    areas = [{"mask": left, "words": "blue ball"}, RIGHT]
    result = holdfast.edit(
        clip, *PROMPTS.values(), mask=areas, backbone=tiny_wan, method="flowanchor", rate=8,
        settings={"steps": 2},
    )  # fmt: skip
    assert [area.words for area in result.task.areas] == [("blue ball",), ("green",)]
    assert np.array_equal(next(iter(result.mask.frames()))[:, :16], left[:, :16])
    row = {"input": "clip.mp4", "mask": [LEFT | {"mask": "left.png"}, RIGHT], **PROMPTS}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (job,) = read_jobs(tmp_path / "rows.jsonl", tmp_path / "out")
    assert job.valid_task.masks == (str(tmp_path / "left.png"), "32,0,16,32")
