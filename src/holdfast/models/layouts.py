"""What a place holds that is no diffusers folder: one sentence that names the layout, and what to do about it."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from ..base.errors import UserError
from . import downloads, headers, hub
from .spec import Model

INDEX = "model_index.json"
PARTS = ("unet", "transformer", "vae", "text_encoder", "image_encoder")
LORA_FILES = (
    "adapter_config.json",
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
)
LORA_KEYS = (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", "lora_unet_", ".lora.down.")
COMFYUI = ("checkpoints", "diffusion_models", "unet", "loras", "text_encoders", "clip", "vae")
# Keys by which a single file is known, without a prefix that some programs put before them.
PREFIX = "model.diffusion_model."
FILES = {
    "head.modulation": "a Wan transformer under its authors' names",
    "condition_embedder.time_proj.weight": "a Wan transformer alone",
    "decoder.middle.0.residual.0.gamma": "a Wan VAE under its authors' names",
    "decoder.mid_block.resnets.0.norm1.gamma": "a Wan VAE alone",
    "shared.weight": "a T5 text encoder alone",
    "token_embedding.weight": "a T5 text encoder under its authors' names",
    "input_blocks.0.0.weight": "a Stable Diffusion checkpoint in a single file",
    "first_stage_model.decoder.conv_in.weight": "a Stable Diffusion checkpoint in a single file",
    "decoder.conv_in.weight": "a VAE alone",
    "conv_in.weight": "a U-Net alone",
}
AUTHORS = (".pth", ".pt")  # how the authors of Wan and ModelScope publish
PICKLED = "a pickle, which is never read: it may hold code"
WHOLE = f"a diffusers folder has {INDEX} and a folder for each part"


def refusal(place: Path, model: Model) -> UserError:
    """The error for a place that is no diffusers folder."""
    if not place.is_dir():
        return UserError(f"{place} is {_describe_file(place)}, not a diffusers folder", cure(model))
    found, remedy = describe(place)
    cause = f"{place} is not a diffusers folder: it has no {INDEX}"
    if not found and not any(place.iterdir()):
        found = "it is empty"
    return UserError(f"{cause}; {found}" if found else cause, remedy or cure(model))


def cure(model: Model) -> str:
    """How to come by a folder that a model can be loaded from."""
    if not model.gigabytes:
        return f"give the folder of a whole model ({WHOLE}), or leave it out: {model.weights} comes with the package"
    get = downloads.download(model)
    return f"give the folder of a whole model ({WHOLE}), or leave it out and get the model's own with: {get.command}"


def _describe_file(file: Path) -> str:
    """What a file is, in words."""
    if file.suffix == ".safetensors":
        return describe_keys(headers.keys(file))
    if file.suffix == ".gguf":
        return "a GGUF file of quantised weights, which is not read yet"
    if file.suffix in headers.PICKLES:
        return PICKLED
    return "a file"


def describe_keys(names: Iterable[str]) -> str:
    """What a single safetensors file is, by the names of its tensors."""
    names = list(names)
    if any(mark in name or name.startswith(mark) for name in names for mark in LORA_KEYS):
        return "a LoRA, which changes a model and is none by itself; LoRAs are not read yet"
    if any(name.endswith(headers.SCALES) for name in names):
        return "a file of scaled (fp8) weights, which are not read yet"
    known = {name.removeprefix(PREFIX) for name in names}
    said = next((words for key, words in FILES.items() if key in known), "a single file of weights")
    return f"{said}; single files are not read yet"


def describe(folder: Path) -> tuple[str, str]:
    """What a folder is, in words, and what to do where that is not the usual thing. Both are empty where the folder is
    nothing that is known, or what a download left that was stopped.
    """
    if parts(folder):
        return "", ""
    for look in (_describe_cache, _describe_part, _describe_nested):
        if found := look(folder):
            return found
    return _describe_loose(folder), ""


def parts(folder: Path) -> list[str]:
    """The folders in it that are parts of a diffusers model."""
    return [name for name in PARTS if (folder / name / "config.json").is_file()]


def _describe_cache(folder: Path) -> tuple[str, str] | None:
    """The root of a model in the hub's cache, or of the cache."""
    is_root = not hub.REPOSITORY.fullmatch(folder.name)
    kept = [_snapshot(place) for place in sorted(folder.glob("models--*")) if is_root]
    if found := [place for place in kept if place]:
        one = shlex.quote(str(found[0]))
        return (
            f"it is a hub cache of {len(kept)} models",
            f"give a model's snapshot, such as: {one}",
        )
    if not (folder / "snapshots").is_dir():
        return None
    place = _snapshot(folder)
    if place is None:
        return "it is a model in a hub cache, without any snapshot", ""
    return "it is a model in a hub cache", f"give its snapshot: {shlex.quote(str(place))}"


def _snapshot(folder: Path) -> Path | None:
    """The snapshot that `main` means, else the newest."""
    ref = folder / "refs" / "main"
    named = folder / "snapshots" / ref.read_text().strip() if ref.is_file() else None
    if named and named.is_dir():
        return named
    found = sorted((folder / "snapshots").glob("*"), key=lambda place: place.stat().st_mtime)
    return found[-1] if found else None


def _describe_part(folder: Path) -> tuple[str, str] | None:
    """One part of a diffusers folder."""
    if (folder / "config.json").is_file() and (folder.absolute().parent / INDEX).is_file():
        parent = shlex.quote(str(folder.absolute().parent))
        return "it is one part of a model", f"give the folder above it: {parent}"
    return None


def _describe_nested(folder: Path) -> tuple[str, str] | None:
    """A folder around a diffusers folder."""
    inside = sorted(file.parent for file in folder.glob(f"*/{INDEX}"))
    if inside:
        return "a folder in it has one", f"give that: {shlex.quote(str(inside[0]))}"
    return None


def _describe_loose(folder: Path) -> str:
    """What a folder of loose files is."""
    names = {file.name for file in folder.iterdir()}
    suffixes = {Path(name).suffix for name in names}
    if names & set(LORA_FILES):
        return "it is a LoRA, which changes a model and is none by itself; LoRAs are not read yet"
    if "models" in names and (folder / "models").is_dir():
        names |= {file.name for file in (folder / "models").iterdir()}
    if len(names & set(COMFYUI)) >= 2:
        return "it is a ComfyUI folder of single files, which are not read yet"
    if suffixes & set(AUTHORS):
        return "it holds the authors' own files (.pth), which are pickles and never read"
    if ".gguf" in suffixes:
        return "it holds GGUF files of quantised weights, which are not read yet"
    if single_files := sorted(name for name in names if name.endswith(".safetensors")):
        return f"its {single_files[0]} is {_describe_file(folder / single_files[0])}"
    if pickled := sorted(name for name in names if Path(name).suffix in headers.PICKLES):
        return f"its {pickled[0]} is {PICKLED}"
    return ""
