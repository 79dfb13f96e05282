"""`holdfast mask` as a user meets it: marks become a mask that `edit` takes, and a clip to look at; notes and codes."""

import json

import numpy as np
import pytest
from PIL import Image

from holdfast.media import masks, video
from holdfast.pipeline import track_mask

from ..media.test_propagation import SIDE, overlap, passing, written
from .test_app import call

BOX = f"3,15,{SIDE + 2},{SIDE + 2}"


@pytest.fixture
def clip(tmp_path):
    return written(passing(6)[0], tmp_path).path


def test_a_box_becomes_a_mask_that_edit_reads_and_a_clip_to_look_at(clip, tmp_path):
    result = call("mask", clip, "-o", tmp_path / "mask.mkv", "--box", BOX, "--json")
    assert result.exit_code == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert manifest == json.loads((tmp_path / "mask.mkv.json").read_text())
    assert (manifest["frames"], manifest["marked"], manifest["notes"]) == (6, [0], [])
    source = video.probe(clip)
    found = list(masks.open_mask(tmp_path / "mask.mkv", source, range(6)).frames())
    exact = passing(6)[1]
    assert min(overlap(a, b) for a, b in zip(found, exact, strict=True)) > 0.85
    values = {
        int(v) for frame in video.read(video.probe(tmp_path / "mask.mkv")) for v in set(frame.flat)
    }
    assert values == {0, 255}  # without loss
    shown = video.probe(tmp_path / "mask.preview.mp4")
    assert (shown.frames, shown.size, shown.rate) == (6, source.size, source.rate)
    frame, before = (next(video.read(c)).astype(int) for c in (shown, source))
    changed = np.abs(frame - before).max(2)
    assert changed[exact[0]].mean() > 30
    assert changed[:, 40:].mean() < 6


def test_marks_of_all_kinds_on_several_frames_and_only_a_part(clip, tmp_path):
    paint = np.zeros((48, 72), np.uint8)
    paint[16 : 16 + SIDE, 16 : 16 + SIDE] = 255
    Image.fromarray(paint).save(tmp_path / "paint.png")
    marks = ["--points", "1=14,22 !40,40", "--brush", f"4={tmp_path / 'paint.png'}", "--no-refine"]
    result = call("mask", clip, "-o", tmp_path / "m.mkv", *marks, "--frames", "1:5", "--json")
    assert result.exit_code == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert (manifest["marked"], manifest["part"]) == ([1, 4], [1, 5])
    found = [f.max(2) > 127 for f in video.read(video.probe(tmp_path / "m.mkv"))]
    assert len(found) == 6
    assert not found[0].any()
    assert not found[5].any()
    assert np.array_equal(found[4], paint > 0)


def test_the_mask_that_auto_finds_is_the_one_an_edit_would_use(clip, tmp_path):
    prompts = [
        "--source-prompt",
        "a red box over a meadow",
        "--target-prompt",
        "a blue box over a meadow",
    ]
    model = ["--backbone", "shapeworld-wan", "--seed", 3]
    result = call("mask", clip, "-o", tmp_path / "m.mkv", "--auto", *prompts, *model, "--json")
    assert result.exit_code == 0, result.stderr
    found = [f.max(2) > 127 for f in video.read(video.probe(tmp_path / "m.mkv"))]
    edit = ["--mask", "auto", "--feather", 0, "--set", "steps=1", "--codec", "lossless"]
    done = call("edit", clip, "-o", tmp_path / "e.mkv", *prompts, *model, *edit, "--json")
    assert done.exit_code == 0, done.stderr
    pairs = zip(
        video.read(video.probe(tmp_path / "e.mkv")), video.read(video.probe(clip)), strict=True
    )
    changed = [(a != b).any(2) for a, b in pairs]
    assert any(c.any() for c in changed)
    assert not any((c & ~f).any() for c, f in zip(changed, found, strict=True))
    assert 0 < np.mean(found) < 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "nothing is marked: use --box"),
        (["--box", "60,40,30,30"], 2, "not inside the 72x48 frame"),
        (["--box", "9=1,1,5,5"], 2, "frame 9, and the clip has frames 0 to 5"),
        (["--points", "!3,3"], 2, "frame 0 has only negative points"),
        (["--brush", "none.png"], 2, "no file none.png"),
        (["--box", BOX, "--frames", "9:12"], 2, "outside the clip (6 frames, 0 to 5)"),
        (["--box", BOX, "-o", "m.jpg"], 2, "cannot write m.jpg without loss"),
        (["--box", BOX, "-o", "m.mp4", "--preview", "m.mp4"], 2, "both m.mp4"),
        (["--box", BOX, "--tracker", "sam2"], 3, "hf download facebook/sam2.1-hiera-tiny"),
        (["--words", "a ball"], 3, "hf download IDEA-Research/grounding-dino-tiny"),
        (["--auto", "--backbone", "wan2.1-1.3b"], 3, "hf download Wan-AI"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_a_code(
    arguments, code, words, clip, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    result = call("mask", clip, *arguments)
    assert result.exit_code == code
    assert words in " ".join(result.stderr.split())
    assert sorted(tmp_path.iterdir()) == before


def test_the_source_is_never_replaced(clip):
    before = clip.read_bytes()
    for arguments in (["-o", clip], ["-o", clip.with_name("m.mkv"), "--preview", clip]):
        result = call("mask", clip, "--box", BOX, *arguments)
        assert result.exit_code == 2
        assert "would overwrite" in result.stderr
    assert clip.read_bytes() == before


def test_options_without_effect_are_said(clip, tmp_path):
    options = ["--no-refine", "--source-prompt", "a ball", "--weights", "somewhere"]
    result = call("mask", clip, "-o", tmp_path / "m.mkv", "--box", BOX, *options)
    assert result.exit_code == 0
    assert "--source-prompt and --target-prompt have no effect without --auto" in result.stderr
    assert "--weights has no effect with --tracker grabcut" in result.stderr


def test_sam2_from_a_folder(clip, tmp_path):
    from ..models.vision.test_sam2 import tiny

    tiny().save_pretrained(tmp_path / "sam2")
    model = ["--tracker", "sam2", "--weights", tmp_path / "sam2", "--device", "cpu"]
    result = call("mask", clip, "-o", tmp_path / "m.mkv", "--box", BOX, *model, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["by"] == "sam2"
    assert video.probe(tmp_path / "m.mkv").frames == 6


@pytest.mark.parametrize(
    ("shares", "marks", "words"),
    [
        ([0.0] * 4, {0: 0.0}, "the mask is empty, so nothing would change"),
        ([1.0] * 4, {0: 1.0}, "the mask is full"),
        ([0.2, 0.2, 0.01, 0.0], {10: 0.2}, "is empty on 1 of 4 frames, first on 13"),
        ([0.2, 0.2, 0.01, 0.01], {10: 0.2}, "lost from frame 12 on.* --box 12=x,y,w,h"),
        ([0.0, 0.2, 0.2, 0.2], {10: 0.0, 12: 0.2}, "no object was found in the mark on frame 10"),
        ([0.1, 0.2, 0.35, 0.1], {10: 0.1}, "from frame 12 on the mask is 3 times.* --box 12="),
    ],
)
def test_a_mask_that_cannot_be_meant_is_said_with_the_frame_and_the_cure(shares, marks, words):
    import re

    assert any(
        re.search(words, text) for text in track_mask.mask_warnings(shares, range(10, 14), marks)
    )


def test_what_is_hidden_for_a_while_or_marked_again_is_not_lost():
    assert track_mask.mask_warnings([0.2, 0.01, 0.2, 0.2], range(4), {0: 0.2}) == []
    assert track_mask.mask_warnings([0.2, 0.01, 0.2, 0.2], range(4), {0: 0.2, 2: 0.2}) != []
    assert track_mask.mask_warnings([0.2, 0.2, 0.02, 0.02], range(4), {0: 0.2, 2: 0.02}) == []
    assert (
        track_mask.mask_warnings([0.2, 0.01, 0.01, 0.01], range(4), {0: 0.2, 1: 0.01, 3: 0.01})
        == []
    )
