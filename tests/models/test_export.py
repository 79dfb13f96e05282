"""`holdfast export`: a backbone's weights as a folder that diffusers itself loads; shared parts are stored once."""

import hashlib

import pytest
import torch
from typer.testing import CliRunner

from holdfast.base.errors import UserError
from holdfast.cli.app import app
from holdfast.models import checkpoint, registry
from holdfast.models.export import export

EMBEDDED = [
    name for name, spec in registry.specs().items() if spec.weights and not spec.download_gb
]


@pytest.mark.filterwarnings("ignore")  # of diffusers' own
@pytest.mark.parametrize("name", EMBEDDED)
def test_diffusers_loads_an_exported_backbone(name, tmp_path):
    from diffusers import DiffusionPipeline

    folder = export(name, tmp_path / "made" / name)
    pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    assert type(pipe).__name__ == registry.find_weights(name).index()["_class_name"]
    ours = registry.load_backbone(name, device="cpu")
    for part, module in ours.parts.items():
        theirs = getattr(pipe, part).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_exported_backbone_has_the_same_identity(name, tmp_path):
    folder = export(name, tmp_path / name)
    exported = registry.identify(name, str(folder))
    embedded = registry.identify(name)
    assert exported["identity"] == embedded["identity"]
    assert exported["files"].keys() == embedded["files"].keys()
    assert registry.describe_backbone(name, str(folder)) == registry.describe_backbone(name)


def test_a_folder_that_exists_is_kept(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export("shapeworld-sd", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


def test_the_command_exports_and_reports_the_folder(tmp_path):
    result = CliRunner().invoke(app, ["export", "shapeworld-sd", str(tmp_path / "sd")])
    assert result.exit_code == 0
    assert (tmp_path / "sd" / "vae" / "config.json").is_file()
    again = CliRunner().invoke(app, ["export", "shapeworld-sd", str(tmp_path / "sd")])
    assert again.exit_code == 2


def test_a_backbone_without_weights_is_not_exported(tmp_path):
    with pytest.raises(UserError, match="pixels has no weights"):
        export("pixels", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_no_weights_of_the_package_are_stored_twice():
    files = sorted(checkpoint.EMBEDDED.rglob("*.safetensors"))
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert len(set(digests)) == len(files) > 8


def test_every_shared_part_exists():
    shared = {name: spec.shared_parts for name, spec in registry.specs().items()}
    assert shared["shapeworld-t2v"].keys() == {"vae", "text_encoder"}
    assert shared["shapeworld-svd"].keys() == {"vae"}
    for name, parts in shared.items():
        for part, place in parts.items():
            assert registry.find_weights(name).part(part) == checkpoint.EMBEDDED / place
            assert (checkpoint.EMBEDDED / place / "config.json").is_file()
