"""Make safetensors of a diffusers folder's .bin files, which are pickles. They are unpickled without running any code
(torch's weights_only), and the safetensors are written next to them.
"""

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Missing, UserError
from ..base.files import write_json, write_tensors
from . import downloads, headers, hub, registry

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model_index.json"
# How a part's files are called as pickles, and as safetensors.
NAMES = {"diffusion_pytorch_model": "diffusion_pytorch_model", "pytorch_model": "model"}


# What torch says of a pickle that needs more than tensors.
NEEDS_CODE = re.compile(r"Unsupported (?:global: GLOBAL|class) (\S+)")


@dataclass(frozen=True)
class Written:
    """A file that was written."""

    file: Path
    bytes: int
    tensors: int


def convert(place: str) -> Iterator[Written]:
    """Write the safetensors of all parts that are there as .bin files alone. Yields each file once it is whole.

    place: a diffusers folder, or the hub id of one in the hub's cache. Raises UserError for what is none and for a
    pickle that needs code, Missing for a hub id that is not on this machine.
    """
    folder = _folder(place)
    for part in parts(folder):
        if not headers.files(part):
            yield from _convert_part(part)


def _folder(place: str) -> Path:
    folder = Path(place).expanduser()
    if not folder.exists():
        found = hub.cached(place)
        if found is None:
            get = _download_command(place)
            raise Missing(f"the weights {place} are not on this machine; get them with: {get}")
        folder = found
    if not (folder / INDEX).is_file():
        raise UserError(
            f"{folder} is not a diffusers folder: it has no {INDEX}", "give one that has"
        )
    return folder


def _download_command(place: str) -> str:
    """How to get a backbone's own weights, or any repository's small files and its pickles."""
    for name, module in registry.backbones().items():
        if module.MODELS[name].weights == place:
            return downloads.download(module.MODELS[name]).command
    return hub.command(place, ["*.json", "*.txt", "*.model", "*model.bin", "*model-*.bin"])


def parts(folder: Path) -> list[Path]:
    """The folders of a model's parts that some backbone loads."""
    known = {
        part for name, module in registry.backbones().items() for part in module.MODELS[name].parts
    }
    return [folder / name for name in sorted(known) if (folder / name).is_dir()]


def _convert_part(part: Path) -> Iterator[Written]:
    for stem, plain in NAMES.items():
        for variant in ("", *(f".{v}" for v in headers.VARIANTS)):
            single = part / f"{stem}{variant}.bin"
            index = part / f"{stem}.bin.index{variant}.json"
            if single.is_file():
                yield _convert_file(single, part / f"{plain}{variant}.safetensors")
                return
            if index.is_file():
                yield from _convert_shards(index, stem, plain)
                return
    if found := headers.pickles(part):
        raise UserError(
            f"{part} holds {found[0].name}, and diffusers writes {' or '.join(f'{n}.bin' for n in NAMES)}",
            "rename it if it holds this part's weights",
        )


def _convert_shards(index: Path, stem: str, plain: str) -> Iterator[Written]:
    """All files that an index names, and last the index of what was written."""
    held = headers.read(index)
    places = held.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise UserError(f"{index} is damaged: it does not say which file holds which tensor")
    names = {name: _rename(name, stem, plain) for name in sorted(set(places.values()))}
    for name, new in names.items():
        if Path(name).name != name or not (index.parent / name).is_file():
            raise UserError(
                f"{index.parent} lacks {name}, which {index.name} names", "get it again"
            )
        yield _convert_file(index.parent / name, index.parent / new)
    # Last: without it, a reader sees none of a conversion that was stopped.
    new_map = {tensor: names[name] for tensor, name in places.items()}
    new_index = index.with_name(_rename(index.name, stem, plain))
    write_json(new_index, {"metadata": held.get("metadata", {}), "weight_map": new_map})


def _rename(name: str, stem: str, plain: str) -> str:
    return name.replace(stem, plain, 1).replace(".bin", ".safetensors", 1)


def _convert_file(source: Path, target: Path) -> Written:
    tensors = _unshare(_tensors(source))
    write_tensors(target, tensors, {"format": "pt"})
    return Written(target, target.stat().st_size, len(tensors))


def _tensors(file: Path) -> dict[str, "Tensor"]:
    """What a pickle of weights holds. Raises UserError for one that needs code, and for other things than tensors."""
    held = _unpickle(file)
    if isinstance(held, Mapping) and isinstance(held.get("state_dict"), Mapping):
        held = held["state_dict"]
    if not isinstance(held, Mapping) or not held or not all(map(_is_tensor, held.values())):
        raise UserError(f"{file} holds no table of tensors", "give a diffusers folder's weights")
    return {str(name): tensor for name, tensor in held.items()}


def _unpickle(file: Path) -> Any:
    from .parts import blame_folder

    headers.refuse_pointer(file)
    try:
        with blame_folder(f"{file} is damaged, or no file of weights", _unpickle_known):
            return _load(file)
    except UserError as error:
        found = NEEDS_CODE.search(str(error.__cause__))
        if not found:
            raise
        cause = f"{file} needs code to be unpickled ({found[1]}), and no code in it is run"
        raise UserError(cause, "get the weights as safetensors") from error


def _load(source: Any) -> Any:
    import torch

    return torch.load(source, map_location="cpu", weights_only=True)


def _unpickle_known() -> None:
    import torch

    held = io.BytesIO()
    torch.save({"weight": torch.zeros(1)}, held)
    held.seek(0)
    _load(held)


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def _unshare(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The same tensors, each with memory of its own: safetensors has no shared ones."""
    seen, found = set(), {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        is_own = place not in seen and tensor.is_contiguous()
        is_own = is_own and tensor.untyped_storage().nbytes() == tensor.nbytes
        found[name] = tensor.detach() if is_own else tensor.detach().clone().contiguous()
        seen.add(place)
    return found
