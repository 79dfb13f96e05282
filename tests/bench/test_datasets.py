"""Datasets give cases whose files are there, and refuse what is not theirs in one sentence."""

import json

import numpy as np
import pytest
from PIL import Image

from holdfast.base.notices import Notice
from holdfast.bench import datasets
from holdfast.media import video


def test_shapeworld_makes_clips_masks_and_truth_and_makes_them_once(tmp_path):
    cases = datasets.load("shapeworld:single,several/colour,remove,add", tmp_path, 6)
    assert [c.group for c in cases] == [
        "single",
        "several",
        "several",
        "several",
        "single",
        "several",
    ]  # one actor is not removed
    assert [c.kind for c in cases] == ["colour", "colour", "remove", "remove", "add", "add"]
    assert len({c.name for c in cases}) == 6
    for case in cases:
        clip, truth, mask = (video.probe(p) for p in (case.clip, case.truth, case.mask))
        assert clip.frames == truth.frames == mask.frames
        assert case.source_prompt != case.target_prompt
        source, target = (np.stack(list(video.read(c))).astype(int) for c in (clip, truth))
        inside = np.stack(list(video.read(mask))).max(-1) > 127
        changed = np.abs(source - target).max(-1) > 1
        assert changed.any()
        assert not (changed & ~inside).any()
        first = np.asarray(Image.open(case.first_frame))
        assert np.array_equal(first, target[0])  # the true one
    before = [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*.mkv"))]
    assert datasets.load("shapeworld:single,several/colour,remove,add", tmp_path, 6) == cases
    assert [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*.mkv"))] == before


def test_shapeworld_says_the_words_of_the_edited_thing_alone(tmp_path):
    colour, backdrop, remove = (
        datasets.load(f"shapeworld:several/{k}", tmp_path, 1)[0]
        for k in ("colour", "backdrop", "remove")
    )
    assert colour.object_prompt in colour.target_prompt
    assert colour.object_prompt not in colour.source_prompt
    assert backdrop.object_prompt in backdrop.target_prompt
    assert remove.object_prompt == ""
    assert backdrop.mask is None


@pytest.fixture
def five(tmp_path, make_clip):
    root = tmp_path / "five"
    (root / "edit_prompt").mkdir(parents=True)
    (root / "videos").mkdir()
    make_clip("jeep.mp4", frames=3).rename(root / "videos" / "jeep.mp4")
    for name in ("images/bear", "bmasks/bear"):
        (root / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((32, 48, 3), 200, np.uint8)).save(
                root / name / f"{i + 1:05d}.jpg"
            )
    record = {
        "video_name": "jeep",
        "save_dir": "x",
        "source_prompt": "A [silver] jeep",
        "target_prompt": "A [red] jeep",
        "editing_type_id": "3",
    }
    bear = record | {
        "video_name": "bear",
        "source_prompt": "A bear",
        "target_prompt": "A bear with [a hat]",
    }
    (root / "edit_prompt" / "edit3_FiVE.json").write_text(json.dumps([record]))
    (root / "edit_prompt" / "edit5_FiVE.json").write_text(json.dumps([bear]))
    return root


def test_five_in_its_published_layout(five, tmp_path):
    jeep, bear = datasets.load(f"five:{five}", tmp_path)
    assert (jeep.source_prompt, jeep.target_prompt, jeep.object_prompt, jeep.kind) == (
        "A silver jeep",
        "A red jeep",
        "red",
        "colour",
    )
    assert jeep.clip.endswith("jeep.mp4")
    assert jeep.mask is None
    assert (bear.kind, bear.object_prompt) == ("add", "a hat")
    assert video.probe(bear.clip).frames == video.probe(bear.mask).frames == 3
    assert [c.name for c in datasets.load(f"five:{five}/5", tmp_path)] == [bear.name]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "edit_prompt" / "edit3_FiVE.json").write_text("{"), "is not JSON"),
        (
            lambda root: (root / "edit_prompt" / "edit3_FiVE.json").write_text("[" * 100_000),
            "nested too deeply",
        ),
        (lambda root: (root / "edit_prompt" / "edit3_FiVE.json").write_text("{}"), "is not a list"),
        (lambda root: (root / "edit_prompt" / "edit3_FiVE.json").write_text("[5]"), "is missing"),
        (
            lambda root: (root / "edit_prompt" / "edit3_FiVE.json").write_text(
                '[{"video_name": "jeep"}]'
            ),
            "source_prompt",
        ),
        (lambda root: (root / "videos" / "jeep.mp4").unlink(), "jeep"),
        (lambda root: [p.unlink() for p in (root / "edit_prompt").iterdir()], "is not FiVE-Bench"),
    ],
)
def test_five_that_is_broken_is_told_in_one_sentence(five, tmp_path, break_it, message):
    break_it(five)
    with pytest.raises(ValueError, match=message):
        datasets.load(f"five:{five}", tmp_path)


def test_a_users_own_list_of_clips(make_clip, tmp_path):
    make_clip("jeep.mp4")
    lines = [
        {
            "clip": "jeep.mp4",
            "source_prompt": "a jeep",
            "target_prompt": "a red jeep",
            "object_prompt": "a red jeep",
        },
        {
            "clip": "jeep.mp4",
            "source_prompt": "a jeep",
            "target_prompt": "a cart",
            "name": "my cart!",
            "kind": "object",
        },
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    for name in (tmp_path / "jobs.jsonl", f"folder:{tmp_path / 'jobs.jsonl'}"):
        first, second = datasets.load(str(name), tmp_path)
        assert first.name == "0001-jeep"
        assert second.name == "my_cart"
        assert first.clip == str(tmp_path / "jeep.mp4")


def frames_line(**fields) -> str:
    line = {"clip": "jeep.mp4", "source_prompt": "a jeep", "target_prompt": "a red jeep"}
    return json.dumps(line | {"first_frame": "edited.png"} | fields)


def test_a_case_names_its_edited_frames(make_clip, tmp_path):
    make_clip("jeep.mp4")
    Image.new("RGB", (96, 64)).save(tmp_path / "edited.png")  # of the clip's aspect ratio
    (tmp_path / "jobs.jsonl").write_text(frames_line(keyframes=["3=edited.png"]))
    (case,) = datasets.load(str(tmp_path / "jobs.jsonl"), tmp_path)
    assert case.first_frame == str(tmp_path / "edited.png")
    assert case.keyframes == (f"3={tmp_path / 'edited.png'}",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"first_frame": "no.png"}, "no.png does not exist"),
        ({"first_frame": "jeep.mp4"}, "line 1: .*jeep.mp4"),
        ({"first_frame": "wide.png"}, "wide.png is 96x32, the clip's frames are 48x32"),
        ({"keyframes": "3=edited.png"}, "line 1: keyframes is not a list"),
        ({"keyframes": [3]}, "not a JSON object of texts"),
        ({"keyframes": ["edited.png"]}, "'edited.png' is not a keyframe"),
        ({"keyframes": ["3=no.png"]}, "there is no image .*no.png"),
        ({"keyframes": ["9=edited.png"]}, "line 1: keyframe 9 is not within frames 1 to 5"),
    ],
)
def test_edited_frames_that_do_not_fit_are_refused_at_once(make_clip, tmp_path, fields, message):
    make_clip("jeep.mp4")
    Image.new("RGB", (96, 64)).save(tmp_path / "edited.png")
    Image.new("RGB", (96, 32)).save(tmp_path / "wide.png")
    (tmp_path / "jobs.jsonl").write_text(frames_line(**fields))
    with pytest.raises(ValueError, match=message):
        datasets.load(str(tmp_path / "jobs.jsonl"), tmp_path)


def test_a_list_of_release_0_1_is_read_with_a_notice(make_clip, tmp_path):
    make_clip("jeep.mp4")
    line = {"clip": "jeep.mp4", "source": "a jeep", "target": "a red jeep", "local": "red"}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line))
    with pytest.warns(Notice) as caught:
        (case,) = datasets.load(str(tmp_path / "jobs.jsonl"), tmp_path)
    assert "local is now called object_prompt" in str(caught[-1].message)
    prompts = case.source_prompt, case.target_prompt, case.object_prompt
    assert prompts == ("a jeep", "a red jeep", "red")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"clip": "jeep.mp4"', "line 1 is not JSON"),
        ("[" * 100_000, "line 1 is not JSON: it is nested too deeply"),
        ('{"clip": "jeep.mp4", "source_prompt": "a"}', "line 1: target_prompt is missing"),
        (
            '{"clip": "jeep.mp4", "source_prompt": "a", "target_prompt": "b", "promt": "c"}',
            "no key promt: did you mean .*target_prompt",
        ),
        ('{"clip": "no.mp4", "source_prompt": "a", "target_prompt": "b"}', "no.mp4 does not exist"),
        ('["jeep.mp4"]', "not a JSON object of texts"),
        ("", "has no cases"),
    ],
)
def test_a_list_that_is_wrong_names_the_line(make_clip, tmp_path, line, message):
    make_clip("jeep.mp4")
    (tmp_path / "jobs.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        datasets.load(str(tmp_path / "jobs.jsonl"), tmp_path)


def test_a_list_that_is_not_utf_8_names_the_line(tmp_path):
    (tmp_path / "jobs.jsonl").write_bytes(b'\n{"clip": "\xff.mp4"}')
    with pytest.raises(ValueError, match="line 2 is not JSON: 'utf-8' codec"):
        datasets.load(str(tmp_path / "jobs.jsonl"), tmp_path)


def test_two_lines_of_one_name_are_refused(make_clip, tmp_path):
    make_clip("jeep.mp4")
    line = json.dumps({"clip": "jeep.mp4", "source_prompt": "a", "target_prompt": "b", "name": "x"})
    (tmp_path / "jobs.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(ValueError, match="also that of line 1"):
        datasets.load(str(tmp_path / "jobs.jsonl"), tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shapewrld", "shapeworld"),
        ("shapeworld:single/color", "colour"),
        ("shapeworld:sevral", "several"),
        ("five:/nowhere", "no folder"),
    ],
)
def test_unknown_datasets_and_parts_name_what_there_is(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        datasets.load(name, tmp_path)
    with pytest.raises(ValueError, match="--limit"):
        datasets.load("shapeworld", tmp_path, 0)
