"""Describe a place that is not a diffusers folder: one sentence that names the layout, and what to do about it."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from ..base.errors import UserError
from . import downloads, hub, weight_files
from .checkpoint import INDEX
from .spec import BackboneSpec

PARTS = ("unet", "transformer", "vae", "text_encoder", "image_encoder")
LORA_FILES = (
    "adapter_config.json",
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
)
LORA_KEYS = (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", "lora_unet_", ".lora.down.")
COMFYUI_FOLDERS = (
    "checkpoints",
    "diffusion_models",
    "unet",
    "loras",
    "text_encoders",
    "clip",
    "vae",
)
COMFYUI_PREFIX = "model.diffusion_model."  # some programs put it before every key
# Keys that identify a single file.
SINGLE_FILES = {
    "head.modulation": "a Wan transformer in its authors' format",
    "condition_embedder.time_proj.weight": "only a Wan transformer",
    "decoder.middle.0.residual.0.gamma": "a Wan VAE in its authors' format",
    "decoder.mid_block.resnets.0.norm1.gamma": "only a Wan VAE",
    "shared.weight": "only a T5 text encoder",
    "token_embedding.weight": "a T5 text encoder in its authors' format",
    "input_blocks.0.0.weight": "a Stable Diffusion checkpoint in a single file",
    "first_stage_model.decoder.conv_in.weight": "a Stable Diffusion checkpoint in a single file",
    "decoder.conv_in.weight": "only a VAE",
    "conv_in.weight": "only a U-Net",
}
AUTHORS_SUFFIXES = (".pth", ".pt")  # the authors of Wan and ModelScope publish these
PICKLE = "a pickle, which is never read because it may hold code"
LORA = "a LoRA, which changes a model and is not a model itself; LoRAs are not supported yet"
DIFFUSERS_FOLDER = f"a diffusers folder has {INDEX} and a folder for each part"


def layout_error(place: Path, spec: BackboneSpec) -> UserError:
    """Return the error for a place that is not a diffusers folder."""
    if not place.is_dir():
        cause = f"{place} is {_describe_file(place)}, not a diffusers folder"
        return UserError(cause, remedy(spec))
    layout, action = describe(place)
    cause = f"{place} is not a diffusers folder: it has no {INDEX}"
    if not layout and not any(place.iterdir()):
        layout = "it is empty"
    return UserError(f"{cause}; {layout}" if layout else cause, action or remedy(spec))


def remedy(spec: BackboneSpec) -> str:
    """Say how to get a folder that a model can be loaded from."""
    give = f"give the folder of a whole model ({DIFFUSERS_FOLDER})"
    if not spec.download_gb:
        return f"{give}, or leave it out: {spec.weights} comes with the package"
    command = downloads.plan_download(spec).command
    return f"{give}, or leave it out and get the model's own with: {command}"


def _describe_file(file: Path) -> str:
    if file.suffix == ".safetensors":
        return describe_keys(weight_files.tensor_names(file))
    if file.suffix == ".gguf":
        return "a GGUF file of quantised weights, which is not supported yet"
    if file.suffix in weight_files.PICKLE_SUFFIXES:
        return PICKLE
    return "a file"


def describe_keys(names: Iterable[str]) -> str:
    """Describe a single safetensors file by the names of its tensors."""
    names = list(names)
    if any(mark in name or name.startswith(mark) for name in names for mark in LORA_KEYS):
        return LORA
    if any(name.endswith(weight_files.SCALES) for name in names):
        return "a file of scaled (fp8) weights, which are not supported yet"
    keys = {name.removeprefix(COMFYUI_PREFIX) for name in names}
    known = (description for key, description in SINGLE_FILES.items() if key in keys)
    description = next(known, "a single file of weights")
    return f"{description}; single files are not supported yet"


def describe(folder: Path) -> tuple[str, str]:
    """Return what a folder is, and what to do if it is not the usual remedy.

    Both are empty for an unknown folder, and for what a stopped download left.
    """
    if list_parts(folder):
        return "", ""
    for look in (_describe_cache, _describe_part, _describe_nested):
        if found := look(folder):
            return found
    return _describe_loose(folder), ""


def list_parts(folder: Path) -> list[str]:
    """List the subfolders that are parts of a diffusers model."""
    return [name for name in PARTS if (folder / name / "config.json").is_file()]


def _describe_cache(folder: Path) -> tuple[str, str] | None:
    """Describe the root of a hub cache, or of a model in it."""
    is_model = bool(hub.REPOSITORY.fullmatch(folder.name))
    models = [] if is_model else [_snapshot(place) for place in sorted(folder.glob("models--*"))]
    if snapshots := [snapshot for snapshot in models if snapshot]:
        example = shlex.quote(str(snapshots[0]))
        return (
            f"it is a hub cache of {len(models)} models",
            f"give one's snapshot, such as: {example}",
        )
    if not (folder / "snapshots").is_dir():
        return None
    snapshot = _snapshot(folder)
    if snapshot is None:
        return "it is a model in a hub cache, without any snapshot", ""
    return "it is a model in a hub cache", f"give its snapshot: {shlex.quote(str(snapshot))}"


def _snapshot(folder: Path) -> Path | None:
    """Return the snapshot of `main`, else the newest."""
    ref = folder / "refs" / "main"
    named = folder / "snapshots" / ref.read_text().strip() if ref.is_file() else None
    if named and named.is_dir():
        return named
    snapshots = sorted((folder / "snapshots").glob("*"), key=lambda place: place.stat().st_mtime)
    return snapshots[-1] if snapshots else None


def _describe_part(folder: Path) -> tuple[str, str] | None:
    """Describe one part of a diffusers folder."""
    if (folder / "config.json").is_file() and (folder.absolute().parent / INDEX).is_file():
        parent = shlex.quote(str(folder.absolute().parent))
        return "it is one part of a model", f"give the folder above it: {parent}"
    return None


def _describe_nested(folder: Path) -> tuple[str, str] | None:
    """Describe a folder that contains a diffusers folder."""
    inner = sorted(file.parent for file in folder.glob(f"*/{INDEX}"))
    if inner:
        return "a folder in it has one", f"give that folder: {shlex.quote(str(inner[0]))}"
    return None


def _describe_loose(folder: Path) -> str:
    """Describe a folder of single files."""
    names = {file.name for file in folder.iterdir()}
    suffixes = {Path(name).suffix for name in names}
    if names & set(LORA_FILES):
        return f"it is {LORA}"
    if "models" in names and (folder / "models").is_dir():
        names |= {file.name for file in (folder / "models").iterdir()}
    if len(names & set(COMFYUI_FOLDERS)) >= 2:
        return "it is a ComfyUI folder of single files, which are not supported yet"
    if suffixes & set(AUTHORS_SUFFIXES):
        return "it holds the authors' own files (.pth), which are pickles and never read"
    if ".gguf" in suffixes:
        return "it holds GGUF files of quantised weights, which are not supported yet"
    if single_files := sorted(name for name in names if name.endswith(".safetensors")):
        return f"its {single_files[0]} is {_describe_file(folder / single_files[0])}"
    if pickles := sorted(n for n in names if Path(n).suffix in weight_files.PICKLE_SUFFIXES):
        return f"its {pickles[0]} is {PICKLE}"
    return ""
