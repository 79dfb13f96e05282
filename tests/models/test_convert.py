"""`holdfast convert`: .bin files become safetensors with the same numbers, and no code in them runs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from typer.testing import CliRunner

from holdfast.base.errors import MissingDependencyError, UserError
from holdfast.cli.app import app
from holdfast.models import registry
from holdfast.models.convert import convert
from holdfast.models.export import export

NAME = "shapeworld-t2v"
PARTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}


def pickled(folder: Path) -> Path:
    """The same folder with its weights as .bin alone, as zeroscope comes."""
    for part, stem in PARTS.items():
        file = folder / part / f"{stem}.safetensors"
        torch.save(load_file(file), file.with_name(bin_of(part)))
        file.unlink()
    return folder


def bin_of(part: str) -> str:
    return "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"


@pytest.fixture
def folder(tmp_path):
    return pickled(export(NAME, tmp_path / "its weights"))


def call(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_a_folder_says_how_to_convert_it_and_then_loads_with_the_same_numbers(folder):
    with pytest.raises(UserError, match=r"lacks unet except as .*\.bin, a pickle.*") as found:
        registry.describe_backbone(NAME, str(folder))
    assert found.value.remedy.endswith(f"holdfast convert '{folder}'")
    said = call(folder)
    assert said.exit_code == 0
    assert said.output.count("wrote") == 3
    stock_checkpoint = registry.find_weights(NAME)
    for part, stem in PARTS.items():
        made = load_file(folder / part / f"{stem}.safetensors")
        stock = load_file(stock_checkpoint.part(part) / f"{stem}.safetensors")
        assert made.keys() == stock.keys()
        assert all(torch.equal(made[name], stock[name]) for name in stock)
    assert registry.load_backbone(NAME, str(folder), "cpu").network is not None
    assert "nothing to convert" in call(folder).output
    assert not list(folder.rglob(".*"))


def test_shards_a_variant_and_shared_memory(folder):
    """A sharded encoder, a fp16 VAE, and tensors that are views of one another."""
    vae = folder / "vae" / bin_of("vae")
    held = torch.load(vae)
    torch.save(
        {n: t.half() for n, t in held.items()}, vae.with_name(vae.name.replace(".bin", ".fp16.bin"))
    )
    vae.unlink()
    encoder = folder / "text_encoder"
    held = torch.load(encoder / bin_of("text_encoder"))
    (encoder / bin_of("text_encoder")).unlink()
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    places = {tensor: names[i % 2] for i, tensor in enumerate(held)}
    for name in names:
        torch.save({t: held[t] for t in held if places[t] == name}, encoder / name)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (encoder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    unet = folder / "unet" / bin_of("unet")
    held = torch.load(unet)
    same = next(n for n, t in held.items() if t.ndim == 1)
    alike = next(n for n, t in held.items() if t.shape == held[same].shape and n != same)
    wide = torch.zeros(2, *held[same].shape)
    held[same], held[alike] = wide[0], wide[0]  # part of a larger memory, twice
    turned = next(n for n, t in held.items() if t.ndim == 2 and t.shape[0] == t.shape[1])
    held[turned] = held[turned].t()
    torch.save(held, unet)
    written = [w.file.name for w in convert(str(folder))]
    assert written == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
    ]
    made = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(made[turned], held[turned])
    assert torch.equal(made[same], made[alike])
    assert registry.load_backbone(NAME, str(folder), "cpu").network is not None


class Evil:
    def __reduce__(self):
        return (print, ("code of a pickle ran",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"weight": Evil()},
            r"needs code to be unpickled \(print\), and code in a file is never run",
        ),
        ({"epoch": 3}, "holds no table of tensors"),
        ([torch.zeros(2)], "holds no table of tensors"),
        (b"PK\x03\x04 nothing", "is damaged"),
        (b"", "is damaged"),
        (b"version https://git-lfs.github.com/spec/v1", "is a pointer that Git LFS left"),
    ],
)
def test_what_is_no_table_of_tensors_is_refused_and_nothing_is_written(
    content, said, folder, capfd
):
    file = folder / "text_encoder" / bin_of("text_encoder")
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(UserError, match=said) as found:
        list(convert(str(folder)))
    assert str(file) in str(found.value)
    assert "ran" not in capfd.readouterr().out
    assert not list(folder.rglob("*.safetensors"))
    assert call(folder).exit_code == 2


def test_a_table_within_a_checkpoint_of_a_training_is_taken(folder):
    file = folder / "vae" / bin_of("vae")
    torch.save({"state_dict": torch.load(file), "epoch": 3}, file)
    assert len(list(convert(str(folder)))) == 3


def test_what_is_no_diffusers_folder_and_what_is_not_here(tmp_path):
    with pytest.raises(UserError, match="is not a diffusers folder"):
        list(convert(str(tmp_path)))
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        list(convert("no/such/place"))
    with pytest.raises(
        MissingDependencyError, match=r"hf download cerspense/zeroscope_v2_576w --include"
    ):
        list(convert("cerspense/zeroscope_v2_576w"))


def test_a_download_of_pickles_alone_is_converted_in_the_hubs_cache(folder, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "models--cerspense--zeroscope_v2_576w"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("1" * 40)
    (place / "snapshots").mkdir()
    snapshot = folder.rename(place / "snapshots" / ("1" * 40))
    with pytest.raises(
        MissingDependencyError, match=rf"\.bin files, .*: holdfast convert {snapshot}"
    ):
        registry.describe_backbone("zeroscope")
    assert call("cerspense/zeroscope_v2_576w").exit_code == 0
    assert registry.describe_backbone("zeroscope").name == "zeroscope"
    assert registry.identify("zeroscope")["revision"] == "1" * 40


def test_a_full_disk_leaves_nothing_half_written(folder, monkeypatch):
    import safetensors.torch

    def full(tensors, file, *_):
        Path(file).write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        list(convert(str(folder)))
    assert not list(folder.rglob("*.safetensors"))
