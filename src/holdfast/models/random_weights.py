"""Write a model of a published architecture with random weights, to try a machine before a long download.

Names, shapes and shards are those that the published configuration makes; the numbers are random and small, so that
every layer's output stays finite.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from ..base.errors import UserError
from . import checkpoint, published, registry
from .checkpoint import INDEX, SCHEDULER, class_name
from .family import DiffusersFamily
from .spec import BackboneSpec
from .weight_files import PLAIN_NAMES

SHARD_BYTES = 5 * 10**9  # diffusers and transformers split larger files
BUFFER_NUMBERS = 2**24
SCALE = 0.02  # standard deviation of the numbers
DTYPES = {"bfloat16": (torch.bfloat16, "BF16", 2), "float32": (torch.float32, "F32", 4)}
TOKENS = 512  # that the tokenizer of a rehearsal takes at once


@dataclass(frozen=True)
class RandomModel:
    """A published architecture. shapes: of each part's tensors; configs: of all JSON files by path."""

    name: str
    spec: BackboneSpec
    family: DiffusersFamily
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    configs: Mapping[str, dict[str, Any]]

    def count_bytes(self, dtype: str) -> int:
        """Return the size of its files, where a VAE is float32."""
        return sum(
            _item(part, dtype) * count_numbers(shapes) for part, shapes in self.shapes.items()
        )


def count_numbers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return how many numbers tensors hold together."""
    return sum(map(math.prod, shapes.values()))


def describe_model(name: str) -> RandomModel:
    """Return the published architecture of a backbone, without memory for its weights.

    Raise UserError for a backbone whose published configuration is not known.
    """
    name, family = registry.choose_backbone(name)
    spec = family.specs[name]
    is_known = published.find_repository(spec.weights) is not None or not spec.download_gb
    if not isinstance(family, DiffusersFamily) or not is_known:
        known = [n for n, s in registry.specs().items() if published.find_repository(s.weights)]
        raise UserError(
            f"the published configuration of {name} is not known", f"use {', '.join(known)}"
        )
    configs = _read_configs(spec, family)
    parts = spec.parts or family.parts
    shapes = {part: _tensor_shapes(configs[f"{part}/config.json"]) for part in parts}
    return RandomModel(name, spec, family, shapes, configs)


def _read_configs(spec: BackboneSpec, family: DiffusersFamily) -> dict[str, dict[str, Any]]:
    """Return the JSON files of a model, from the published ones, or from the family's embedded model."""
    embedded = _embedded_folder(family)
    repository = published.find_repository(spec.weights)
    names = [INDEX, SCHEDULER, *(f"{part}/config.json" for part in spec.parts or family.parts)]
    if repository is None:
        return {name: json.loads((embedded / name).read_text()) for name in names}
    values = {name: repository.values(name) for name in names}
    values[INDEX] = values[INDEX] or {"_class_name": family.pipelines[0]}
    if values[SCHEDULER] is None:
        values[SCHEDULER] = json.loads((embedded / SCHEDULER).read_text())
    return {name: value for name, value in values.items() if value is not None}


def _embedded_folder(family: DiffusersFamily) -> Path:
    spec = next(spec for spec in family.specs.values() if not spec.download_gb)
    return checkpoint.EMBEDDED / spec.weights


def _tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a part's tensors, by building it without memory."""
    import diffusers
    import transformers

    name = class_name(config)
    with torch.device("meta"):
        if "_class_name" in config:
            module: nn.Module = getattr(diffusers, name).from_config(config)
        else:
            cls = getattr(transformers, name)
            module = cls(cls.config_class.from_dict(config))
    return {key: tuple(value.shape) for key, value in module.named_parameters()}


def _item(part: str, dtype: str) -> int:
    return DTYPES["float32" if part == "vae" else dtype][2]


def write_model(model: RandomModel, folder: Path, dtype: str) -> None:
    """Write a model as a diffusers folder. dtype: bfloat16 or float32, of all parts but the VAE."""
    folder.mkdir(parents=True, exist_ok=True)
    write_configs(model, folder)
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(BUFFER_NUMBERS, generator=generator) * SCALE
    for part, shapes in model.shapes.items():
        own = "float32" if part == "vae" else dtype
        _write_part(folder / part, shapes, own, numbers)


def write_configs(model: RandomModel, folder: Path) -> None:
    """Write everything but the weights: JSON files, and the tokenizer of the family's embedded model."""
    for name, values in model.configs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values))
    embedded = _embedded_folder(model.family)
    for name in ("tokenizer", "feature_extractor"):
        if (embedded / name).is_dir():
            shutil.copytree(embedded / name, folder / name, dirs_exist_ok=True)
    file = folder / "tokenizer" / "tokenizer_config.json"
    if file.is_file() and "text_encoder" in model.shapes and "transformer" in model.shapes:
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": TOKENS}))


def _write_part(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, numbers: torch.Tensor
) -> None:
    """Write a part's tensors in files of at most SHARD_BYTES, with an index where there are several."""
    torch_dtype, label, item = DTYPES[dtype]
    content = memoryview(numbers.to(torch_dtype).view(torch.uint8).numpy().tobytes())
    shards = list(_split(shapes, item))
    is_network = "_class_name" in json.loads((folder / "config.json").read_text())
    stem = "diffusion_pytorch_model" if is_network else "model"
    assert f"{stem}.safetensors" in PLAIN_NAMES
    files, count = {}, len(shards)
    for number, names in enumerate(shards, 1):
        file = (
            f"{stem}.safetensors" if count == 1 else f"{stem}-{number:05}-of-{count:05}.safetensors"
        )
        with (folder / file).open("wb") as stream:
            _write_tensors(stream, {n: shapes[n] for n in names}, (label, item), content)
        files |= dict.fromkeys(names, file)
    if count > 1:
        index = {"metadata": {}, "weight_map": files}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def _split(shapes: Mapping[str, tuple[int, ...]], item: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        own = item * math.prod(shape)
        if names and size + own > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += own
    yield names


def _write_tensors(
    stream: BinaryIO,
    shapes: Mapping[str, tuple[int, ...]],
    kind: tuple[str, int],
    content: memoryview,
) -> None:
    """Write a safetensors file whose values are those of a buffer, again and again."""
    label, item = kind
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + item * math.prod(shape)
        header[name] = {"dtype": label, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for begin in range(0, end, len(content)):
        stream.write(content[: min(len(content), end - begin)])
