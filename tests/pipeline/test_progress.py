"""Saved progress says which version wrote it, and another version's is refused with what to do."""

import threading

import pytest
import torch

from holdfast.base.errors import UserError
from holdfast.base.files import load_tensors, save_tensors
from holdfast.pipeline import progress as progress_module
from holdfast.pipeline import progress_parts
from holdfast.pipeline.progress import (
    PROGRESS_VERSION,
    AdapterFile,
    BackgroundSaver,
    SavedProgress,
)
from holdfast.sampling.field import Step, initial_state, remaining_steps

STEP = Step("edit", 2, 4, torch.ones(1, 4, 2, 3, 3), {"last": torch.zeros(2)})


@pytest.fixture
def progress(tmp_path):
    return SavedProgress(tmp_path / "out.mp4.latents.safetensors", "key", {"mask": torch.ones(3)})


def test_a_saved_step_comes_back_with_what_was_made_before_it(progress):
    assert progress.load() is None
    assert not progress.can_resume()
    progress.save(STEP)
    assert progress.can_resume()
    step, extra = progress.load()
    assert (step.stage, step.index, step.count) == ("edit", 2, 4)
    assert torch.equal(step.z, STEP.z)
    assert torch.equal(step.state["last"], STEP.state["last"])
    assert torch.equal(extra["mask"], torch.ones(3))
    progress.remove()
    progress.remove()
    assert progress.load() is None


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (
            {"version": "0.1.0"},
            "is progress of Holdfast 0.1.0, .*: delete it, or run without --res",
        ),
        ({"progress_version": "999"}, "is progress of version 999, which this version of Holdfast"),
        ({}, "does not say which version saved it: delete it to start over"),
    ],
)
def test_progress_of_another_version_is_refused(version, words, progress):
    progress.save(STEP)
    tensors, metadata = load_tensors(progress.path)
    assert metadata["progress_version"] == PROGRESS_VERSION
    metadata = {k: v for k, v in metadata.items() if k not in ("progress_version", "digest")}
    save_tensors(progress.path, tensors, metadata | version)
    with pytest.raises(UserError, match=words):
        progress.load()
    assert not progress.can_resume()


def test_progress_of_another_task_is_refused(progress):
    progress.save(STEP)
    other = SavedProgress(progress.path, "another key")
    with pytest.raises(UserError, match="by another task, or with other settings: delete it"):
        other.load()
    assert not other.can_resume()


def test_adapters_are_used_for_their_key_alone_and_damaged_ones_are_ignored(tmp_path):
    file = AdapterFile(tmp_path / "a.safetensors", "key")
    assert file.load() is None
    file.save({"layer.down": torch.ones(2)})
    with pytest.warns(UserWarning, match="learnt in an earlier run"):
        assert torch.equal(file.load()["layer.down"], torch.ones(2))
    assert AdapterFile(file.path, "another key").load() is None
    file.save({"layer.down": torch.tensor([torch.nan])})
    with pytest.warns(UserWarning, match="is damaged: the clip's motion is learnt again"):
        assert file.load() is None


@pytest.mark.parametrize("position", [{}, {"stage": "edit", "index": "x", "count": "2"}])
def test_progress_that_does_not_say_where_it_stopped_is_refused(position, progress):
    metadata = {"key": "key", "progress_version": PROGRESS_VERSION}
    save_tensors(progress.path, {"z": torch.zeros(1)}, metadata | position)
    with pytest.raises(UserError, match="does not say where"):
        progress.load()


def test_the_remaining_steps_of_a_stage():
    z = torch.zeros(1)
    assert remaining_steps(None, "edit", 3, 9) == range(3, 9)
    assert remaining_steps(Step("edit", 5, 9, z), "edit", 3, 9) == range(5, 9)
    assert remaining_steps(Step("invert", 5, 9, z), "invert", 0, 9) == range(5, 9)
    assert remaining_steps(Step("invert", 5, 9, z), "edit", 0, 9) == range(9)
    assert remaining_steps(Step("edit", 5, 9, z), "invert", 0, 9) == range(0)
    assert initial_state(None, z) == (z, {})
    assert initial_state(Step("edit", 1, 2, z + 1, {"a": z}), z) == (z + 1, {"a": z})


def test_a_run_that_resumes_what_it_can_says_that_older_progress_is_not_used(progress):
    """A batch and the page resume by themselves: they must not start over in silence."""
    assert not progress.choose_resume()
    progress.save(STEP)
    assert progress.choose_resume()
    tensors, metadata = load_tensors(progress.path)
    metadata = {k: v for k, v in metadata.items() if k not in ("progress_version", "digest")}
    save_tensors(progress.path, tensors, metadata | {"version": "0.1.0"})
    with pytest.warns(UserWarning, match="is progress of another version of Holdfast: the edit st"):
        assert not progress.choose_resume()


def large(seed):
    return torch.rand(progress_parts.MIN_NUMBERS, generator=torch.Generator().manual_seed(seed))


def make_step(index, *seeds):
    return Step(
        "invert",
        index,
        4,
        torch.ones(1, 4, 2, 3, 3) * index,
        {f"inverted{n}": LARGE[n] for n in seeds},
    )


LARGE = [large(seed) for seed in range(4)]


def part_files(progress):
    return sorted(progress.parts.folder.glob("*"))


def check_loaded(progress, step):
    loaded, _ = SavedProgress(progress.path, "key").load()
    assert (loaded.index, loaded.state.keys()) == (step.index, step.state.keys())
    assert torch.equal(loaded.z, step.z)
    assert all(torch.equal(loaded.state[name], value) for name, value in step.state.items())


def test_a_state_that_grows_is_hashed_and_written_once(progress, monkeypatch):
    hashed, real = [], progress_parts._hash
    monkeypatch.setattr(progress_parts, "_hash", lambda value: hashed.append(1) or real(value))
    for index, growth in ((1, [0]), (2, [0, 1]), (3, [0, 1, 2])):
        before = {path: path.stat().st_mtime_ns for path in part_files(progress)}
        step = make_step(index, *growth)
        progress.save(step)
        assert len(part_files(progress)) == len(hashed) == index
        assert all(path.stat().st_mtime_ns == time for path, time in before.items())
        assert progress.path.stat().st_size < 4096
    check_loaded(progress, step)
    progress.save(make_step(4, 2))  # the edit drops them again
    assert len(part_files(progress)) == 1
    progress.remove()
    assert not progress.parts.folder.exists()


def test_a_tensor_that_changed_in_place_is_written_again(progress):
    value = large(9)
    progress.save(Step("edit", 1, 4, torch.ones(1), {"map": value}))
    value += 1
    progress.save(Step("edit", 2, 4, torch.ones(1), {"map": value}))
    check_loaded(progress, Step("edit", 2, 4, torch.ones(1), {"map": value}))


def test_a_save_that_fails_leaves_the_one_before(progress, monkeypatch):
    progress.save(make_step(1, 0, 1))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress_module, "save_tensors", fail)
    with pytest.raises(OSError, match="No space"):
        progress.save(make_step(2, 1, 2))
    check_loaded(progress, make_step(1, 0, 1))


@pytest.mark.parametrize("how", ["missing", "changed", "cut off"])
def test_a_damaged_part_is_refused(progress, how):
    progress.save(make_step(1, 0))
    (part,) = part_files(progress)
    content = part.read_bytes()
    part.unlink()
    if how != "missing":
        part.write_bytes(content[:-4] + (b"abcd" if how == "changed" else b""))
    with pytest.raises(UserError, match="delete it to start over"):
        progress.load()


def test_files_of_the_user_in_the_folder_stay(progress):
    progress.parts.folder.mkdir()
    own = progress.parts.folder / "notes.safetensors"
    own.write_text("mine")
    progress.save(make_step(1, 0))
    progress.remove()
    assert part_files(progress) == [own]


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, 1e30])
def test_a_latent_that_cannot_be_used_is_not_saved(progress, broken):
    progress.save(make_step(1))
    progress.save(Step("invert", 2, 4, torch.full((1, 4, 2, 3, 3), broken)))
    check_loaded(progress, make_step(1))


class SlowProgress:
    """Waits in every save until it may go on."""

    def __init__(self):
        self.begun, self.may_end, self.saved = threading.Event(), threading.Event(), []

    def save(self, step):
        self.begun.set()
        assert self.may_end.wait(60)
        self.saved.append((step.index, threading.current_thread() is threading.main_thread()))
        if step.index == 3:
            raise OSError(28, "No space left on device")


def test_a_step_is_saved_in_a_thread_and_closing_waits_for_it():
    slow, saver = SlowProgress(), BackgroundSaver()
    saver.start(slow, make_step(1))
    assert slow.begun.wait(60)
    saver.start(slow, make_step(2))  # it is busy: a later step will be saved
    assert not slow.saved
    slow.may_end.set()
    saver.wait()
    assert slow.saved == [(1, False)]
    saver.start(slow, make_step(3))
    with pytest.raises(OSError, match="No space"):
        saver.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("save")]
