"""Which weights made a result: in its manifest, and in the key by which it is known as done."""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from holdfast.models import checkpoint, identity, registry
from holdfast.pipeline import run
from holdfast.pipeline.task import EditTask

NAME = "shapeworld-wan"
PROMPTS = {"source_prompt": "a plain red ball", "target_prompt": "a plain blue ball"}


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(checkpoint.EMBEDDED / NAME, tmp_path / "w")


def retrain(file):
    """Other numbers in a file of the same size."""
    held = load_file(file)
    name = min(held)
    held[name] = held[name] + 1
    save_file(held, file)


def key(folder=None, image_model=None, backbone=NAME):
    weights = str(folder) if folder else None
    task = EditTask(
        "clip.mp4",
        "out.mp4",
        **PROMPTS,
        backbone=backbone,
        weights=weights,
        image_model=image_model,
    )
    return task.latent_key(), task.adapters_key({})


def test_the_key_is_of_the_files_that_are_read(folder):
    before = key(folder)
    (folder / "README.md").write_text("not read")
    (folder / "transformer" / "other.fp16.safetensors").write_text("not read")
    assert key(folder) == before
    assert key(shutil.copytree(folder, folder.parent / "copy")) == before
    for part in ("transformer", "vae", "text_encoder"):
        retrain(next((folder / part).glob("*.safetensors")))
        assert all(a != b for a, b in zip(key(folder), before, strict=True))
        before = key(folder)
    for name in ("tokenizer/tokenizer.json", "scheduler/scheduler_config.json"):
        (folder / name).write_text((folder / name).read_text() + " ")
        assert key(folder) != before
        before = key(folder)


def test_the_same_files_elsewhere_or_installed_again_are_the_same(folder):
    own, copy = registry.identify(NAME), registry.identify(NAME, str(folder))
    assert own["identity"] == copy["identity"]
    for file in folder.rglob("*"):
        os.utime(file, (1, 1))
    assert registry.identify(NAME, str(folder))["identity"] == own["identity"]


def test_the_key_is_of_the_second_models_files_too(tmp_path):
    folder = shutil.copytree(checkpoint.EMBEDDED / "shapeworld-sd", tmp_path / "sd")
    named = f"shapeworld-sd={folder}"
    before = key(image_model=named, backbone="shapeworld-t2v")
    retrain(next((folder / "unet").glob("*.safetensors")))
    assert key(image_model=named, backbone="shapeworld-t2v")[0] != before[0]


def test_a_card_names_its_own_second_model(monkeypatch, tmp_path):
    before = key(backbone="shapeworld-t2v")[0]
    for name in ("shapeworld-t2v", "shapeworld-sd"):
        shutil.copytree(checkpoint.EMBEDDED / name, tmp_path / name)
    monkeypatch.setattr(checkpoint, "EMBEDDED", tmp_path)
    assert key(backbone="shapeworld-t2v")[0] == before
    retrain(next((tmp_path / "shapeworld-sd" / "unet").glob("*.safetensors")))
    assert key(backbone="shapeworld-t2v")[0] != before


def test_large_files_are_known_by_size_and_time_and_the_hubs_by_their_hash(folder, monkeypatch):
    monkeypatch.setattr(identity, "MAX_HASHED_BYTES", 1000)
    monkeypatch.setattr(identity, "_hash_content", hash_small_only)
    file = next((folder / "vae").glob("*.safetensors"))
    before = registry.identify(NAME, str(folder))
    assert before["files"][f"vae/{file.name}"] == [
        file.stat().st_size,
        "changed",
        file.stat().st_mtime_ns,
    ]
    os.utime(file, (1, 1))
    assert registry.identify(NAME, str(folder))["identity"] != before["identity"]
    blob = folder.parent / "blobs" / ("a" * 64)
    blob.parent.mkdir()
    file.rename(blob)
    file.symlink_to(blob)
    assert registry.identify(NAME, str(folder))["files"][f"vae/{file.name}"][1:] == [
        "hub",
        "a" * 64,
    ]


def hash_small_only(file, size, changed):
    assert size <= 1000, "a large file is hashed"
    return "0"


def test_a_key_needs_no_weights_and_no_known_backbone():
    assert registry.identify("wan2.1-14b") is None
    assert registry.identify("wan2.1-14") is None
    assert len({key(backbone=name)[0] for name in ("wan2.1-14b", "wan2.1-14", "svd")}) == 3
    assert len({key(folder)[0] for folder in ("nowhere", "no/where", "x" * 300)}) == 3


def test_the_key_tells_releases_apart_that_may_give_other_numbers(monkeypatch):
    before = key()
    monkeypatch.setattr("holdfast.pipeline.task.__version__", "0.2.9")
    assert key() == before
    monkeypatch.setattr("holdfast.pipeline.task.__version__", "0.3.0")
    assert all(a != b for a, b in zip(key(), before, strict=True))


@pytest.mark.filterwarnings("ignore::holdfast.base.notices.Notice")  # no scene of its world
def test_the_manifest_says_which_files_every_model_was_loaded_from(folder, tmp_path, make_clip):
    made = registry.load_backbone(NAME, str(folder), "cpu")
    before = registry.identify(NAME, str(folder))
    retrain(next((folder / "vae").glob("*.safetensors")))  # after it was loaded
    task = EditTask(
        str(make_clip()), str(tmp_path / "out.mkv"), **PROMPTS, backbone=NAME, settings={"steps": 1}
    )
    said = run.edit(task, made).manifest["weights"]
    assert said == {"backbone": before}
    assert said["backbone"]["folder"] == str(folder)
    assert said["backbone"]["revision"] is None
    assert "transformer/diffusion_pytorch_model.safetensors" in said["backbone"]["files"]


def test_the_manifest_names_the_guides_files_and_none_of_a_model_that_was_built(
    tmp_path, make_clip
):
    from .. import tiny

    built = tiny.wan()
    clip = str(make_clip())
    task = EditTask(clip, "", **PROMPTS, settings={"steps": 1, "n_avg": 1}, method="flowedit")
    with torch.no_grad():
        assert run.edit(task, built).manifest["weights"] == {"backbone": None}
