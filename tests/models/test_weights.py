"""Weights that are broken, or made to break: one sentence, before anything is allocated; never a clip."""

import json
import math
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from holdfast.cli import doctor
from holdfast.cli.app import app
from holdfast.models import checkpoint, loading, registry, weight_files
from holdfast.models.export import export

FAMILIES = ("shapeworld-wan", "shapeworld-sd", "shapeworld-t2v", "shapeworld-svd")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copied(tmp_path):
    """copied(name): the folder of an embedded model, to break."""

    def copy(name="shapeworld-t2v"):
        return export(name, tmp_path / name)

    return copy


def planned_and_loaded(name, folder):
    registry.describe_backbone(name, str(folder))
    return registry.load_backbone(name, str(folder), "cpu")


def refused(name, folder, said):
    """One line about the folder, of a model that is planned, or else loaded."""
    with pytest.raises(ValueError, match=said) as found:
        planned_and_loaded(name, folder)
    text = str(found.value)
    assert str(folder) in text
    assert "\n" not in text


def write(folder, **values):
    """Values into a JSON file."""
    folder.write_text(json.dumps(json.loads(folder.read_text()) | values))


def tensors(file, change):
    held = load_file(file)
    change(held)
    save_file(held, file)


def poisoned(value):
    def change(held):
        name = min(held)
        held[name] = held[name].float()
        held[name].view(-1)[0] = value

    return change


def wider(held):
    name = min(held)
    held[name] = torch.zeros([side + 1 for side in held[name].shape])


def sharded(part):
    """The weights in two files with an index, as large models come."""
    held, stem = load_file(part / WEIGHTS), WEIGHTS.removesuffix(".safetensors")
    (part / WEIGHTS).unlink()
    files = [f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    places = {name: files[i % 2] for i, name in enumerate(held)}
    for file in files:
        save_file({name: held[name] for name in held if places[name] == file}, part / file)
    index = part / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index, files


@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_parts_are_looked_at_before_anything_is_loaded(name, copied):
    folder = copied(name)
    for part in ("transformer" if name.endswith("wan") else "unet", "vae"):
        file = folder / part / WEIGHTS
        whole = file.read_bytes()
        for broken in (b"", whole[:5], whole[:-100], struct.pack("<Q", 2**62) + b"{}"):
            file.write_bytes(broken)
            refused(name, folder, "is damaged, so that it cannot be loaded")
        file.write_bytes(whole)
        tensors(file, poisoned(math.nan))
        refused(name, folder, f"{part} is damaged: .* not finite")
        file.write_bytes(whole)
        config = folder / part / "config.json"
        text = config.read_text()
        write(config, layers_per_block=10**5, num_layers=10**5, num_res_blocks=10**5)
        refused(name, folder, "_?layers(_per_block)? is|num_res_blocks is")
        config.write_text(text)
    assert (
        registry.load_backbone(name, str(folder), "cpu").clip_format
        == registry.describe_backbone(name).clip_format
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000"),
        ({"num_attention_heads": 10**6}, "num_attention_heads"),
        ({"hidden_size": 10**9}, "hidden_size is 1000000000"),
        ({"num_labels": 10**10}, "num_labels"),  # a library would write a table of them
        ({"hidden_size": "wide"}, "describes no CLIPTextModel"),
        ({"num_hidden_layers": 40}, "more layers than the 52 tensors|numbers"),
        ({"num_hidden_layers": 1}, "belongs to other weights"),
        ({"vocab_size": 500}, r"embedding.weight is 202x128, and should be 500x128"),
        ({"architectures": ["T5EncoderModel"]}, "is of class T5EncoderModel, not CLIPTextModel"),
        ({"layer_norm_eps": math.nan}, "layer_norm_eps"),
        ({"num_attention_heads": 1.5}, "num_attention_heads is a whole number"),
        ({"num_attention_heads": True}, "num_attention_heads is a whole number"),
    ],
)
def test_an_absurd_configuration_is_compared_with_the_files_first(change, said, copied):
    folder = copied()
    write(folder / "text_encoder" / "config.json", **change)
    refused("shapeworld-t2v", folder, said)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_blocks_that_are_not_as_many_as_their_widths(part, copied):
    folder = copied("shapeworld-sd")
    config = folder / part / "config.json"
    kinds = json.loads(config.read_text())["up_block_types"]
    write(config, up_block_types=kinds[:-1])
    refused("shapeworld-sd", folder, "up_block_types has . entries, and block_out_channels has")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 10**5, '{"a": ' + "9" * 5000 + "}"])
def test_json_that_is_none(text, copied):
    folder = copied()
    (folder / "unet" / "config.json").write_text(text)
    refused("shapeworld-t2v", folder, "is not valid JSON")
    (folder / "unet" / "config.json").unlink()
    refused("shapeworld-t2v", folder, "lacks unet/config.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: held.pop(min(held)), "is not complete: it lacks"),
        (wider, "does not fit its config.json"),
        (poisoned(math.inf), "not finite"),
    ],
)
def test_tensors_that_are_missing_misshapen_or_not_finite(change, said, copied):
    folder = copied()
    tensors(folder / "text_encoder" / "model.safetensors", change)
    refused("shapeworld-t2v", folder, said)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int64])
def test_weights_of_whole_numbers_are_refused(kind, copied):
    """A library would take them for the weights as they are."""
    folder = copied()
    tensors(folder / "unet" / WEIGHTS, lambda held: held.update(as_kind(held, kind)))
    refused("shapeworld-t2v", folder, "as whole numbers, as quantised weights do, which are not")


def test_other_kinds_of_fractions_are_read_and_what_counts_places_is_no_weight(copied):
    folder = copied()
    tensors(folder / "unet" / WEIGHTS, lambda held: held.update(as_kind(held, torch.float16)))
    places = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    tensors(folder / "text_encoder" / "model.safetensors", lambda held: held.update(places))
    registry.load_backbone("shapeworld-t2v", str(folder), "cpu")


def as_kind(held, kind):
    name = next(n for n in sorted(held) if n.endswith("to_q.weight"))
    return {name: held[name].to(kind)}


def test_a_tensor_too_many_is_said_to_be_unused(copied):
    folder = copied()
    tensors(folder / "unet" / WEIGHTS, lambda held: held.update(more=torch.zeros(2)))
    with pytest.warns(UserWarning, match="unet holds more, which its config.json has no place for"):
        registry.load_backbone("shapeworld-t2v", str(folder), "cpu")


def test_a_shared_weight_may_be_saved_twice(copied):
    folder = copied("shapeworld-wan")

    def double(held):
        held["shared.weight"] = held["shared.weight"].repeat(
            500, 1
        )  # most of the encoder's numbers
        held["encoder.embed_tokens.weight"] = held["shared.weight"].clone()

    tensors(folder / "text_encoder" / "model.safetensors", double)
    write(folder / "text_encoder" / "config.json", vocab_size=79 * 500)
    assert registry.load_backbone("shapeworld-wan", str(folder), "cpu").tokenizer is not None


def test_files_in_parts_are_read_and_one_that_is_absent_is_named(copied):
    folder = copied()
    index, files = sharded(folder / "unet")
    assert registry.load_backbone("shapeworld-t2v", str(folder), "cpu").network is not None
    (folder / "unet" / files[1]).rename(folder / "elsewhere")
    refused("shapeworld-t2v", folder, f"lacks unet/{files[1]}")
    write(index, weight_map={"conv_in.weight": "../../elsewhere"})
    refused("shapeworld-t2v", folder, "does not say which file holds which tensor")


def test_pickles_are_named_and_not_read(copied):
    folder = copied()
    (folder / "vae" / WEIGHTS).rename(folder / "vae" / "diffusion_pytorch_model.bin")
    refused("shapeworld-t2v", folder, r"vae except as diffusion_pytorch_model\.bin, a pickle")


def test_a_tokenizer_that_is_missing_broken_foreign_or_brings_code(copied):
    folder = copied()
    place = folder / "tokenizer" / "tokenizer.json"
    text = place.read_text()
    held = json.loads(text)
    held["model"]["vocab"][max(held["model"]["vocab"])] = 10**6
    place.write_text(json.dumps(held))
    refused("shapeworld-t2v", folder, "tokens up to 1000000, and .* knows 202")
    place.write_text("{}")
    refused("shapeworld-t2v", folder, "tokenizer cannot be loaded")
    place.write_text(text)
    settings = folder / "tokenizer" / "tokenizer_config.json"
    write(settings, model_max_length=10**30)  # as a tokenizer without a limit says it
    loaded = registry.load_backbone("shapeworld-t2v", str(folder), "cpu")
    assert loaded.prompts.tokenizer.model_max_length == 32
    write(settings, model_max_length=-1)
    refused("shapeworld-t2v", folder, "model_max_length is -1")
    write(settings, tokenizer_class="Own", auto_map={"AutoTokenizer": ["code.Own", None]})
    refused("shapeworld-t2v", folder, "tokenizer")  # never a question whether to run it
    shutil.rmtree(folder / "tokenizer")
    refused("shapeworld-t2v", folder, "lacks tokenizer/tokenizer.json")


@pytest.mark.parametrize(
    "change",
    [
        {"num_train_timesteps": 10**12},
        {"beta_end": 2.0},
        {"beta_start": "small"},
        {"steps_offset": [1]},
    ],
)
def test_a_schedule_that_cannot_be_meant(change, copied):
    folder = copied()
    write(folder / "scheduler" / "scheduler_config.json", **change)
    refused("shapeworld-t2v", folder, f"{next(iter(change))} is ")


def test_parts_of_different_models_are_not_put_together(copied):
    folder = copied("shapeworld-sd")
    write(folder / "unet" / "config.json", cross_attention_dim=64)
    with pytest.raises(ValueError, match=r"does not fit its config\.json"):
        registry.load_backbone("shapeworld-sd", str(folder), "cpu")
    with pytest.raises(ValueError, match=r"mixes parts .* their widths are 64 and 128"):
        loading.require_equal(folder, "widths", 128, 64)
    loading.require_equal(folder, "widths", 128, None, 128)


def test_an_image_processor_that_is_none(copied):
    folder = copied("shapeworld-svd")
    file = folder / "feature_extractor" / "preprocessor_config.json"
    for change in ({"image_mean": "grey"}, {"image_mean": [0.5]}, {"image_std": [1, 0, 1]}):
        text = file.read_text()
        write(file, **change)
        refused("shapeworld-svd", folder, f"is damaged: {next(iter(change))}")
        file.write_text(text)
    file.write_text("{")
    refused("shapeworld-svd", folder, "is not valid JSON")


def test_a_hundred_thousand_layers_are_never_made():
    from diffusers import UNet2DConditionModel

    made = []
    with (
        pytest.raises(loading.TooManyParametersError),
        loading._limit_parameters(100),
        torch.device("meta"),
    ):
        made.append(UNet2DConditionModel(layers_per_block=10**5))
    assert not made
    torch.nn.Linear(2, 2)  # the watch has ended


def test_only_headers_are_read(copied):
    file = copied() / "unet"
    found = weight_files.tensor_shapes(file)
    assert found == {name: tuple(t.shape) for name, t in load_file(file / WEIGHTS).items()}
    assert weight_files.count_numbers(found) == sum(
        t.numel() for t in load_file(file / WEIGHTS).values()
    )


def test_the_command_says_one_line_and_doctor_goes_on(copied, make_clip, tmp_path, monkeypatch):
    folder = copied()
    (folder / "unet" / WEIGHTS).write_bytes(b"nothing")
    prompts = ["--source-prompt", "a red ball", "--target-prompt", "a blue ball"]
    model = ["--backbone", "shapeworld-t2v", "--weights", str(folder)]
    out = str(tmp_path / "out.mp4")
    said = CliRunner().invoke(app, ["edit", str(make_clip()), "-o", out, *prompts, *model])
    assert said.exit_code == 2
    assert said.output.count("error:") == 1
    monkeypatch.setattr(checkpoint, "EMBEDDED", folder.parent)
    assert "damaged" in doctor._weights()["shapeworld-t2v"]
