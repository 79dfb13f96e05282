"""The raw clip: the frames as the method left them, next to a result whose mask put the source back."""

import json

import numpy as np
import pytest
import torch

from holdfast.media import video
from holdfast.pipeline import jobs, run
from holdfast.pipeline.output_paths import check_raw_path
from holdfast.pipeline.task import EditTask


@pytest.fixture
def task(make_clip, tmp_path):
    clip = make_clip()

    def make(**fields) -> EditTask:
        own = {"input": str(clip), "output": str(tmp_path / "out.mkv"), "codec": "lossless-rgb"}
        own |= {"source_prompt": "a plain red ball", "target_prompt": "a plain blue ball"}
        own |= {"settings": {"steps": "1", "strength": "1"}, "mask": "8,8,16,16"}
        return EditTask(**own | {"raw": str(tmp_path / "raw.mkv")} | fields)

    return make


def read(path) -> np.ndarray:
    return np.stack(list(video.read(video.probe(path))))


def test_the_raw_clip_is_the_decoded_latent_and_the_result_its_composite(task, tiny_wan, tmp_path):
    result = run.edit(task(frames="0:5"), tiny_wan)
    result.save()
    raw, delivered, source = (read(tmp_path / n) for n in ("raw.mkv", "out.mkv", "clip.mp4"))
    with torch.no_grad():
        decoded = np.stack(list(result.edited.decode()))
    assert np.array_equal(raw[:5], decoded)
    assert np.array_equal(raw[5:], source[5:])  # frames that were not edited
    inside = np.zeros(source.shape[1:3], bool)
    inside[8:24, 8:24] = True
    assert np.array_equal(delivered[:5][:, inside], decoded[:, inside])
    assert np.array_equal(delivered[:, ~inside], source[:, ~inside])
    assert not np.array_equal(raw[:5][:, ~inside], source[:5][:, ~inside])
    clips = [video.probe(tmp_path / name) for name in ("raw.mkv", "out.mkv")]
    assert len({(clip.size, clip.rate, clip.times) for clip in clips}) == 1
    manifest = json.loads((tmp_path / "out.mkv.json").read_text())
    assert manifest["raw"]["output"] == str(tmp_path / "raw.mkv")
    assert not (tmp_path / "raw.mkv.json").exists()


def test_a_result_is_finished_only_with_the_raw_clip_that_belongs_to_it(task, tiny_wan, tmp_path):
    assert task().latent_key() == task(raw=None).latent_key()  # where it is written changes nothing
    jobs.run_job(task(raw=None), tiny_wan)
    assert jobs.finished_manifest(task(raw=None))
    assert jobs.finished_manifest(task()) is None
    jobs.run_job(task(), tiny_wan)
    assert jobs.finished_manifest(task())
    (tmp_path / "raw.mkv").write_bytes(b"another")
    assert jobs.finished_manifest(task()) is None
    assert jobs.finished_manifest(task(raw=None))


def test_without_a_mask_a_notice_says_that_both_clips_are_equal(task, tiny_wan):
    with pytest.warns(UserWarning, match=r"raw\.mkv equals the result: without a mask"):
        run.edit(task(mask=None), tiny_wan)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("out.mkv", "raw clip .*out.mkv would overwrite the result"),
        ("out.mkv.json", "would overwrite the result"),
        ("clip.mp4", "would overwrite .*clip.mp4"),
        ("http://host/a.mp4", "looks like an address"),
    ],
)
def test_a_raw_clip_overwrites_neither_the_source_nor_the_result(raw, message, task, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    path = raw if ":" in raw else str(tmp_path / "link" / raw)
    with pytest.raises(ValueError, match=rf"{message}.*: choose another file for --raw"):
        run.edit(task(raw=path))


def test_a_raw_clip_and_a_folder_of_frames_lie_apart(tmp_path):
    for raw, output in (("frames/raw.mkv", "frames"), ("frames", "frames/out.mkv")):
        with pytest.raises(ValueError, match="would overwrite the result"):
            check_raw_path(tmp_path / raw, tmp_path / output, [])
    check_raw_path(tmp_path / "raw.mkv", tmp_path / "out.mkv", [])
