"""A hub cache as a download leaves it, with the published configurations and files of weights that take no room."""

import json
import struct
from pathlib import Path

from holdfast.models import published, registry

# What SOURCES did not find of a repository, and which sister's values stand in for it in these tests.
STAND_INS = {("wan2.2-t2v-a14b", "scheduler/scheduler_config.json"): "wan2.2-i2v-a14b"}
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "F8_E4M3": 1, "U8": 1}


def header_only(file: Path, shapes: dict[str, tuple], kind: str = "F32") -> Path:
    """A safetensors file with these tensors, all zero: a hole in the file, which no disk has to hold."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin = end
        end += SIZES[kind]
        for side in shape:
            end += (end - begin) * (side - 1)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + end)
    return file


def some_weights(file: Path) -> Path:
    """Enough tensors, and numbers in them, for any published configuration to be plausible."""
    shapes = {f"layer.{i}": (1,) for i in range(99)} | {"large": (10**9,)}
    return header_only(file, shapes)


def known_backbones() -> dict[str, published.PublishedRepository]:
    """The backbones whose repository's files are known."""
    found = {}
    for name, card in registry.specs().items():
        known = published.find_repository(card.weights) if card.download_gb else None
        if known:
            found[name] = known
    return found


def values(known: published.PublishedRepository, path: str) -> dict | None:
    name = next(n for n in published.names() if published.read(n) is known)
    sister = STAND_INS.get((name, path))
    return published.read(sister).values(path) if sister else known.values(path)


def write(root: Path, name: str) -> Path:
    """Put a backbone's published repository into a hub cache; its snapshot."""
    card, known = registry.specs()[name], known_backbones()[name]
    place = root / f"models--{card.weights.replace('/', '--')}"
    snapshot = place / "snapshots" / known.revision
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(known.revision)
    paths = ["model_index.json", "scheduler/scheduler_config.json"]
    paths += [f"{part}/config.json" for part in card.parts]
    paths += [path for path in known.files if path.startswith("feature_extractor")]
    for path in paths:
        file = snapshot / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values(known, path)))
    for part in card.parts:
        stem = "model" if part.endswith("encoder") else "diffusion_pytorch_model"
        some_weights(snapshot / part / f"{stem}.safetensors")
    if "text_encoder" in card.parts:
        (snapshot / "tokenizer").mkdir()
        (snapshot / "tokenizer" / "tokenizer.json").write_text("{}")
    return snapshot
