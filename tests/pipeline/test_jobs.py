"""A job is done once: what counts as done, and that a stopped one resumes from its latents to the same bits."""

import json
import os
import shutil
from pathlib import Path

import pytest

from holdfast.base.files import write_json
from holdfast.pipeline import jobs, run
from holdfast.pipeline.output_paths import manifest_path
from holdfast.pipeline.progress import saved_progress
from holdfast.pipeline.task import EditTask


@pytest.fixture
def task(make_clip, tmp_path):
    def make(**fields) -> EditTask:
        clip = tmp_path / "clip.mp4"
        told = {"source_prompt": "a plain red ball", "target_prompt": "a plain blue ball"}
        given = {"input": str(clip), "output": str(tmp_path / "out.mp4"), **told, **fields}
        return EditTask(settings={"steps": "3", "strength": "1"}, **given)

    make_clip()
    return make


def test_a_job_is_done_once_its_file_and_its_manifest_are_there(task, tiny_wan):
    wanted = task()
    assert jobs.finished_manifest(wanted) is None
    manifest = jobs.run_job(wanted, tiny_wan)
    found = jobs.finished_manifest(wanted)
    assert found["key"] == manifest["key"] == wanted.latent_key()
    assert found == json.loads(manifest_path(Path(wanted.output)).read_text())


def test_a_result_of_another_task_is_not_this_ones(task, tiny_wan, tmp_path):
    jobs.run_job(task(), tiny_wan)
    others = {
        "seed": 1,
        "target_prompt": "a plain green ball",
        "crf": 30,
        "codec": "h265",
        "feather": 2,
    }
    others |= {"output": str(tmp_path / "other.mp4"), "method": "sdedit", "frames": "0:3"}
    for name, value in others.items():
        assert jobs.finished_manifest(task(**{name: value})) is None, name


def test_a_single_run_counts_and_the_way_to_the_files_does_not(task, tiny_wan, monkeypatch):
    run.edit(task(), tiny_wan).save()
    monkeypatch.chdir(Path(task().output).parent)
    assert jobs.finished_manifest(task(input="clip.mp4", output="out.mp4"))


def test_an_exact_result_serves_every_memory_and_an_inexact_one_its_own(task, tiny_wan):
    jobs.run_job(task(), tiny_wan)
    assert jobs.finished_manifest(task(memory="6GB"))
    place = manifest_path(Path(task().output))
    manifest = json.loads(place.read_text())
    assert manifest["plan"]["memory"]["changes_numbers"] is False
    manifest["plan"]["memory"]["changes_numbers"] = True
    write_json(place, manifest)
    assert jobs.finished_manifest(task(memory="6GB")) is None
    assert jobs.finished_manifest(task())


def test_what_changed_since_is_to_be_done_again(task, tiny_wan, tmp_path):
    wanted, clip, made = task(), tmp_path / "clip.mp4", tmp_path / "out.mp4"
    jobs.run_job(wanted, tiny_wan)
    time = clip.stat().st_mtime_ns
    os.utime(clip, ns=(time, time + 10**9))
    assert jobs.finished_manifest(wanted) is None
    os.utime(clip, ns=(time, time))
    assert jobs.finished_manifest(wanted)
    kept = made.read_bytes()
    made.write_bytes(kept[:-1])  # of a run that was killed before it wrote its manifest, say
    assert jobs.finished_manifest(wanted) is None
    made.unlink()
    assert jobs.finished_manifest(wanted) is None


def test_a_damaged_manifest_is_none(task, tiny_wan):
    wanted = task()
    jobs.run_job(wanted, tiny_wan)
    file = manifest_path(Path(wanted.output))
    for text in ("", "[]", '{"task": 3}', "\xff", '{"task": {}}'):
        file.write_text(text, "latin-1")
        assert jobs.finished_manifest(wanted) is None


class Stopped(KeyboardInterrupt):
    pass


def stopping(at: str, after: int):
    """A report that stops the job at a stage, and counts what it is told."""
    told: list[str] = []

    def report(stage: str, done: int, count: int) -> None:
        told.append(stage)
        if stage == at and done == after:
            raise Stopped

    return report, told


@pytest.mark.parametrize(("stage", "steps"), [("edit", 1), ("decode and write", 0)])
def test_a_stopped_job_goes_on_from_its_latents_to_the_same_bits(
    stage, steps, task, tiny_wan, tmp_path
):
    whole = jobs.run_job(task(output=str(tmp_path / "whole.mp4")), tiny_wan)
    wanted = task()
    report, _ = stopping(stage, 2)
    with pytest.raises(KeyboardInterrupt):
        jobs.run_job(wanted, tiny_wan, report)
    assert saved_progress(wanted).can_resume()
    assert jobs.finished_manifest(wanted) is None
    report, told = stopping("", 0)
    manifest = jobs.run_job(wanted, tiny_wan, report)
    assert told.count("edit") == steps
    assert Path(wanted.output).read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert manifest["preservation"] == whole["preservation"]
    assert not saved_progress(wanted).path.exists()


def test_latents_of_another_task_are_not_gone_on_from(task, tiny_wan, tmp_path):
    other = task(seed=5)
    report, _ = stopping("edit", 2)
    with pytest.raises(KeyboardInterrupt):
        jobs.run_job(other, tiny_wan, report)
    fresh = jobs.run_job(task(), tiny_wan)
    again = jobs.run_job(task(output=str(tmp_path / "again.mp4")), tiny_wan)
    assert fresh["evaluations"] == again["evaluations"] > 0
    assert Path(task().output).read_bytes() == (tmp_path / "again.mp4").read_bytes()


def test_a_result_that_was_moved_with_its_clip_is_still_done(task, tiny_wan, tmp_path):
    jobs.run_job(task(), tiny_wan)
    there = tmp_path / "there"
    there.mkdir()
    for file in tmp_path.glob("*.mp4*"):
        shutil.move(file, there)
    assert jobs.finished_manifest(
        task(input=str(there / "clip.mp4"), output=str(there / "out.mp4"))
    )
    write_json(there / "out.mp4.json", {"task": {}})
    assert (
        jobs.finished_manifest(task(input=str(there / "clip.mp4"), output=str(there / "out.mp4")))
        is None
    )


def test_a_result_of_another_release_is_edited_again_with_a_notice(task, tiny_wan):
    wanted = task()
    manifest = jobs.run_job(wanted, tiny_wan)
    older = {"key": "0", "versions": manifest["versions"] | {"holdfast": "0.1.0"}}
    write_json(manifest_path(Path(wanted.output)), manifest | older)
    with pytest.warns(UserWarning, match="was made by Holdfast 0.1.0: it is edited again"):
        again = jobs.run_job(wanted, tiny_wan)
    assert again["key"] == manifest["key"]
