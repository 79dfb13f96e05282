"""Rows with a source and an edited clip: their files, their checks, and that a worker does them without a backbone."""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import holdfast
from holdfast.batch import keep_rows, rows, run, worker_pool
from holdfast.batch.record import NO_BACKBONE, Job
from holdfast.batch.worker import Worker
from holdfast.batch.worker_pool import WorkerHandle, WorkerPool
from holdfast.conform.task import KeepTask
from holdfast.pipeline.locks import lock_output
from holdfast.pipeline.output_paths import manifest_path
from holdfast.pipeline.task import EditTask

from . import nodes, pairs

PAIR = {"source": "a.mp4", "edited": "a.runway.mp4"}
EDIT = {"input": "a.mp4", "source_prompt": "a red ball", "target_prompt": "a blue ball"}
# The box makes the change certain, whatever is found.
BOX = {"mask": "16,16,64,64", "mask_use": "replace"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with a pair of clips, and another clip."""
    folder = tmp_path_factory.mktemp("clips")
    pairs.write_source(folder / "a.mp4")
    pairs.write_edited(folder / "a.runway.mp4")
    pairs.write_other(folder / "other.mp4")
    (folder / "no.mp4").write_text("no clip")
    return folder


@pytest.fixture
def read(tmp_path):
    """read(row, ...) writes rows into a folder `rows` and reads them, with `out` for results."""

    def make(*lines: dict, anywhere: bool = False) -> list[Job]:
        file = tmp_path / "rows" / "jobs.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(map(json.dumps, lines)))
        return rows.read_jobs(file, tmp_path / "out", anywhere)

    return make


def problems(jobs: list[Job]) -> dict[int, str]:
    return {job.line: job.sentence for job in jobs if job.status == "failed"}


def keep_task(clips: Path, output: Path, **fields) -> KeepTask:
    return KeepTask(str(clips / "a.mp4"), str(clips / "a.runway.mp4"), str(output), **BOX, **fields)


def test_inputs_start_at_the_rows_folder_and_outputs_at_the_batchs(read, tmp_path):
    base, out = tmp_path / "rows", tmp_path / "out"
    jobs = read(
        PAIR | {"grow": 2, "preview": "look.mp4"},
        PAIR | {"id": 7, "mask": "0,0,8,8", "detector": "hub/detector"},
        PAIR | {"output": "sub/x.mkv", "mask": "m.png"},
        PAIR | {"id": "marks", "brushes": ["3=b.png", "c.png"]},
        PAIR | {"id": "mark", "brushes": "b.png"},
        EDIT,
    )
    assert problems(jobs) == {}
    first, box, masked, marked, brushed, edit = (job.task for job in jobs)
    assert (first.source, first.edited) == (str(base / "a.mp4"), str(base / "a.runway.mp4"))
    assert (first.grow, first.preview) == (2, str(out / "look.mp4"))
    assert (box.mask, box.detector) == ("0,0,8,8", "hub/detector")
    assert masked.mask == str(base / "m.png")
    assert marked.brushes == (f"3={base / 'b.png'}", str(base / "c.png"))
    assert brushed.brushes == (str(base / "b.png"),)
    names = ["a.runway.kept.mp4", "7.mp4", "sub/x.mkv", "marks.mp4", "mark.mp4", "a.mp4"]
    assert [job.task.output for job in jobs] == [str(out / name) for name in names]
    assert isinstance(first, KeepTask)
    assert isinstance(edit, EditTask)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (PAIR | {"grwo": 2}, "unknown field 'grwo': did you mean grow"),
        ({"edited": "a.mp4"}, "source is missing"),
        (PAIR | {"edited": 3}, "edited is 3: use text"),
        (PAIR | {"grow": "much"}, "use a whole number"),
        (PAIR | {"output": 3}, "output is 3: use text"),
        (PAIR | {"output": "http://host/x.mp4"}, "looks like an address"),
        (PAIR | {"id": "a/b"}, "id is 'a/b': use a file name"),
        (PAIR | {"brushes": 3}, "brushes is 3"),
        (PAIR | {"mask": " "}, "mask is empty"),
    ],
)
def test_a_wrong_row_is_reported_and_does_not_stop_the_others(read, row, sentence):
    jobs = read(EDIT, row, PAIR | {"id": "good"})
    assert sentence in problems(jobs)[2]
    assert [job.status for job in jobs] == ["waiting", "failed", "waiting"]
    assert jobs[1].code == 2


def test_keeps_and_edits_must_not_overwrite_or_read_each_others_files(read):
    jobs = read(
        PAIR | {"output": "same.mp4"},
        EDIT | {"output": "same.mp4"},
        PAIR | {"output": "b.mp4", "preview": "c.mp4"},
        PAIR | {"output": "c.mp4"},
        EDIT | {"id": "made"},
        {"source": "a.mp4", "edited": "../out/made.mp4"},
        PAIR | {"output": "d.mp4", "preview": "d.mp4"},
        PAIR | {"output": "e.mp4", "preview": "/elsewhere/e.mp4"},
        PAIR | {"output": "f.mp4", "preview": "batch.json"},
        PAIR | {"output": "good.mp4"},
    )
    sentences = problems(jobs)
    assert set(sentences) == {1, 2, 3, 4, 6, 7, 8, 9}
    assert "line 2 also writes" in sentences[1]
    assert "line 4 also writes" in sentences[3]
    assert "line 3 also writes" in sentences[4]
    assert "it reads the output of line 5" in sentences[6]
    assert "output and preview are both" in sentences[7]
    assert "/elsewhere/e.mp4 lies outside" in sentences[8]
    assert "the batch's own files" in sentences[9]


def test_missing_and_unreadable_clips_are_found_before_any_work(read, clips, tmp_path):
    there = {key: str(clips / name) for key, name in PAIR.items()}
    jobs = read(
        there | {"id": "good"},
        there | {"edited": "missing.mp4"},
        there | {"id": "a", "mask": "missing.png"},
        there | {"id": "b", "edited": str(clips / "no.mp4")},
        there | {"id": "c", "output": "c.xyz"},
    )
    for job in jobs:
        rows.check(job, is_cluster=False)
    assert set(problems(jobs)) == {2, 3}  # no clip is read for it
    assert problems(jobs)[2] == f"there is no file {tmp_path}/rows/missing.mp4"
    for job in jobs:
        if job.status == "waiting" and (outcome := rows.probe(job.task, is_cluster=False)):
            job.finish(outcome)
    assert set(problems(jobs)) == {2, 3, 4, 5}
    assert {job.code for job in jobs if job.status == "failed"} == {2}
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def finished(clips, tmp_path_factory):
    """The task of a row that a worker has done, and the worker's answer. No backbone can be loaded."""
    task = keep_task(clips, tmp_path_factory.mktemp("done") / "kept.mp4")
    worker = Worker(torch.get_num_threads())
    worker._load = lambda backbone_key: pytest.fail(f"{backbone_key} is loaded")
    return task, worker.run(task.to_dict(), Job(1, task).backbone_key)


def test_a_worker_makes_what_a_single_run_makes_without_a_backbone(finished, clips, tmp_path):
    task, outcome = finished
    assert (outcome.status, outcome.sentence) == ("done", "")
    assert outcome.seconds > 0
    single = tmp_path / "single.mp4"
    holdfast.keep(task.source, task.edited, single, mask=task.mask, mask_use=task.mask_use)
    assert Path(task.output).read_bytes() == single.read_bytes()
    assert Path(task.output).read_bytes() != (clips / "a.mp4").read_bytes()
    manifest = json.loads(manifest_path(Path(task.output)).read_text())
    assert manifest["delivered"]["samples_equal_outside"]


def checked(task: KeepTask) -> str:
    job = Job(1, task)
    rows.check(job, is_cluster=False)
    return job.status


def test_a_finished_row_is_skipped_until_its_fields_or_files_change(finished, clips, tmp_path):
    done, _ = finished
    folder = tmp_path / "moved"
    shutil.copytree(Path(done.output).parent, folder)
    for name in PAIR.values():
        shutil.copy2(clips / name, folder / name)  # with its time
    output = folder / "kept.mp4"
    task = keep_task(folder, output)
    assert checked(done) == "skipped"
    assert checked(task) == "skipped"  # its clips are the same, at another place
    assert checked(keep_task(folder, output, grow=9)) == "waiting"
    assert checked(keep_task(folder, output, preview=str(folder / "look.mp4"))) == "waiting"
    shutil.copy(folder / "a.runway.mp4", folder / "a.runway.mp4.new")
    (folder / "a.runway.mp4.new").replace(folder / "a.runway.mp4")  # with another time
    assert checked(task) == "waiting"
    shutil.copy2(clips / "a.runway.mp4", folder / "a.runway.mp4")
    assert checked(task) == "skipped"
    output.write_bytes(b"of another program")
    assert checked(task) == "waiting"


def test_a_worker_leaves_a_finished_result_untouched(finished):
    task, _ = finished
    before = Path(task.output).stat()
    assert Worker(1).run(task.to_dict(), NO_BACKBONE).status == "done"
    assert Path(task.output).stat() == before


def test_clips_that_do_not_belong_together_fail_their_row_alone(clips, tmp_path):
    task = KeepTask(str(clips / "a.mp4"), str(clips / "other.mp4"), str(tmp_path / "x.mp4"))
    worker = Worker(1)
    outcome = worker.run(task.to_dict(), NO_BACKBONE)
    assert (outcome.status, outcome.code, outcome.traceback) == ("failed", 2, "")
    assert "does not look like an edit of" in outcome.sentence
    assert not Path(task.output).exists()


def test_a_preview_is_written_and_belongs_to_the_result(clips, tmp_path):
    task = keep_task(clips, tmp_path / "x.mp4", preview=str(tmp_path / "look.mp4"))
    assert Worker(1).run(task.to_dict(), NO_BACKBONE).status == "done"
    assert checked(task) == "skipped"
    (tmp_path / "look.mp4").unlink()
    assert checked(task) == "waiting"


@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_a_worker_that_is_stopped_writes_nothing(how, clips, tmp_path):
    task = keep_task(clips, tmp_path / "x.mp4")
    worker = Worker(1)
    worker.stop() if how == "stop" else worker.cancel(task.output)
    assert worker.run(task.to_dict(), NO_BACKBONE).status == "stopped"
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_result_that_another_batch_makes_is_waited_for(finished, monkeypatch):
    monkeypatch.setattr(keep_rows, "POLL_SECONDS", 0.0)
    task, _ = finished
    waits: list[str] = []

    def report(stage: str, done: int, count: int) -> None:
        waits.append(stage)
        if len(waits) == 3:
            other.__exit__(None, None, None)

    other = lock_output(manifest_path(Path(task.output)))
    other.__enter__()
    assert keep_rows.run_job(task, report)["key"] == keep_rows.hash_inputs(task)
    assert waits == ["wait"] * 3


def test_a_worker_keeps_its_backbone_in_memory_during_a_keep(clips, tmp_path):
    keeping = Job(1, keep_task(clips, tmp_path / "x.mp4"))
    editing = [Job(n, EditTask(f"{n}.mp4", f"{n}.out.mp4", backbone="one")) for n in (2, 3)]
    actor = SimpleNamespace(ping=SimpleNamespace(remote=lambda: "a call"))
    worker = WorkerHandle(actor, backbone_key=editing[0].backbone_key)
    WorkerPool.assign(SimpleNamespace(), worker, keeping)  # pyright: ignore[reportArgumentType]
    assert worker.backbone_key == editing[0].backbone_key
    assert run.choose_job([keeping, *editing], worker, Counter()).line == 2


def test_a_timeout_does_not_promise_that_a_keep_resumes():
    keeping, editing = Job(1, KeepTask("a.mp4", "b.mp4", "c.mp4")), Job(2, EditTask("a", "b.mp4"))
    assert worker_pool._timeout_advice(keeping) == "it starts again with a longer timeout"
    assert worker_pool._timeout_advice(editing).startswith("its latents are saved")


def test_a_gpu_is_reserved_for_words_alone():
    job = Job(1, KeepTask("a.mp4", "b.mp4", "c.mp4"))
    assert not job.may_use_gpu
    assert Job(1, KeepTask("a.mp4", "b.mp4", "c.mp4", words=("a ball",))).may_use_gpu
    assert Job(1, EditTask("a.mp4", "b.mp4")).may_use_gpu
    assert not Job(1, EditTask("a.mp4", "b.mp4", device="cpu")).may_use_gpu


@pytest.mark.slow
def test_a_file_of_edits_and_keeps_is_done_by_the_same_workers(clips, tmp_path):
    there = {key: str(clips / name) for key, name in PAIR.items()}
    edit = {"input": str(clips / "a.mp4"), "id": "edit", "settings": {"steps": 2}, "device": "cpu"}
    prompts = {"source_prompt": "a plain red ball", "target_prompt": "a plain blue ball"}
    lines = [
        there | BOX,
        edit | prompts | {"backbone": "shapeworld-wan"},
        there | {"edited": str(clips / "other.mp4")},
    ]
    file = tmp_path / "jobs.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    code, _, messages = nodes.Driver(file, tmp_path / "out").ended()
    assert code == 2
    assert "line 3 failed: " in messages
    assert "does not look like an edit of" in messages
    record = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert [row["status"] for row in record["rows"]] == ["done", "done", "failed"]
    assert {"a.runway.kept.mp4", "edit.mp4"} <= {p.name for p in (tmp_path / "out").iterdir()}
    again = rows.read_jobs(file, tmp_path / "out")
    for job in again:
        rows.check(job, is_cluster=False)
    assert [job.status for job in again] == ["skipped", "skipped", "waiting"]
