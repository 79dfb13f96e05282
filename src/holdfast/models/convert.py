"""Convert the .bin files of a diffusers folder, which are pickles, to safetensors next to them.

They are unpickled without running any code (torch's weights_only).
"""

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import MissingDependencyError, UserError
from ..base.files import write_json, write_tensors
from . import downloads, hub, registry, weight_files
from .checkpoint import INDEX
from .config_files import read_json

if TYPE_CHECKING:
    from torch import Tensor

# Names of a part's files without suffix: as pickles, and as safetensors.
STEMS = {"diffusion_pytorch_model": "diffusion_pytorch_model", "pytorch_model": "model"}
# Globs of any repository's small files and pickles.
PICKLE_FILES = ["*.json", "*.txt", "*.model", "*model.bin", "*model-*.bin"]


# Torch's message about a pickle that needs more than tensors.
NEEDS_CODE = re.compile(r"Unsupported (?:global: GLOBAL|class) (\S+)")


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written."""

    file: Path
    bytes: int
    tensors: int


def convert(place: str) -> Iterator[WrittenFile]:
    """Write the safetensors of all parts that exist as .bin files only. Yield each file when it is complete.

    place: a diffusers folder, or the hub id of one in the hub's cache. Raise UserError for another place and for a
    pickle that needs code, and MissingDependencyError for a hub id that is not on this machine.
    """
    folder = _find_folder(place)
    for part in list_parts(folder):
        if not weight_files.weight_files(part):
            yield from _convert_part(part)


def _find_folder(place: str) -> Path:
    folder = Path(place).expanduser()
    if not folder.exists():
        cached = hub.find_cached(place)
        if cached is None:
            cause = f"the weights {place} are not on this machine"
            raise MissingDependencyError(cause, f"get them with: {_download_command(place)}")
        folder = cached
    if not (folder / INDEX).is_file():
        cause = f"{folder} is not a diffusers folder: it has no {INDEX}"
        raise UserError(cause, "give a folder that has one")
    return folder


def _download_command(place: str) -> str:
    """Return how to get a backbone's own weights, or any repository's small files and pickles."""
    for spec in registry.specs().values():
        if spec.weights == place:
            return downloads.plan_download(spec).command
    return hub.download_command(place, PICKLE_FILES)


def list_parts(folder: Path) -> list[Path]:
    """List the subfolders of a model's parts that some backbone loads."""
    names = {part for spec in registry.specs().values() for part in spec.parts}
    return [folder / name for name in sorted(names) if (folder / name).is_dir()]


def _convert_part(part: Path) -> Iterator[WrittenFile]:
    for stem, new_stem in STEMS.items():
        for variant in ("", *(f".{v}" for v in weight_files.VARIANTS)):
            single = part / f"{stem}{variant}.bin"
            index = part / f"{stem}.bin.index{variant}.json"
            if single.is_file():
                yield _convert_file(single, part / f"{new_stem}{variant}.safetensors")
                return
            if index.is_file():
                yield from _convert_shards(index, stem, new_stem)
                return
    if pickles := weight_files.list_pickles(part):
        known = " or ".join(f"{stem}.bin" for stem in STEMS)
        raise UserError(
            f"{part} holds {pickles[0].name}, and diffusers writes {known}",
            "rename it if it holds this part's weights",
        )


def _convert_shards(index: Path, stem: str, new_stem: str) -> Iterator[WrittenFile]:
    """Convert all files that an index names, and write the new index last."""
    values = read_json(index)
    weight_map = values.get("weight_map")
    if not weight_files.is_name_table(weight_map):
        raise UserError(f"{index} is damaged: it does not say which file holds which tensor")
    names = {name: _rename(name, stem, new_stem) for name in sorted(set(weight_map.values()))}
    for name, new in names.items():
        if Path(name).name != name or not (index.parent / name).is_file():
            cause = f"{index.parent} lacks {name}, which {index.name} names"
            raise UserError(cause, "get it again")
        yield _convert_file(index.parent / name, index.parent / new)
    # Last: without the index, a reader finds no part of a conversion that was stopped.
    new_map = {tensor: names[name] for tensor, name in weight_map.items()}
    new_index = index.with_name(_rename(index.name, stem, new_stem))
    write_json(new_index, {"metadata": values.get("metadata", {}), "weight_map": new_map})


def _rename(name: str, stem: str, new_stem: str) -> str:
    return name.replace(stem, new_stem, 1).replace(".bin", ".safetensors", 1)


def _convert_file(source: Path, target: Path) -> WrittenFile:
    tensors = _unshare(_read_tensors(source))
    write_tensors(target, tensors, {"format": "pt"})
    return WrittenFile(target, target.stat().st_size, len(tensors))


def _read_tensors(file: Path) -> dict[str, "Tensor"]:
    """Return the tensors of a pickle. Raise UserError if it needs code or holds anything else."""
    values = _unpickle(file)
    if isinstance(values, Mapping) and isinstance(values.get("state_dict"), Mapping):
        values = values["state_dict"]
    if not isinstance(values, Mapping) or not values or not all(map(_is_tensor, values.values())):
        raise UserError(f"{file} holds no table of tensors", "give a diffusers folder's weights")
    return {str(name): tensor for name, tensor in values.items()}


def _unpickle(file: Path) -> Any:
    from .loading import blame_folder

    weight_files.refuse_pointer(file)
    try:
        with blame_folder(f"{file} is damaged, or is not a file of weights", _unpickle_known):
            return _load(file)
    except UserError as error:
        match = NEEDS_CODE.search(str(error.__cause__))
        if not match:
            raise
        cause = f"{file} needs code to be unpickled ({match[1]}), and code in a file is never run"
        raise UserError(cause, "get the weights as safetensors") from error


def _load(source: Any) -> Any:
    import torch

    return torch.load(source, map_location="cpu", weights_only=True)


def _unpickle_known() -> None:
    """Unpickle a file that is known to be good."""
    import torch

    stream = io.BytesIO()
    torch.save({"weight": torch.zeros(1)}, stream)
    stream.seek(0)
    _load(stream)


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def _unshare(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Return the same tensors, each with its own memory: safetensors cannot share it."""
    seen, found = set(), {}
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        is_alone = pointer not in seen and tensor.is_contiguous()
        is_alone = is_alone and tensor.untyped_storage().nbytes() == tensor.nbytes
        found[name] = tensor.detach() if is_alone else tensor.detach().clone().contiguous()
        seen.add(pointer)
    return found
