"""Two live runs never make one result: the second is refused at once, and a killed one stands in nobody's way."""

import gc
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.base.errors import MissingDependencyError
from holdfast.pipeline import run
from holdfast.pipeline.events import Progress
from holdfast.pipeline.locks import lock_output
from holdfast.pipeline.task import EditTask
from holdfast.sampling.field import Step

from ..cli.test_app import call

HOLDING = """
import sys
from holdfast.pipeline.locks import lock_output
with lock_output(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
COUNTING = """
import sys
from pathlib import Path
from holdfast.pipeline.locks import lock_output
counter, done = Path(sys.argv[1]), 0
while done < 100:
    try:
        with lock_output(sys.argv[1]):
            count = int(counter.read_text())
            counter.write_text(str(count + 1))
            done += 1
    except ValueError as error:
        assert "another run is writing" in str(error)
"""


@pytest.fixture
def task(make_clip, tmp_path):
    texts = {"source_prompt": "a plain red ball", "target_prompt": "a plain blue ball"}
    clip, output = make_clip(), tmp_path / "new" / "out.mp4"
    return EditTask(str(clip), str(output), **texts, settings={"steps": "2", "strength": "1"})


def left(task: EditTask) -> list[str]:
    folder = Path(task.output).parent
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def begun(code: str, path: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_another_process_is_refused_before_weights_are_loaded_until_it_is_killed(task, tiny_wan):
    other = begun(HOLDING, task.output)
    assert other.stdout.readline() == "held\n"
    events = run.edit_events(task, tiny_wan)
    with pytest.raises(ValueError, match=r"another run is writing out\.mp4 .* another --output"):
        next(events)
    argv = ("edit", task.input, "-o", task.output, "--source-prompt", "a", "--target-prompt", "b")
    said = call(*argv, "--backbone", "shapeworld-wan")
    assert said.exit_code == 2
    assert "another run is writing out.mp4" in " ".join(said.stderr.split())
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert left(task) == [".out.mp4.lock.holdfast"]
    run.edit(task, tiny_wan).save()
    assert left(task) == ["out.mp4", "out.mp4.json"]


def test_other_outputs_are_free(task, tiny_wan, tmp_path):
    with lock_output(task.output):
        result = run.edit(EditTask(**task.to_dict() | {"output": ""}), tiny_wan)
        assert result.save(tmp_path / "other.mp4").exists()
        with pytest.raises(ValueError, match="another run is writing"):
            result.save(task.output)


def test_no_two_processes_hold_one_result_while_claims_come_and_go(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [begun(COUNTING, str(counter)) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    for process in processes:
        process.communicate()
    assert counter.read_text() == "300"
    assert [p.name for p in tmp_path.iterdir()] == ["counter"]


def test_one_process_edits_saves_twice_and_edits_again(task, tiny_wan):
    first = run.edit(task, tiny_wan)
    second = run.edit(task, tiny_wan)  # as when a cell of a notebook is run again
    second.save()
    second.save()
    first.save()
    run.edit(task, tiny_wan).save()
    assert left(task) == ["out.mp4", "out.mp4.json"]


def test_between_edit_and_save_the_result_is_not_anothers(task, tiny_wan):
    result = run.edit(task, tiny_wan)
    other = begun(HOLDING, task.output)
    assert other.stdout.readline() == ""
    assert other.wait() == 1
    other.communicate()
    result.writer.progress.remove()
    del result
    gc.collect()
    assert left(task) == []


def test_a_run_of_the_same_process_is_refused_too_and_a_cancelled_one_lets_go(task, tiny_wan):
    running = run.edit_events(task, tiny_wan)
    next(event for event in running if isinstance(event, Step))
    with pytest.raises(ValueError, match="another run is writing"):
        run.edit(task, tiny_wan)
    assert next(running) != Progress("load", 1, 1)  # it continues
    running.close()
    assert left(task) == ["out.mp4.latents.safetensors"]
    (*_, result) = run.edit_events(task, tiny_wan, resume=True)
    result.save()


def test_what_fails_leaves_neither_claim_nor_folder(task, tiny_wan, monkeypatch):
    wrong = EditTask(**task.to_dict() | {"backbone": "shapeworld-wan", "weights": "no/where"})
    with pytest.raises(MissingDependencyError, match="no/where"):
        run.edit(wrong)
    broken = run.edit_events(task, tiny_wan)
    with monkeypatch.context() as patched:
        patched.setattr(run.loop, "run_loop", lambda *_: (_ for _ in ()).throw(RuntimeError))
        with pytest.raises(RuntimeError):
            list(broken)
    assert not Path(task.output).parent.exists()
    result = run.edit(task, tiny_wan)
    with monkeypatch.context() as patched:
        patched.setattr(
            run.Writer, "_write_clip", lambda *_: (_ for _ in ()).throw(OSError("full"))
        )
        with pytest.raises(OSError, match="full"):
            result.save()
    assert left(task) == ["out.mp4.latents.safetensors"]
    result.save()


def test_where_there_are_no_locks_it_goes_on(task, tiny_wan, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("holdfast.pipeline.locks.fcntl.flock", refuse)
    run.edit(task, tiny_wan).save()
    assert left(task) == ["out.mp4", "out.mp4.json"]
