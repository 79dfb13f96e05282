"""The run queue: one run at a time, a stopped run resumes to the same result, and a restart finds all runs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from holdfast.base.errors import UserError
from holdfast.media import video
from holdfast.pipeline import run as editing
from holdfast.pipeline.task import EditTask
from holdfast.ui import queue as desks
from holdfast.ui import views
from holdfast.ui.messages import MessageFormatter
from holdfast.ui.queue import RunQueue
from holdfast.ui.runs import DONE, FAILED, STOPPED, WAITING, Run, load_runs
from tests import tiny
from tests.patience import wait_until


@pytest.fixture
def clip(tmp_path):
    moving = [np.full((16, 24, 3), 20 * i, np.uint8) for i in range(5)]
    video.write_frames(tmp_path / "clip.mkv", moving, 8, "ffv1")
    return tmp_path / "clip.mkv"


@pytest.fixture
def desk(tmp_path, monkeypatch):
    made = RunQueue(tmp_path / "page", load=lambda *_: tiny.wan())
    yield made
    made.close()


def task(clip, **changes):
    asked = EditTask(str(clip), "", "a red ball", "a blue ball", backbone="shapeworld-wan")
    return replace(asked, settings={"steps": 6}, codec="ffv1", **changes)


def until(run, *statuses):
    wait_until(lambda: run.status in statuses)


def frames(path):
    return list(video.read(video.probe(path)))


def test_a_run_gives_what_the_command_line_gives(desk, clip, tmp_path):
    run = desk.submit(task(clip), ".mkv")
    until(run, DONE, FAILED)
    assert run.status == DONE, run.message
    alone = editing.edit(replace(task(clip), output=str(tmp_path / "alone.mkv")), tiny.wan())
    alone.save()
    pairs = zip(frames(run.output), frames(tmp_path / "alone.mkv"), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert run.manifest()["evaluations"] == alone.manifest["evaluations"]
    assert {"strip.png", "side-by-side.mp4", "run.json"} <= {f.name for f in run.folder.iterdir()}


def test_a_stopped_run_goes_on_to_the_same_result(desk, clip, monkeypatch):
    whole = desk.submit(task(clip), ".mkv")
    until(whole, DONE, FAILED)
    seen, previews = RunQueue._handle_event, []

    def stop_in_the_middle(self, run, event, *rest):
        seen(self, run, event, *rest)
        if run.stage == "edit" and run.done == 4:
            previews.append(run.preview)
            run.should_stop = True

    monkeypatch.setattr(RunQueue, "_handle_event", stop_in_the_middle)
    run = desk.submit(task(clip), ".mkv")
    until(run, STOPPED, DONE, FAILED)
    assert run.status == STOPPED
    assert not run.output.exists()
    assert previews[0].shape == (16, 24, 3)  # how it looked, at the clip's own size
    monkeypatch.setattr(RunQueue, "_handle_event", seen)
    again = desk.resume(run)
    until(again, DONE, FAILED)
    pairs = zip(frames(whole.output), frames(again.output), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert again.manifest()["evaluations"] < whole.manifest()["evaluations"]  # it did go on


def test_one_at_a_time_in_order_and_one_that_waits_can_be_taken_out(desk, clip):
    with desk.model_lock:  # as if an edit were on
        first, second, third = (desk.submit(task(clip, seed=n), ".mkv") for n in range(3))
        assert desk.count_ahead(third) == 2
        desk.cancel(second)
        assert (second.status, desk.count_ahead(third)) == (STOPPED, 1)
    for run in (first, third):
        until(run, DONE, FAILED)
    assert second.status == STOPPED
    assert first.output.stat().st_mtime_ns < third.output.stat().st_mtime_ns


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("x"),
        MemoryError(),
        SystemExit(3),
        StopIteration(),
        OSError(28, "No space left"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_library_s_error_ends_the_worker(desk, clip, error, capsys):
    def load(*_):
        raise error

    good, desk.load = desk.load, load
    run = desk.submit(task(clip), ".mkv")
    until(run, FAILED)
    assert run.message
    assert json.loads((run.folder / "run.json").read_text())["status"] == FAILED
    desk.load = good
    again = desk.resume(run)
    until(again, DONE, FAILED)
    assert again.status == DONE


def test_a_full_disk_fails_the_run_and_the_next_one_starts(desk, clip, monkeypatch):
    with desk.model_lock:
        run, later = (desk.submit(task(clip, seed=n), ".mkv") for n in range(2))
        keep = Run.save

        def full(self):
            if self.name == run.name:
                raise OSError(28, "No space left on device", str(self.folder))
            keep(self)

        monkeypatch.setattr(Run, "save", full)
    until(run, FAILED)
    assert "No space left" in run.message
    until(later, DONE, FAILED)
    assert later.status == DONE


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_ends_is_replaced(desk, clip, monkeypatch):
    do = RunQueue._execute

    def die(self, run):
        monkeypatch.setattr(RunQueue, "_execute", do)
        raise SystemExit

    monkeypatch.setattr(RunQueue, "_execute", die)
    run = desk.submit(task(clip), ".mkv")
    until(run, FAILED)
    again = desk.resume(run)
    until(again, DONE, FAILED)
    assert again.status == DONE


def test_a_result_stays_a_result_where_its_pictures_fail(desk, clip, monkeypatch, capsys):
    def fail(*_):
        raise AssertionError("no picture")

    monkeypatch.setattr(desks, "write_pictures", fail)
    run = desk.submit(task(clip), ".mkv")
    until(run, DONE, FAILED)
    assert run.status == DONE
    assert "no picture" in run.notes[-1]
    assert "no picture" in capsys.readouterr().err  # with its traceback


def test_a_folder_has_one_desk(desk, tmp_path):
    with pytest.raises(UserError, match=r"another page is open on .*--folder"):
        RunQueue(tmp_path / "page")
    desk.close()
    RunQueue(tmp_path / "page").close()


def test_a_resumed_run_waits_behind_those_that_were_asked_for_meanwhile(desk, clip):
    with desk.model_lock:
        first, second, third = (desk.submit(task(clip, seed=n), ".mkv") for n in range(3))
        desk.cancel(second)
        again = desk.resume(second)
        assert [desk.count_ahead(run) for run in (first, third, again)] == [0, 1, 2]
        assert desk.active_runs() == [first, third, again]
        for run in (first, third, again):
            desk.cancel(run)


def test_a_run_that_never_began_says_so(desk, clip):
    with desk.model_lock:
        run = desk.submit(task(clip), ".mkv")
        desk.cancel(run)
    wording = MessageFormatter(desk.root)
    assert "before it began" in views.render_status(run, desk, wording)
    assert not next(iter(load_runs(desk.folder))).was_started


def test_a_run_that_another_page_removed(desk, clip):
    with desk.model_lock:
        run = desk.submit(task(clip), ".mkv")
        desk.cancel(run)
    desk.remove(run)
    desk.cancel(run)  # nothing is left to stop
    assert not run.folder.exists()
    for gone in (run, None):
        with pytest.raises(UserError, match="was removed"):
            desk.resume(gone)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source_prompt": ""}, "is conditioned on text"),
        ({"mask": "5,5,900,900"}, "not inside the 24x16 frame"),
        ({"window": 1}, "window"),
        ({"frames": "9:12"}, "outside the clip"),
        ({"method": "flowedt"}, "unknown method"),
    ],
)
def test_what_can_never_run_is_not_queued(desk, clip, changes, said):
    with pytest.raises(UserError, match=said):
        desk.submit(task(clip, **changes), ".mkv")
    assert desk.runs() == []
    assert list(desk.folder.iterdir()) == []


def test_a_clip_and_a_mask_of_one_name_are_both_kept(desk, clip):
    paths = [desk.uploads / name / "clip.mkv" for name in ("a", "b")]
    for path, value in zip(paths, (90, 255), strict=True):
        path.parent.mkdir()
        frames = [np.full((16, 24, 3), value, np.uint8)] * 5
        frames[0][:8] = 0
        video.write_frames(path, frames, 8, "ffv1")
    with desk.model_lock:
        run = desk.submit(task(paths[0], mask=str(paths[1])), ".mkv")
        kept = [Path(name).read_bytes() for name in (run.task.input, run.task.mask)]
        desk.cancel(run)
    assert kept == [path.read_bytes() for path in paths]


def test_a_restart_finds_the_runs(desk, clip, tmp_path):
    done = desk.submit(task(clip), ".mkv")
    until(done, DONE, FAILED)
    with desk.model_lock:
        waiting = desk.submit(task(clip, seed=1), ".mkv")
        shutil.copytree(desk.root, tmp_path / "later")  # as after a power cut
        again = RunQueue(tmp_path / "later")
        found = {run.name: run.status for run in again.runs()}
        again.close()
        desk.cancel(waiting)
    assert found == {done.name: DONE, waiting.name: STOPPED}


def test_records_that_are_not_ours_are_passed_over(tmp_path):
    for name, text in {"a": "{", "b": "[]", "c": json.dumps({"task": {"nope": 1}})}.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text(text)
    desk = RunQueue(tmp_path)
    assert desk.runs() == []
    desk.close()


def test_what_cannot_work_is_told_at_once_and_leaves_no_folder(desk, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no clip")
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        desk.submit(task(tmp_path / "broken.mp4"))
    assert list(desk.folder.iterdir()) == []


def test_a_run_that_fails_says_why_and_the_next_one_runs(tmp_path, clip):
    def load(*_):
        raise UserError("no such weights")

    desk = RunQueue(tmp_path / "page", load)
    run = desk.submit(task(clip), ".mkv")
    until(run, FAILED)
    assert run.message == "no such weights"
    desk.load = lambda *_: tiny.wan()
    again = desk.resume(run)
    until(again, DONE, FAILED)
    assert again.status == DONE
    desk.close()


def test_uploads_stay_with_their_run(desk, clip):
    upload = desk.uploads / "clip.mkv"
    upload.write_bytes(clip.read_bytes())
    with desk.model_lock:
        run = desk.submit(task(upload), ".mkv")
        assert run.status == WAITING
        assert run.folder in Path(run.task.input).parents
        upload.unlink()
    until(run, DONE, FAILED)
    desk.remove(run)
    assert not run.folder.exists()
    assert desk.runs() == []


def test_only_what_does_not_run_is_removed_and_only_what_was_stopped_goes_on(desk, clip):
    with desk.model_lock:
        run = desk.submit(task(clip), ".mkv")
        with pytest.raises(ValueError, match="stop it first"):
            desk.remove(run)
        with pytest.raises(ValueError, match="resume only a run that was stopped"):
            desk.resume(run)
        desk.cancel(run)
