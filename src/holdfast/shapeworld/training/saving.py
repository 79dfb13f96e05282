"""Writing a checkpoint: an ordinary diffusers folder, weights in half precision."""

import copy
import hashlib
import json
from pathlib import Path

import torch
from torch import nn

from ...base.errors import UserError
from .text import new_clip_vocabulary

# A part that a pipeline can do without, and that is not here.
ABSENT = {
    "StableDiffusionPipeline": ("safety_checker", "feature_extractor", "image_encoder"),
    "WanPipeline": ("transformer_2",),
}
SETTINGS = {"StableDiffusionPipeline": {"requires_safety_checker": False}}
# transformers writes the one under the other's name, or under that of what it found installed
NAMES = {"T5Tokenizer": "T5TokenizerFast", "CLIPImageProcessorPil": "CLIPImageProcessor"}


def save_folder(out: Path, pipeline: str, parts: dict[str, object]) -> None:
    """Write each part to a folder of its name, and the index that the pipeline class reads. The parts stay."""
    from diffusers import __version__

    index: dict[str, object] = {
        "_class_name": pipeline,
        "_diffusers_version": __version__,
    } | SETTINGS.get(pipeline, {})
    index |= {name: [None, None] for name in ABSENT.get(pipeline, ())}
    for name, part in sorted(parts.items()):
        if isinstance(part, nn.Module):
            part = copy.deepcopy(part).to("cpu", torch.float16)
        part.save_pretrained(out / name)
        remove_origin(out / name / "config.json")
        kind = type(part).__name__
        index[name] = [library_name(part), NAMES.get(kind, kind)]
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def load_networks(folder: Path) -> nn.ModuleDict:
    """The networks of a written checkpoint by name, in single precision."""
    from diffusers import DiffusionPipeline

    loaded = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    parts = loaded.components.items()
    return nn.ModuleDict({name: part for name, part in parts if isinstance(part, nn.Module)})


def prepare_folder(folder: Path, start: Path | None, pipeline: str) -> None:
    """Make a work folder, or go on in one. What is in it belongs to where it began: to nothing, or to one checkpoint.

    Raises ValueError where it began elsewhere (its encoded clips and its stages would be taken for this one's), and
    where the start is no checkpoint of that pipeline class.
    """
    digest = hashlib.sha256()
    if start:
        index = start / "model_index.json"
        found = json.loads(index.read_text())["_class_name"] if index.exists() else "no checkpoint"
        if found != pipeline:
            raise UserError(f"{start} holds {found}; --start takes a {pipeline}")
        for file in sorted(start.glob("*/*.safetensors")):
            digest.update(file.read_bytes())
    mark, began = folder / "began", digest.hexdigest()
    if folder.exists() and any(folder.glob("*.pt")):
        known = mark.read_text() if mark.exists() else hashlib.sha256().hexdigest()
        if known != began:
            raise UserError(f"{folder} holds a training that began elsewhere: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(began)


def remove_origin(config: Path) -> None:
    """Take the folder that a part was loaded from out of its configuration: it means nothing elsewhere."""
    if config.exists():
        told = json.loads(config.read_text())
        told.pop("_name_or_path", None)
        config.write_text(json.dumps(told, indent=2) + "\n")


def library_name(part: object) -> str:
    """Which of the two libraries loads a part again."""
    return type(part).__module__.partition(".")[0]


def save_vocabulary(out: Path) -> None:
    """The two files that published CLIP tokenizers have, beside the one that transformers writes today."""
    vocabulary, merges = new_clip_vocabulary()
    (out / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary, indent=0) + "\n")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (out / "tokenizer" / "merges.txt").write_text("\n".join(lines) + "\n")
