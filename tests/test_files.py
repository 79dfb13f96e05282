"""Files whole or not at all: the store of latents, and JSON."""

import json
import math

import pytest
import torch

from holdfast.base import files
from holdfast.pipeline.progress import SavedProgress
from holdfast.sampling.field import Step, initial_state, remaining_steps


def test_a_saved_step_comes_back_whole_with_what_was_found_before_it(tmp_path):
    store = SavedProgress(tmp_path / "l.safetensors", "k", {"mask": torch.ones(2, dtype=torch.uint8)})
    assert store.load() is None
    z = torch.arange(3.0)
    store.save(Step("invert", 2, 5, z, {"memory": z, "last": 2 * z}))
    step, found = store.load()
    assert (step.stage, step.index, step.count) == ("invert", 2, 5)
    assert torch.equal(step.z, z)
    assert torch.equal(step.state["last"], 2 * z)
    assert found["mask"].tolist() == [1, 1]
    assert [f.name for f in tmp_path.iterdir()] == ["l.safetensors"]
    store.remove()
    assert store.load() is None


def test_saved_latents_of_another_task_or_broken_ones_are_refused(tmp_path):
    path = tmp_path / "l.safetensors"
    SavedProgress(path, "a").save(Step("edit", 1, 2, torch.zeros(1)))
    with pytest.raises(ValueError, match="another task"):
        SavedProgress(path, "b").load()
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="cannot be read"):
        SavedProgress(path, "a").load()


def test_latents_without_their_metadata_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "l.safetensors"
    save_file({"z": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="another task"):
        SavedProgress(path, "a").load()


def test_latents_of_another_version_are_refused(tmp_path, monkeypatch):
    """What a method keeps beside the latent may have another name there."""
    store = SavedProgress(tmp_path / "l.safetensors", "a")
    monkeypatch.setattr(files, "__version__", "0.0.1")
    store.save(Step("edit", 1, 2, torch.zeros(1, 2, 1, 1, 1)))
    assert store.can_resume()
    monkeypatch.undo()
    assert not store.can_resume()
    with pytest.raises(ValueError, match="by another version of Holdfast"):
        store.load()


@pytest.mark.parametrize(
    "about", [{"key": "a"}, {"key": "a", "stage": "edit", "index": "x", "count": "2"}]
)
def test_latents_that_do_not_say_where_they_stand_are_refused(about, tmp_path):
    path = tmp_path / "l.safetensors"
    files.save_tensors(path, {"z": torch.zeros(1)}, about)
    with pytest.raises(ValueError, match="does not say where its run stopped"):
        SavedProgress(path, "a").load()


def test_json_has_no_bare_infinity(tmp_path):
    files.write_json(tmp_path / "m.json", {"a": math.inf, "b": [{"c": math.inf, "d": 1.5}]})
    text = (tmp_path / "m.json").read_text()
    assert "Infinity" not in text
    assert json.loads(text) == {"a": "inf", "b": [{"c": "inf", "d": 1.5}]}


def test_what_is_left_of_a_stage():
    z = torch.zeros(1)
    assert remaining_steps(None, "edit", 3, 9) == range(3, 9)
    assert remaining_steps(Step("edit", 5, 9, z), "edit", 3, 9) == range(5, 9)
    assert remaining_steps(Step("invert", 5, 9, z), "invert", 0, 9) == range(5, 9)
    assert remaining_steps(Step("invert", 5, 9, z), "edit", 0, 9) == range(9)
    assert remaining_steps(Step("edit", 5, 9, z), "invert", 0, 9) == range(0)
    assert initial_state(None, z) == (z, {})
    assert initial_state(Step("edit", 1, 2, z + 1, {"a": z}), z) == (z + 1, {"a": z})
