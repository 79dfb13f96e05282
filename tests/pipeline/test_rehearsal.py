"""A rehearsal runs random weights of a published architecture, and removes them whatever happens."""

import dataclasses
import shutil
from collections import namedtuple

import pytest

from holdfast.base.errors import UserError
from holdfast.cli.doctor import parse_size
from holdfast.models import published, random_weights, registry
from holdfast.models.checkpoint import Checkpoint
from holdfast.pipeline import rehearsal
from holdfast.pipeline.rehearsal import Rehearsal, describe_report, rehearse

ORDER = Rehearsal("shapeworld-wan", (64, 64), 9, memory="2GB", steps=1, device="cpu")


def ignore(line):
    pass


def test_a_rehearsal_streams_where_its_memory_asks_for_it_and_reports_what_it_took(tmp_path):
    said = []
    order = dataclasses.replace(ORDER, folder=str(tmp_path))
    whole = rehearse(order, said.append)
    peak = whole["plan"]["peak_mb"]
    assert whole["plan"]["parts"]["transformer"]["placement"] == "resident"
    streamed = rehearse(dataclasses.replace(order, memory=f"{peak - 1}MB"), said.append)
    assert {part["placement"] for part in streamed["plan"]["parts"].values()} != {"resident"}
    assert streamed["is_whole"]
    assert streamed["evaluations_per_step"] == 3
    assert set(streamed["seconds"]) == {"load", "condition", "encode", "denoise", "decode"}
    assert streamed["peak_mb"] > 0
    assert any("random weights" in line for line in said)
    assert "MB expected" in "\n".join(describe_report(streamed))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
def test_the_weights_are_removed_when_a_rehearsal_is_stopped(tmp_path, kind):
    def stop(line):
        if line.startswith("load"):
            assert len(list(tmp_path.glob("*/transformer/*.safetensors"))) == 1
            raise kind

    with pytest.raises(kind):
        rehearse(dataclasses.replace(ORDER, folder=str(tmp_path)), stop)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**6))
    monkeypatch.setattr(random_weights, "write_model", lambda *_: pytest.fail("it was written"))
    with pytest.raises(UserError, match=r"need 0\.1GB for the rehearsal, and 0\.1GB are free"):
        rehearse(dataclasses.replace(ORDER, folder=str(tmp_path)), ignore)


def test_a_limit_below_the_smallest_plan_is_refused_before_anything_is_written(monkeypatch):
    monkeypatch.setattr(random_weights, "write_model", lambda *_: pytest.fail("it was written"))
    with pytest.raises(UserError, match=r"below the smallest plan.*use --memory") as error:
        rehearse(dataclasses.replace(ORDER, memory="10MB"), ignore)
    assert "--window" not in error.value.remedy  # which doctor does not have
    assert "--size" in error.value.remedy


def test_a_folder_that_does_not_exist_is_an_error_with_a_remedy(tmp_path):
    order = dataclasses.replace(ORDER, folder=str(tmp_path / "missing"))
    with pytest.raises(UserError, match="missing for the random weights does not exist: create it"):
        rehearse(order, ignore)


def test_a_large_clip_runs_small_without_a_gpu_and_says_so(tmp_path):
    order = dataclasses.replace(
        ORDER, size=(640, 640), frames=25, folder=str(tmp_path), memory="9GB"
    )
    report = rehearse(order, ignore)
    assert not report["is_whole"]
    assert report["run"] == {"frames": 3, "height": 128, "width": 128}
    assert report["estimated_seconds_per_step"] > 20 * report["seconds_per_step"]
    assert "without a GPU the steps ran on 3 latent frames of 128x128" in "\n".join(
        describe_report(report)
    )


def test_a_model_of_unknown_configuration_and_a_wrong_size_are_refused():
    with pytest.raises(UserError, match=r"zeroscope is not known.*wan2\.1-1\.3b"):
        random_weights.describe_model("zeroscope")
    with pytest.raises(UserError, match="WIDTHxHEIGHT"):
        parse_size("832")
    with pytest.raises(UserError, match="width 100 does not fit"):
        rehearse(dataclasses.replace(ORDER, size=(100, 64)), ignore)


def test_the_published_files_have_these_tensors():
    """Their sizes in float32 are those of the published repository, headers aside."""
    model = random_weights.describe_model("wan2.1-1.3b")
    repository = published.find_repository(model.spec.weights)
    assert repository is not None
    for part in ("transformer", "text_encoder", "vae"):
        known = repository.total_bytes([f"{part}/*.safetensors"])
        numbers = random_weights.count_numbers(model.shapes[part])
        assert known == pytest.approx(4 * numbers, rel=1e-4)


def test_written_weights_are_sharded_and_load_as_published_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(random_weights, "SHARD_BYTES", 2**20)
    model = random_weights.describe_model("shapeworld-wan")
    random_weights.write_model(model, tmp_path, "bfloat16")
    assert len(list((tmp_path / "transformer").glob("*-of-*.safetensors"))) > 1
    backbone = registry.load_backbone("shapeworld-wan", str(tmp_path), "cpu")
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in backbone.parts.items()
    }
    assert counts == {n: random_weights.count_numbers(s) for n, s in model.shapes.items()}
    assert Checkpoint(tmp_path).config("transformer")["num_layers"] > 0


def test_the_small_clip_of_a_cpu_is_what_the_report_names():
    assert rehearsal.SMALL == (9, 128, 128)
