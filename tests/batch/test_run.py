"""A batch in the driver: which job a worker gets, what is tried again, what is written down; and a worker by itself."""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from holdfast.base.errors import MissingDependencyError, UserError
from holdfast.batch import probes, rows, run, session
from holdfast.batch.record import BatchRecord, Job, Outcome, exit_code, remaining_text
from holdfast.batch.worker import Worker
from holdfast.batch.worker_pool import WorkerDeath, WorkerHandle
from holdfast.cli import batch as command
from holdfast.models.placement import DEFAULT, Placements
from holdfast.pipeline import jobs
from holdfast.pipeline import run as editing
from holdfast.pipeline.locks import lock_output
from holdfast.pipeline.progress import saved_progress
from holdfast.pipeline.task import EditTask


def job(line: int = 1, backbone: str = "one", **fields) -> Job:
    return Job(line, EditTask(f"{line}.mp4", f"/out/{line}.mp4", backbone=backbone), **fields)


def test_a_worker_keeps_its_backbone_and_workers_share_out_the_others():
    waiting = [job(1, "one"), job(2, "two"), job(3, "two"), job(4, "two"), job(5, "one")]
    one, two = waiting[0].backbone_key, waiting[1].backbone_key
    assert run.choose_job(waiting, WorkerHandle(None, backbone_key=one), Counter()).line == 1
    assert run.choose_job(waiting, WorkerHandle(None, backbone_key=two), Counter()).line == 2
    new = WorkerHandle(None)
    assert run.choose_job(waiting, new, Counter()).line == 2
    assert run.choose_job(waiting, new, Counter({two: 1})).line == 1
    gone = WorkerHandle(None, backbone_key=job(9, "three").backbone_key)
    assert run.choose_job(waiting, gone, Counter({one: 3})).line == 2


def test_a_dead_worker_and_lack_of_memory_are_tried_again_and_bad_input_is_not():
    memory = rows.failed_outcome(MemoryError())
    for outcome, code in (
        (WorkerDeath("gone"), 1),
        (WorkerDeath("", out_of_memory=True), 4),
        (memory, 4),
    ):
        tried = job(attempts=1)
        assert run._needs_retry(tried, outcome, retries=1)
        assert tried.status == "waiting"
        tried.attempts = 2
        assert not run._needs_retry(tried, outcome, retries=1)
        assert (tried.status, tried.code) == ("failed", code)
    lost = MissingDependencyError("the weights are not here")
    for error, code in ((UserError("no\nclip"), 2), (lost, 3), (KeyError("bug"), 1)):
        tried = job(attempts=1)
        assert not run._needs_retry(tried, rows.failed_outcome(error), retries=1)
        assert (tried.status, tried.code) == ("failed", code)
        assert "\n" not in tried.sentence
    for status in ("done", "stopped"):
        tried = job(attempts=1)
        assert not run._needs_retry(tried, Outcome(status), retries=1)
        assert tried.status == status


def test_a_job_that_had_not_begun_is_given_again_whatever_the_retries():
    tried = job(attempts=0)
    assert run._needs_retry(tried, WorkerDeath("gone", had_begun=False), retries=0)
    assert (tried.status, tried.attempts) == ("waiting", 0)


class Odd(Exception):
    """No library's error that anybody has thought of."""


def test_a_bug_keeps_its_traceback_and_what_a_user_can_mend_has_none():
    try:
        raise Odd("unforeseen")
    except Odd as error:
        found = rows.failed_outcome(error)
    assert (found.sentence, found.code) == ("Odd: unforeseen", 1)
    assert 'raise Odd("unforeseen")' in found.traceback
    full = OSError(28, "No space left on device", "out.mp4")
    for error in (UserError("no clip"), MissingDependencyError("weights"), MemoryError(), full):
        assert rows.failed_outcome(error).traceback == ""
    failed = job()
    failed.finish(found)
    assert command.describe_failure(failed).endswith("a bug, its traceback is in batch.json")
    assert failed.to_dict()["traceback"] == found.traceback


def test_the_exit_code_is_what_the_failed_rows_share():
    done = job(status="done")
    assert exit_code([done, job(status="skipped")]) == 0
    assert exit_code([done, job(status="failed", code=2)]) == 2
    assert exit_code([job(status="failed", code=2), job(status="failed", code=3)]) == 1
    assert exit_code([job(status="failed", code=1), job(status="failed", code=1)]) == 1


def test_the_time_left_goes_by_what_is_finished():
    assert remaining_text(0, 10, 5.0) == remaining_text(10, 10, 5.0) == ""
    assert remaining_text(1, 3, 10.0) == ", 20 s left"
    assert remaining_text(50, 100, 240.0) == ", 4 min left"
    assert remaining_text(1, 13, 3600.0) == ", 12 h left"


def test_the_record_says_what_became_of_every_row(tmp_path):
    found = [job(1, status="done", seconds=2.5), job(2, status="stopped"), Job(3)]
    found[2].fail("bad\nrow", 2)
    record = BatchRecord(tmp_path, found, {"workers": 2})
    record.write()
    said = json.loads((tmp_path / "batch.json").read_text())
    assert (said["count"], said["done"], said["failed"], said["skipped"], said["open"]) == (
        3, 1, 1, 0, 1,
    )  # fmt: skip
    assert said["workers"] == 2
    assert [row["status"] for row in said["rows"]] == ["done", "stopped", "failed"]
    assert said["rows"][2]["sentence"] == "bad row"
    assert said["rows"][2]["output"] is None
    assert record.count_finished() == 2


def test_what_is_printed_without_a_terminal(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(command, "print_line", said.append)
    monkeypatch.setattr(command, "SECONDS_BETWEEN_LINES", 0.0)
    found = [job(i) for i in range(1, 5)]
    found[0].status = "skipped"
    record = BatchRecord(tmp_path, found, {})
    shown = command.BatchProgress(lambda *_: None, quiet=False)
    shown(record)
    found[1].fail("no clip", 2)
    found[2].status, found[2].node = "done", "there"
    shown(record)
    shown(record)
    assert said[:2] == ["1 of 4 were done before", "0 done, 1 skipped of 4"]
    assert said[2] == "line 2 failed: no clip"
    assert said[3].startswith("1 done, 1 skipped, 1 failed of 4, ")
    assert len([line for line in said if line.startswith("line 2")]) == 1
    quiet = command.BatchProgress(lambda *_: None, quiet=True)
    quiet(record)
    assert len(said) <= 5


def task_of(clip: Path, name: str, **fields) -> EditTask:
    told = {"source_prompt": "a plain red ball", "target_prompt": "a plain blue ball"}
    settings = {"steps": 3}
    return EditTask(str(clip), str(clip.parent / name), backbone="shapeworld-wan", **told, **fields,
                    settings=settings, device="cpu")  # fmt: skip


def test_a_warm_worker_loads_a_model_again_whose_files_changed(monkeypatch):
    known = {"identity": "before"}
    monkeypatch.setattr("holdfast.models.registry.weights_identity", lambda *_: known["identity"])
    monkeypatch.setattr("holdfast.models.registry.load_backbone", lambda *_: object())
    worker, kind = Worker(1), ("shapeworld-wan", "folder", None, "cpu", "auto")
    first = worker._load(kind, DEFAULT)
    assert worker._load(kind, DEFAULT) is first
    known["identity"] = "after"
    second = worker._load(kind, DEFAULT)
    assert second is not first
    # another place for its parts is another way to load it
    assert worker._load(kind, Placements({"transformer": "disk"})) is not second


@pytest.mark.filterwarnings("ignore::holdfast.base.notices.Notice")  # no scene of its world
def test_a_worker_keeps_one_backbone_warm_and_makes_what_a_single_run_makes(make_clip, shapeworld):
    clip = make_clip()
    first, second = task_of(clip, "a.mp4"), task_of(clip, "b.mp4", seed=1)
    worker = Worker(1)
    assert worker.run(first.to_dict(), Job(1, first).backbone_key).seconds > 0
    warm = worker.backbone
    assert worker.run(second.to_dict(), Job(2, second).backbone_key).status == "done"
    assert worker.backbone is warm
    single = task_of(clip, "single.mp4", seed=1)
    editing.edit(single, shapeworld).save()
    assert Path(second.output).read_bytes() == Path(single.output).read_bytes()
    other = task_of(clip, "c.mp4", dtype="bfloat16")
    worker.run(other.to_dict(), Job(3, other).backbone_key)
    assert worker.backbone is not warm
    bad = worker.run(
        task_of(clip.parent / "none.mp4", "d.mp4").to_dict(), Job(4, first).backbone_key
    )
    assert (bad.status, bad.code) == ("failed", 2)
    assert "no file" in bad.sentence


@pytest.mark.parametrize(
    "error", [AssertionError("of a library"), StopIteration(), Odd("unforeseen")]
)
def test_a_worker_outlives_any_error_of_one_job(error, monkeypatch):
    def perform(*_):
        raise error

    monkeypatch.setattr(jobs, "run_job", perform)
    monkeypatch.setattr(Worker, "_load", lambda *_: None)
    found = Worker(1).run(job().task.to_dict(), job().backbone_key)
    assert (found.status, found.code) == ("failed", 1)
    assert type(error).__name__ in found.traceback


def test_a_worker_has_as_many_threads_as_it_was_told(make_clip):
    task = task_of(make_clip().parent / "none.mp4", "a.mp4")
    try:
        assert "no file" in Worker(3).run(task.to_dict(), Job(1, task).backbone_key).sentence
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_a_worker_that_is_stopped_saves_its_latents(how, make_clip):
    task = task_of(make_clip(), "a.mp4")
    worker = Worker(1)
    worker.stop() if how == "stop" else worker.cancel(task.output)
    kind = Job(1, task).backbone_key
    worker._report = lambda stage, done, count: Worker._report(worker) if stage == "edit" else None
    assert worker.run(task.to_dict(), kind).status == "stopped"
    assert saved_progress(task).can_resume()
    assert not Path(task.output).exists()


def test_a_job_that_is_cancelled_is_that_one_alone(monkeypatch):
    monkeypatch.setattr(Worker, "_load", lambda *_: None)
    monkeypatch.setattr(jobs, "run_job", lambda task, backbone, report: report("edit", 1, 2))
    worker = Worker(1)
    worker.cancel("/out/1.mp4")
    found = [worker.run(job(line).task.to_dict(), job(line).backbone_key).status for line in (1, 2)]
    assert found == ["stopped", "done"]


def test_a_worker_says_whether_it_sees_the_batchs_folder(tmp_path):
    BatchRecord(tmp_path, [job()], {"run": "mine"}).write()
    worker = Worker(1)
    assert worker.describe(str(tmp_path), "mine")["seen"]
    assert worker.describe(str(tmp_path), "mine")["pid"] == os.getpid()
    assert not worker.describe(str(tmp_path), "another's")["seen"]
    assert not worker.describe(str(tmp_path / "none"), "mine")["seen"]


def test_two_batches_do_not_work_in_one_folder(tmp_path, make_clip):
    file = tmp_path / "jobs.jsonl"
    file.write_text(
        json.dumps({"input": str(make_clip()), "source_prompt": "a", "target_prompt": "b"})
    )
    with (
        lock_output(tmp_path / "out" / "batch.json"),
        pytest.raises(ValueError, match="another run"),
    ):
        run.run_batch(file, tmp_path / "out", run.BatchOptions())


def test_without_ray_the_command_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(
            MissingDependencyError, match=r"pip install -c constraints\.txt -e '\.\[batch\]'"
        ),
        session.connect_ray(None, 1),
    ):
        pass
    with pytest.raises(ValueError, match="--ray auto"), session.connect_ray("ray://host:10001", 1):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", ":", "127.0.0.1:port"])
def test_a_cluster_that_is_not_there_is_told_at_once(address):
    said = pytest.raises(ValueError, match=f"no Ray cluster can be joined at {address} ")
    with said, session.connect_ray(address, 1):
        pass


@pytest.mark.filterwarnings("ignore::holdfast.base.notices.Notice")  # no scene of its world
def test_a_job_on_which_another_run_works_is_waited_for_and_not_done_again(
    make_clip, shapeworld, monkeypatch
):
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    task = task_of(make_clip(), "a.mp4")
    waits: list[str] = []

    def report(stage: str, done: int, count: int) -> None:
        waits.append(stage)
        if len(waits) == 3:
            other.__exit__(None, None, None)

    other = lock_output(task.output)
    other.__enter__()
    jobs.run_job(task, shapeworld, report)
    assert waits[:3] == ["wait"] * 3
    assert "edit" in waits
    before = os.stat(task.output)
    waits.clear()
    assert jobs.run_job(task, shapeworld, report)["key"] == task.latent_key()
    assert waits == []
    assert os.stat(task.output) == before


def test_rows_with_equal_outputs_never_reach_a_worker(tmp_path, make_clip):
    clip = make_clip()
    file = tmp_path / "jobs.jsonl"
    line = json.dumps({"input": str(clip), "source_prompt": "a", "target_prompt": "b"})
    file.write_text(f"{line}\n{line}\n")
    record = run.run_batch(file, tmp_path / "out", run.BatchOptions())
    assert [found.status for found in record.jobs] == ["failed", "failed"]
    assert rows.RECORD_NAME in os.listdir(tmp_path / "out")


def test_one_bad_row_is_found_while_others_are_at_work(tmp_path, make_clip):
    clip, bad = make_clip(), tmp_path / "bad.mp4"
    bad.write_text("no clip")
    found = [Job(line, task_of(path, f"{line}.mp4")) for line, path in enumerate((bad, clip), 1)]
    waiting = list(found)
    checked = probes.Probes(waiting, is_cluster=False)
    checked.wait_for_valid_row()
    while checked.open:
        checked._collect(None)
    run._drop_invalid(waiting, checked)
    checked.close()
    assert waiting == found[1:]
    assert (found[0].status, found[0].code) == ("failed", 2)


def test_a_batch_of_bad_rows_alone_starts_no_worker(tmp_path, monkeypatch):
    def session(*_):
        raise AssertionError("nothing is to be done")

    monkeypatch.setattr(run, "connect_ray", session)
    (tmp_path / "bad.mp4").write_text("no clip")
    row = {
        "input": "bad.mp4",
        "source_prompt": "a",
        "target_prompt": "b",
        "backbone": "shapeworld-wan",
    }
    (tmp_path / "jobs.jsonl").write_text(json.dumps(row))
    record = run.run_batch(tmp_path / "jobs.jsonl", tmp_path / "out", run.BatchOptions())
    assert [found.status for found in record.jobs] == ["failed"]


def test_a_job_waits_for_another_run_alone_and_not_for_a_bug(make_clip, monkeypatch):
    def claimed(_):
        raise ValueError("a bug")

    monkeypatch.setattr(jobs, "lock_output", claimed)
    with pytest.raises(ValueError, match="a bug"):
        jobs.run_job(task_of(make_clip(), "a.mp4"))
