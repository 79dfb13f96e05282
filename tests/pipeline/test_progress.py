"""Saved progress says which version wrote it, and another version's is refused with what to do."""

import pytest
import torch

from holdfast.base.errors import UserError
from holdfast.base.files import load_tensors, save_tensors
from holdfast.pipeline.progress import PROGRESS_VERSION, AdapterFile, SavedProgress
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
