"""Write a checkpoint as an ordinary diffusers folder, with weights in half precision."""

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import nn

from ...base.errors import UserError
from .text import new_clip_vocabulary

# Optional parts of a pipeline that these checkpoints do not have.
ABSENT_PARTS = {
    "StableDiffusionPipeline": ("safety_checker", "feature_extractor", "image_encoder"),
    "WanPipeline": ("transformer_2",),
}
INDEX_SETTINGS = {"StableDiffusionPipeline": {"requires_safety_checker": False}}
# transformers writes these classes under other names, or under names that depend on what is installed
CLASS_NAMES = {"T5Tokenizer": "T5TokenizerFast", "CLIPImageProcessorPil": "CLIPImageProcessor"}


class Part(Protocol):
    """A part of a pipeline, which diffusers or transformers can load again."""

    def save_pretrained(self, save_directory: Path) -> object:
        """Write the part to a folder."""
        ...


def save_folder(out: Path, pipeline: str, parts: Mapping[str, object]) -> None:
    """Write each part to a folder of its name, and the index that the pipeline class reads. The parts do not change."""
    from diffusers import __version__

    index: dict[str, object] = {"_class_name": pipeline, "_diffusers_version": __version__}
    index |= INDEX_SETTINGS.get(pipeline, {})
    index |= {name: [None, None] for name in ABSENT_PARTS.get(pipeline, ())}
    for name, part in sorted(parts.items()):
        save_part(out / name, part)
        kind = type(part).__name__
        index[name] = [library_name(part), CLASS_NAMES.get(kind, kind)]
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def save_part(out: Path, part: object) -> None:
    """Write one part to its folder, a network in half precision. The part does not change."""
    if isinstance(part, nn.Module):
        copied: nn.Module = copy.deepcopy(part)
        part = copied.to("cpu", torch.float16)
    cast("Part", part).save_pretrained(out)
    remove_origin(out / "config.json")


def load_networks(folder: Path) -> nn.ModuleDict:
    """Load the networks of a checkpoint by name, in single precision."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    loaded = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    parts = loaded.components.items()
    return nn.ModuleDict({name: part for name, part in parts if isinstance(part, nn.Module)})


def prepare_folder(folder: Path, start: Path | None, pipeline: str) -> None:
    """Make a work folder, or check that an existing one started from the same checkpoint, or also from none.

    Raise UserError if it started from another one, because its encoded clips and stages would be reused, and if
    `start` is no checkpoint of that pipeline class.
    """
    digest = hashlib.sha256()
    if start:
        index = start / "model_index.json"
        name = json.loads(index.read_text())["_class_name"] if index.exists() else "no checkpoint"
        if name != pipeline:
            raise UserError(f"{start} holds {name}", f"--start takes a {pipeline}")
        for file in sorted(start.glob("*/*.safetensors")):
            digest.update(file.read_bytes())
    record, identity = folder / "began", digest.hexdigest()
    if folder.exists() and any(folder.glob("*.pt")):
        recorded = record.read_text() if record.exists() else hashlib.sha256().hexdigest()
        if recorded != identity:
            raise UserError(
                f"{folder} holds a training that started from another checkpoint",
                "use another folder",
            )
    folder.mkdir(parents=True, exist_ok=True)
    record.write_text(identity)


def remove_origin(config: Path) -> None:
    """Remove the folder that a part was loaded from from its configuration: it means nothing elsewhere."""
    if config.exists():
        content = json.loads(config.read_text())
        content.pop("_name_or_path", None)
        config.write_text(json.dumps(content, indent=2) + "\n")


def library_name(part: object) -> str:
    """Return the library that loads a part: diffusers or transformers."""
    return type(part).__module__.partition(".")[0]


def save_vocabulary(out: Path) -> None:
    """Write the two files of published CLIP tokenizers, next to the one that transformers writes today."""
    vocabulary, merges = new_clip_vocabulary()
    (out / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary, indent=0) + "\n")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (out / "tokenizer" / "merges.txt").write_text("\n".join(lines) + "\n")
