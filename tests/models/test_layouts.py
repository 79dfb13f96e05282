"""Weights as people have them: variants of precision, quantised ones, and places that are no diffusers folder."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from holdfast.base.errors import MissingDependencyError, UserError
from holdfast.models import hub, loading, registry, weight_files
from holdfast.models.export import export

from .. import hub_cache

NAME = "shapeworld-t2v"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copied(tmp_path):
    """The folder of an embedded model, to change."""
    return export(NAME, tmp_path / "w")


def loaded(folder, name=NAME):
    registry.describe_backbone(name, str(folder))
    return registry.load_backbone(name, str(folder), "cpu")


def refused(folder, *said, name=NAME):
    """One sentence that says all of this, before anything is loaded."""
    with pytest.raises(UserError) as found:
        registry.describe_backbone(name, str(folder))
    text = str(found.value)
    assert not [words for words in said if words not in text], text
    assert "\n" not in text
    return found.value


def part_of(folder):
    """The smallest part, loaded."""
    from diffusers import AutoencoderKL

    return loading.load_part(AutoencoderKL, folder / "vae", torch.float32)


def encoder_of(folder):
    from transformers import CLIPTextModel

    return loading.load_part(CLIPTextModel, folder / "text_encoder", torch.float32)


PARTS = {"vae": part_of, "text_encoder": encoder_of}


def resaved(folder, part, variant, shards):
    """A part's weights as its library saves them, under a variant's name; the plain ones go."""
    made = PARTS[part](folder)
    for file in (folder / part).glob("*.safetensors"):
        file.unlink()
    size = "200KB" if shards else "5GB"
    made.half().save_pretrained(folder / part, variant=variant, max_shard_size=size)
    return made.float()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("variant", "shards"), [("fp16", False), ("fp16", True), ("bf16", True)])
def test_a_variant_as_the_libraries_save_it_is_loaded(part, variant, shards, copied):
    stock = resaved(copied, part, variant, shards).state_dict()
    names = [file.name for file in (copied / part).iterdir() if variant in file.name]
    assert len(names) > 2 if shards else len(names) == 1
    assert not list((copied / part).glob("*model.safetensors"))
    weight_files.check_plausible(copied / part)
    for name, value in PARTS[part](copied).state_dict().items():
        assert torch.equal(value, stock[name]), name


@pytest.mark.parametrize("part", PARTS)
def test_a_variant_whose_files_were_renamed_by_hand_is_loaded(part, copied):
    """Shards whose index keeps the plain names, and then an index that bears the variant before its ending."""
    resaved(copied, part, None, shards=True)
    for ending in (".safetensors", ".safetensors.index.json"):
        for file in (copied / part).glob(f"*{ending}"):
            file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
        assert PARTS[part](copied)


def test_the_full_weights_come_before_a_variant_but_not_where_they_are_incomplete(copied):
    part = copied / "unet"
    variant = part / WEIGHTS.replace(".safetensors", ".fp16.safetensors")
    save_file({n: t.half() for n, t in load_file(part / WEIGHTS).items()}, variant)
    assert weight_files.weight_files(part) == [part / WEIGHTS]
    held = load_file(part / WEIGHTS)
    places = dict.fromkeys(held, "diffusion_pytorch_model-00001-of-00001.safetensors")
    (part / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": places}))
    (part / WEIGHTS).unlink()  # the index came, and its files did not
    assert weight_files.weight_files(part) == [variant]
    assert loaded(copied).network is not None  # the other parts are full


def test_another_variant_is_named_with_what_makes_it_readable(copied):
    file = copied / "unet" / WEIGHTS
    other = file.rename(file.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    said = refused(copied, "lacks unet except as diffusion_pytorch_model.non_ema.safetensors")
    assert said.remedy.startswith(f"rename unet/{other.name} to {WEIGHTS}")
    other.rename(file)
    assert registry.describe_backbone(NAME, str(copied))


def quantised(held, kind):
    name = next(n for n in sorted(held) if n.endswith("to_q.weight"))
    return {name: held[name].to(kind)}


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("scale", [True, False])
def test_float8_is_refused_by_name(kind, scale, copied):
    file = copied / "unet" / WEIGHTS
    held = load_file(file)
    held |= quantised(held, kind)
    if scale:
        held["conv_in.scale_weight"] = torch.ones(())
    save_file(held, file)
    cause = refused(copied, "unet holds", "as F8_E", "is not supported yet").remedy
    assert cause == "get the weights as float32, float16 or bfloat16"


def test_scaled_weights_and_a_quantised_configuration_are_refused_by_name(copied):
    file = copied / "unet" / WEIGHTS
    held = load_file(file)
    save_file(held | {"conv_in.weight_scale": torch.ones(())}, file)
    refused(copied, "holds scaled weights (conv_in.weight_scale)")
    save_file(held, file)
    config = copied / "unet" / "config.json"
    values = json.loads(config.read_text())
    said = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    config.write_text(json.dumps(values | said))
    refused(copied, "is quantised, by its config.json ('bitsandbytes')")


def test_float64_is_rounded_and_read(copied):
    file = copied / "vae" / WEIGHTS
    stock = part_of(copied).state_dict()
    save_file({n: t.double() for n, t in load_file(file).items()}, file)
    weight_files.check_plausible(copied / "vae")
    assert all(torch.equal(v, stock[n]) for n, v in part_of(copied).state_dict().items())


def test_a_clone_without_its_large_files_says_so(copied):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (copied / "vae" / WEIGHTS).write_text(text)
    refused(
        copied, f"vae/{WEIGHTS} is a pointer that Git LFS left, not the weights", "git lfs pull"
    )


LORA = {"unet.down.0.to_q.lora_A.weight": (2, 4), "unet.down.0.to_q.lora_B.weight": (4, 2)}
CHECKPOINT = {"model.diffusion_model.input_blocks.0.0.weight": (4, 4)}
ORIGINAL = {"blocks.0.self_attn.q.weight": (4, 4), "head.modulation": (1, 2, 4)}


@pytest.mark.parametrize(
    ("name", "shapes", "said"),
    [
        ("style.safetensors", LORA, "is a LoRA, which changes a model"),
        ("v1-5.safetensors", CHECKPOINT, "a Stable Diffusion checkpoint in a single file"),
        ("wan.safetensors", ORIGINAL, "a Wan transformer in its authors' format"),
        ("wan.safetensors", {"model.diffusion_model.head.modulation": (1, 2)}, "a Wan transformer"),
        ("fp8.safetensors", {"a.weight": (2,), "scaled_fp8": (0,)}, "scaled (fp8) weights"),
        ("own.safetensors", {"something": (2,)}, "a single file of weights"),
        ("wan-q4.gguf", None, "a GGUF file"),
        ("Wan2.1_VAE.pth", None, "a pickle, which is never read"),
        ("v1-5.ckpt", None, "a pickle, which is never read"),
        ("notes.txt", None, "is a file, not a diffusers folder"),
    ],
)
def test_a_file_in_place_of_a_folder(name, shapes, said, tmp_path):
    file = tmp_path / name
    file.write_bytes(b"GGUF") if shapes is None else hub_cache.header_only(file, shapes)
    error = refused(file, str(file), said, "not a diffusers folder")
    assert "shapeworld-t2v comes with the package" in error.remedy
    assert "hf download damo-vilab" in refused(file, said, name="modelscope").remedy


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "it is a LoRA"),
        (["pytorch_lora_weights.safetensors"], "it is a LoRA"),
        (["Wan2.1_VAE.pth", "config.json", WEIGHTS], "the authors' own files (.pth)"),
        (["Wan2.1_VAE.pth", "xlm-roberta-large/config.json"], "the authors' own files (.pth)"),
        (["text2video_pytorch_model.pth", "open_clip_pytorch_model.bin"], "the authors' own files"),
        (["models/checkpoints/a.ckpt", "models/vae/b.pt"], "a ComfyUI folder"),
        (["diffusion_models/a.gguf", "text_encoders/b.gguf", "vae/c"], "a ComfyUI folder"),
        (["wan-q4.gguf", "README.md"], "GGUF files"),
        (["style.safetensors"], "its style.safetensors is a LoRA"),
        (["v1-5-pruned.ckpt", "v1-inference.yaml"], "its v1-5-pruned.ckpt is a pickle"),
        ([], "it is empty"),
        (["README.md"], "not a diffusers folder: it has no model_index.json:"),
    ],
)
def test_folders_that_are_none_of_diffusers(files, said, tmp_path):
    folder = tmp_path / "w"
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            hub_cache.header_only(folder / name, LORA)
        else:
            (folder / name).write_text("{}")
    refused(folder, "not a diffusers folder: it has no model_index.json", said, "or leave it out")


def test_a_model_without_its_index_is_not_taken_for_another_layout(copied):
    (copied / "model_index.json").unlink()
    for name in ("text_encoders", "diffusion_models"):
        (copied / name).mkdir()
    cause = refused(copied, "it has no model_index.json").cause
    assert cause.endswith("it has no model_index.json")


def test_a_downloaded_lora_is_no_download_that_was_stopped(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--some--lora"
    snapshot = place / "snapshots" / ("2" * 40)
    hub_cache.header_only(snapshot / "style.safetensors", LORA)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("2" * 40)
    refused("some/lora", str(snapshot), "its style.safetensors is a LoRA")
    (snapshot / "style.safetensors").unlink()
    with pytest.raises(
        MissingDependencyError, match=r"is not complete .*finds nothing: hf download some/lora\)"
    ):
        registry.describe_backbone(NAME, "some/lora")


def remedied(folder, *said):
    """The folder that the remedy names; it works."""
    place = refused(folder, *said).remedy.rpartition(": ")[2]
    return registry.describe_backbone(NAME, place.strip("'"))


def test_a_remedy_that_names_a_folder_names_one_that_works(copied, tmp_path):
    assert remedied(copied / "unet", "it is one part of a model").name == NAME
    assert remedied(tmp_path, "a folder in it has one").name == NAME
    root = tmp_path / "hub" / "models--some one--its name"
    snapshot = root / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    copied.rename(snapshot)
    assert remedied(root, "it is a model in a hub cache").name == NAME
    assert remedied(root.parent, "it is a hub cache of 1 models").name == NAME


def test_places_are_named_in_every_way_that_a_shell_knows(copied, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(copied)
    blob = tmp_path / "blob"
    (copied / "vae" / WEIGHTS).rename(blob)  # as in the hub's cache
    (copied / "vae" / WEIGHTS).symlink_to(blob)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for weights in ("w", "w/", "./w", "link", "~/w", str(copied)):
        assert registry.describe_backbone(NAME, weights).name == NAME, weights
    assert loading.load_part(type(part_of(copied)), tmp_path / "link" / "vae", torch.float32)


def test_a_name_that_is_not_text_is_refused_and_any_other_is_taken(copied, tmp_path):
    other = copied.rename(tmp_path / "ü mit 'quote'")
    assert registry.describe_backbone(NAME, str(other)).name == NAME
    broken = other.rename(tmp_path / "w\udcff")
    assert refused(broken, "bytes in its name that are not UTF-8").remedy == "rename the folder"


@pytest.mark.parametrize("weights", ["w", "./w", "no/such/place", "a b/c", "x" * 300, "a/b/", "@1"])
def test_what_is_no_place_and_no_hub_id(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is neither a folder nor a hub id"):
        registry.describe_backbone(NAME, weights)


def test_a_hub_id_that_is_not_here_names_its_command_and_no_size_that_nobody_knows():
    with pytest.raises(MissingDependencyError) as found:
        registry.describe_backbone("sd1.5", "some/finetune")
    text = str(found.value)
    assert "GB" not in text
    for glob in ("'unet/*model.safetensors'", "'unet/*model-*.safetensors'"):
        assert "hf download some/finetune --include '*.json'" in text
        assert f"--include {glob}" in text


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(name, copied, monkeypatch):
    """Root may read everything, so that a stand-in says no."""
    file = copied / "unet" / name
    usual = type(file).open

    def denied(self, *arguments, **options):
        if self == file:
            raise PermissionError(13, "Permission denied", str(self))
        return usual(self, *arguments, **options)

    monkeypatch.setattr(type(file), "open", denied)
    refused(copied, f"{file} cannot be read (Permission denied)")


def test_a_bug_of_ours_is_no_fault_of_a_folder(copied, monkeypatch):
    """A library that fails over a good folder as well has been called wrongly."""
    import diffusers

    monkeypatch.setattr(diffusers.AutoencoderKL, "from_pretrained", lambda *_: None)
    with pytest.raises(TypeError, match="unexpected keyword"):
        loading.load_part(diffusers.AutoencoderKL, copied / "vae", torch.float32)
    monkeypatch.undo()
    monkeypatch.setattr(diffusers.AutoencoderKL, "__init__", lambda self: None)
    with pytest.raises((TypeError, AttributeError)):
        loading.check_parts(copied, {"vae": diffusers.AutoencoderKL})


def interrupt_inside_torch():
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("trying to pop from empty mode stack")


def test_an_interrupt_while_a_model_is_made_is_no_fault_of_its_folder():
    with pytest.raises(KeyboardInterrupt), loading.blame_folder("its config.json", dict):
        interrupt_inside_torch()


def test_the_hubs_folders_are_known_by_their_names(tmp_path):
    place = tmp_path / "models--damo-vilab--text-to-video-ms-1.7b" / "snapshots" / "8227"
    assert hub.read_snapshot(place) == ("damo-vilab/text-to-video-ms-1.7b", "8227")
    assert hub.read_snapshot(place.parent) is hub.read_snapshot(tmp_path) is None
