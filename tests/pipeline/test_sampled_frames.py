"""Evenly spaced frames: which ones, at which times, with which masks; what the file, the manifest and the page say."""

import json
from fractions import Fraction

import numpy as np
import pytest
from typer.testing import CliRunner

import holdfast
from holdfast.base.errors import UserError
from holdfast.cli.app import app
from holdfast.media import frame_access, masks, video
from holdfast.metrics.base import MetricModels
from holdfast.metrics.compare import ClipPair, compare_files
from holdfast.pipeline import estimate, run, summary
from holdfast.pipeline.task import EditTask
from holdfast.pipeline.validation import validate

TIMES = [0, 40, 120, 133, 300, 1000, 1040, 1080, 1200, 1300, 1400, 1500]


@pytest.fixture
def task(make_clip, tmp_path):
    def make(clip=None, **fields):
        clip = clip or make_clip(frames=12, audio=1)
        return EditTask(
            input=str(clip),
            **{
                "output": str(tmp_path / "out.mp4"),
                "source_prompt": "a plain red ball",
                "target_prompt": "a plain blue ball",
                "settings": {"steps": "2", "strength": "1"},
                **fields,
            },
        )

    return make


@pytest.mark.parametrize(
    ("part", "every", "count", "expected"),
    [
        (range(12), 5, None, (0, 5, 10)),
        (range(3, 12), 4, None, (3, 7, 11)),
        (range(81), None, 8, (0, 11, 23, 34, 46, 57, 69, 80)),
        (range(2, 6), None, 4, (2, 3, 4, 5)),
        (range(7), None, 1, (0,)),
    ],
)
def test_frames_are_spaced_evenly_within_the_part(part, every, count, expected):
    assert video.choose_frames(part, every, count) == expected


def test_what_does_not_fit_is_refused_in_one_sentence(task):
    with pytest.raises(UserError, match="every is 3 and count is 4"):
        task(every=3, count=4)
    with pytest.raises(UserError, match="every is 1: use a whole number of 2 or more"):
        task(every=1)
    with pytest.raises(UserError, match="count is 9, but there are 4 frames to choose from"):
        validate(task(count=9, frames="2:6", backbone="shapeworld-wan"))


def test_the_result_holds_the_frames_at_their_own_times_without_sound(
    task, make_clip, tiny_wan, tmp_path
):
    source = make_clip(times=TIMES, frames=12, audio=1)
    fields = {"every": 3, "frames": "1:12", "mask": "0,0,24,32", "codec": "ffv1"}
    made = task(source, output=f"{tmp_path}/o.mkv", **fields)
    result = run.edit(made, tiny_wan)
    result.save()
    written = video.probe(made.output)
    picked = [1, 4, 7, 10]
    expected = [Fraction(TIMES[i] - TIMES[1], 1000) for i in picked]
    assert [t * written.time_base for t in written.times] == pytest.approx(expected, abs=1e-3)
    assert written.audio_tracks == 0
    whole = list(video.read(video.probe(source)))
    for i, frame in zip(picked, video.read(written), strict=True):
        apart = [np.abs(frame[:, 32:].astype(int) - other[:, 32:]).mean() for other in whole]
        assert np.argmin(apart) == i  # chroma is stored once for four pixels
    manifest = json.loads((tmp_path / "o.mkv.json").read_text())
    assert manifest["frames"] == 4
    assert manifest["source"]["sampled"] == picked
    assert manifest["delivered"]["samples_equal_outside"]
    assert manifest["preservation"]["max_abs_outside"] == 0
    line = "frames: 4 of 12 (1, 4, 7, 10), each at its own time, without sound"
    assert line in summary.summary_lines(manifest)
    values, _ = compare_files(
        ClipPair(str(source), made.output, mask=made.mask, frames=tuple(picked)),
        MetricModels(),
        ["masked_psnr"],
    )
    assert values["psnr_outside@true"] > 30


def test_a_mask_of_the_source_of_the_part_or_of_the_frames_is_sampled_alike(task, tmp_path):
    def write(count, name):
        frames = [np.zeros((32, 48, 3), np.uint8) for _ in range(count)]
        for i, frame in enumerate(frames):
            frame[:, : 2 + 3 * i] = 255
        path = tmp_path / f"{name}.mkv"
        video.write_frames(path, frames, 8, "ffv1")
        return str(path)

    clip = validate(task(count=3, frames="2:9", backbone="shapeworld-wan")).clip
    assert clip.sampling.frames == (2, 5, 8)

    def widths(count):
        opened = masks.open_mask(write(count, count), clip, range(3))
        return [int(frame[0].sum() - 2) // 3 for frame in opened.frames()]

    assert widths(12) == [2, 5, 8]
    assert widths(7) == [0, 3, 6]
    assert widths(3) == [0, 1, 2]
    with pytest.raises(UserError, match="has 5 frames; the clip has 12, the edited part 3"):
        widths(5)


def test_keyframes_count_the_inputs_frames(task, tmp_path):
    image = tmp_path / "key.png"
    image.touch()
    made = task(every=4, keyframes=[f"8={image}"], backbone="shapeworld-svd")
    validated = validate(made)
    assert validated.part == range(3)
    with pytest.raises(UserError, match="keyframe 3 is not within 4, 8, which follow"):
        validate(task(every=4, keyframes=[f"3={image}"], backbone="shapeworld-svd"))


def test_sampling_is_part_of_the_key_and_of_the_estimate(task, tiny_wan):
    plain, every, count = task(), task(every=3), task(count=4)
    assert len({t.latent_key() for t in (plain, every, count)}) == 3
    assert len({t.adapters_key({}) for t in (plain, every, count)}) == 3
    session = run.open_session(every, tiny_wan)
    lines = estimate.estimate_lines(estimate.Estimate(estimate._describe_session(session), "", 1))
    assert lines[0].startswith("4 of 12 frames, 48x32")
    assert "frames: 4 of 12 (0, 3, 6, 9), each at its own time, without sound" in lines
    assert session.clip.audio_tracks == 0


def test_a_frame_of_a_sampled_clip_is_found_from_its_keyframe(task, monkeypatch):
    clip = validate(task(every=5, backbone="shapeworld-wan")).clip
    expected = list(video.read(clip))
    monkeypatch.setattr(frame_access, "read_stored", None)  # decoding from the start is not needed
    for i, frame in enumerate(expected):
        assert np.array_equal(frame_access.read_frame(clip, i), frame)


def test_a_clip_in_memory_keeps_its_distances(tiny_wan, tmp_path):
    clip = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3), np.uint8)
    result = holdfast.edit(
        clip, "a red ball", "a blue ball", every=4, rate=8, backbone=tiny_wan,
        settings={"steps": 1}, mask="0,0,8,16",
    )  # fmt: skip
    assert result.clip.times == (0, 4, 8)
    assert (result.clip.rate, result.clip.time_base) == (2, Fraction(1, 8))
    assert np.array_equal(result.array()[:, :, 8:], clip[::4, :, 8:])


def test_a_benchmark_measures_the_frames_that_were_edited(tmp_path):
    command = ["bench", "run", "shapeworld:single/colour", "-o", str(tmp_path / "b"), "--count", 3]
    command += ["--methods", "flowedit+mask", "--set", "steps=1", "--limit", 1, "--metrics"]
    command += ["masked_psnr,scene_truth"]
    result = CliRunner().invoke(app, [str(word) for word in command])
    assert result.exit_code == 0, result.output
    (cell,) = (tmp_path / "b").rglob("cell.json")
    record = json.loads(cell.read_text())
    assert (record["error"], record["frames"]) == (None, 3)
    assert record["figures"]["psnr_outside@true"] > 45
    assert record["figures"]["edit_success@same_kind"] in (0, 1)
    assert "count" in json.loads((tmp_path / "b" / "bench.json").read_text())
    other = CliRunner().invoke(app, [str(word) for word in command if word not in ("--count", 3)])
    assert "holds a benchmark with count 3, not None: choose another folder" in other.output
