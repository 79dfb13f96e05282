"""`holdfast keep` and `holdfast compare` as a user meets them: files, one JSON object, sentences and exit codes."""

import json

import numpy as np
import pytest

from holdfast.media import video

from ..conform import scenes
from ..media.test_samples import planes
from .test_app import call

COUNT = 8


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A source, its edit, a copy of the source, and a clip of something else."""
    folder = tmp_path_factory.mktemp("keep")
    clips = {
        "source": scenes.clip(range(COUNT)),
        "edited": scenes.clip(range(COUNT), scenes.BLUE),
        "other": scenes.clip(np.arange(30, 30 + COUNT), scenes.GOLD, scenes.ground(seed=5)),
        "smaller": scenes.resize(scenes.clip(range(COUNT), scenes.BLUE), (112, 67)),
    }
    return {name: scenes.encode(folder / f"{name}.mkv", clip) for name, clip in clips.items()}


def test_keep_prints_one_json_object_and_writes_the_same_manifest(files, tmp_path):
    out, preview = tmp_path / "out.mkv", tmp_path / "look.mp4"
    result = call(
        "keep", files["source"], files["edited"], "-o", out, "--preview", preview, "--json"
    )
    assert result.exit_code == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert manifest == json.loads((tmp_path / "out.mkv.json").read_text())
    stable = {"output", "task", "frames", "rate", "size", "audio_tracks", "seconds", "delivered"}
    assert stable <= set(manifest)
    assert (manifest["frames"], manifest["rate"], manifest["size"]) == (COUNT, "10/1", [160, 96])
    assert manifest["delivered"]["samples_equal_outside"] is True
    assert manifest["notes"] == []
    assert manifest["report"]["mask"]["frames"] == [0, COUNT]
    assert (tmp_path / "out.mkv.mask.png").exists()
    shown = video.probe(preview)
    assert (shown.frames, shown.size) == (COUNT, (160, 96))
    marked = np.abs(scenes.read(preview).astype(int) - scenes.read(files["source"])).max(3)
    exact = scenes.changes(range(COUNT))
    assert marked[exact].mean() > 30
    assert marked[:, :, 120:].mean() < 8


def test_keep_says_what_changed_and_what_was_verified(files, tmp_path):
    result = call("keep", files["source"], files["smaller"], "-o", tmp_path / "out.mkv")
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stderr.split())
    assert "out.mkv.json" in said
    assert "The edit changes" in said
    assert "112x67 instead of 160x96" in said
    assert "every sample of the file is the source's (verified)" in said


def test_a_lossy_codec_is_said(files, tmp_path):
    arguments = ["-o", tmp_path / "out.mp4", "--codec", "h264", "--crf", "30"]
    result = call("keep", files["source"], files["edited"], *arguments)
    assert result.exit_code == 0, result.stderr
    assert "--codec lossless keeps every sample" in " ".join(result.stderr.split())


def test_nothing_changed_is_a_notice_and_an_equal_file(files, tmp_path):
    result = call("keep", files["source"], files["source"], "-o", tmp_path / "out.mkv")
    assert result.exit_code == 0, result.stderr
    assert "nothing changed" in " ".join(result.stderr.split())
    (_, before), (_, after) = planes(files["source"]), planes(tmp_path / "out.mkv")
    for frames in zip(before, after, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(*frames, strict=True))


def test_webm_is_written_with_a_notice(files, tmp_path):
    result = call("keep", files["source"], files["edited"], "-o", tmp_path / "out.webm")
    assert result.exit_code == 0, result.stderr
    assert "cannot hold a lossless codec" in " ".join(result.stderr.split())
    assert video.probe(tmp_path / "out.webm").frames == COUNT


@pytest.mark.parametrize(
    ("clips", "options", "words"),
    [
        (("source", "other"), [], "correlate by"),
        (("source", "none.mkv"), [], "no file none.mkv"),
        (("source", "edited"), ["-o", "out.xyz"], "out.xyz"),
        (("source", "edited"), ["-o", "edited"], "would overwrite"),
        (("source", "edited"), ["--preview", "out.mkv"], "out.mkv"),
        (("source", "edited"), ["--blend", "glue"], "glue"),
        (("source", "edited"), ["--mask", "none.png"], "no file none.png"),
        (("source", "edited"), ["--mask", "0,0,9,9", "--words", "ball"], "mask and"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_code_2(
    clips, options, words, files, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    options = [files.get(option, option) for option in options]
    before = {name: path.read_bytes() for name, path in files.items()}
    result = call("keep", *(files.get(c, c) for c in clips), "-o", "out.mkv", *options)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []
    assert {name: path.read_bytes() for name, path in files.items()} == before


def test_compare_prints_its_report(files):
    result = call("compare", files["source"], files["smaller"], "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert {"source", "edited", "time", "space", "colour", "outside", "mask", "sentence"} <= set(
        report
    )
    assert report["space"]["scale"] == pytest.approx([0.7, 67 / 96], rel=2e-3)
    said = call("compare", files["source"], files["smaller"])
    assert said.exit_code == 0
    lines = [line.split(":")[0].strip() for line in said.stderr.splitlines()]
    assert {"time", "space", "colour", "outside the change"} <= set(lines)
    assert " ".join(report["sentence"].split()) in " ".join(said.stderr.split())


def test_compare_refuses_clips_that_do_not_belong_together(files):
    result = call("compare", files["source"], files["other"])
    assert result.exit_code == 2
    assert "does not look like an edit" in " ".join(result.stderr.split())
