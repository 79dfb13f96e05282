"""Find the safetensors files of a model's part, and read the names and shapes of its tensors from their headers.

Nothing is loaded.
"""

import math
from pathlib import Path
from typing import Any, TypeGuard

from ..base.errors import UserError
from .config_files import read_json, shorten

# Names of a single file or an index, in the order in which diffusers and transformers look for them.
PLAIN_NAMES = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
)
VARIANTS = ("fp32", "bf16", "fp16")  # of precision, the best first; full files come before all
FLOAT_DTYPES = {"F16", "BF16", "F32", "F64"}  # weights may have these; F64 is rounded
INTEGER_DTYPES = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}  # of positions
# Names of tensors that hold a scale of the weights next to them.
SCALES = ("scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant")
GET_FULL_WEIGHTS = "get the weights as float32, float16 or bfloat16"
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
LFS_POINTER = b"version https://git-lfs"  # the beginning of a file that Git LFS left
MIN_LIMIT = 2**20  # a number that any configuration may hold, however small its weights are


def weight_files(part: Path) -> list[Path]:
    """Return the safetensors files of a part: a single file, or those that its index names. Empty if it has neither.

    Full files come before variants of less precision; take the first whose files exist. Raise UserError for an index
    that is damaged.
    """
    return choose_weight_files(part)[1]


def choose_weight_files(part: Path) -> tuple[str, list[Path]]:
    """Return the name of a part's single file or index, and the files that it stands for."""
    chosen: tuple[str, list[Path]] = ("", [])
    for name in _possible_names():
        file = part / name
        if not file.is_file():
            continue
        files = _shards(file) if name.endswith(".json") else [file]
        if all(shard.is_file() for shard in files):
            return name, files
        chosen = chosen if chosen[0] else (name, files)
    return chosen


def _possible_names() -> list[str]:
    """List the names of single files and indices: as diffusers and transformers write a variant, then as people do."""
    names: list[str] = list(PLAIN_NAMES)
    for variant in VARIANTS:
        for plain in PLAIN_NAMES:
            stem, kind = plain.removesuffix(".json").removesuffix(".index").rsplit(".", 1)
            if plain.endswith(".json"):
                names.append(f"{stem}.{kind}.index.{variant}.json")
                names.append(f"{stem}.{variant}.{kind}.index.json")
                names.append(f"{stem}.{kind}.{variant}.index.json")
            else:
                names.append(f"{stem}.{variant}.{kind}")
    return names


def _shards(index: Path) -> list[Path]:
    """Return the files that an index names."""
    weight_map = read_json(index).get("weight_map")
    names = set(weight_map.values()) if is_name_table(weight_map) else set()
    if not names or any(Path(name).name != name for name in names):
        raise UserError(f"{index} is damaged: it does not say which file holds which tensor")
    return [_shard(index.parent / name) for name in sorted(names)]


def _shard(file: Path) -> Path:
    """Return a file that an index names, or its variant if only that exists."""
    if file.is_file():
        return file
    others = [file.with_suffix(f".{variant}{file.suffix}") for variant in VARIANTS]
    return next((other for other in others if other.is_file()), file)


def is_name_table(value: object) -> TypeGuard[dict[str, str]]:
    """Return whether a value is a table whose values are all texts."""
    return isinstance(value, dict) and all(isinstance(name, str) for name in value.values())


def missing_files(part: Path) -> list[str]:
    """Describe what a part lacks; empty if its weights are complete."""
    files = weight_files(part)
    if files:
        return [f"{part.name}/{file.name}" for file in files if not file.is_file()]
    if pickles := list_pickles(part):
        return [f"{part.name} except as {pickles[0].name}, a pickle"]
    if others := list_misnamed(part):
        return [f"{part.name} except as {others[0].name}"]
    return [part.name]


def list_pickles(part: Path) -> list[Path]:
    """List the files of a part that are pickles. They are never read, because they may hold code."""
    return [file for file in list_folder(part) if file.suffix in PICKLE_SUFFIXES]


def list_misnamed(part: Path) -> list[Path]:
    """List the safetensors files of a part, for a part where none of them has a name that is looked for."""
    return [file for file in list_folder(part) if file.suffix == ".safetensors"]


def list_folder(folder: Path) -> list[Path]:
    """List the entries of a folder by name; empty if there is no such folder."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def tensor_shapes(part: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a part, from the headers. Raise UserError for a file that is damaged."""
    return {name: tuple(tensor.get_shape()) for name, tensor in _tensors(part).items()}


def tensor_dtypes(part: Path) -> dict[str, str]:
    """Return the number format of every tensor of a part, such as BF16."""
    return {name: str(tensor.get_dtype()) for name, tensor in _tensors(part).items()}


def tensor_files(part: Path) -> dict[str, str]:
    """Return the name of the file that holds each tensor of a part."""
    return {name: file.name for file in weight_files(part) for name in tensor_names(file)}


def tensor_names(file: Path) -> list[str]:
    """Return the names of the tensors of a safetensors file."""
    return list(_read_header(file))


def _tensors(part: Path) -> dict[str, Any]:
    """Return what the headers say of each tensor of a part, by name."""
    tensors = {}
    for file in weight_files(part):
        tensors |= _read_header(file)
    if not tensors:
        raise UserError(f"{part} holds no tensor", "get its weights again")
    return tensors


def refuse_pointer(file: Path) -> None:
    """Raise UserError for a file that cannot be read, and for one that Git LFS left in place of a large file."""
    try:
        with file.open("rb") as stream:
            begin = stream.read(len(LFS_POINTER))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error})") from error
    if begin == LFS_POINTER:
        cause = f"{file} is a pointer that Git LFS left, not the weights"
        raise UserError(cause, "get them with git lfs pull, or with hf download")


def _read_header(file: Path) -> dict[str, Any]:
    """Return what the header of a safetensors file says of each tensor, by name."""
    from safetensors import SafetensorError, safe_open

    refuse_pointer(file)
    try:
        with safe_open(file, "np") as opened:
            return {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  not a dict
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        cause = f"{file} is damaged, so that it cannot be loaded ({error})"
        raise UserError(cause, "get it again") from error


def count_numbers(shapes: dict[str, tuple[int, ...]]) -> int:
    """Return how many numbers tensors have together."""
    return sum(math.prod(shape) for shape in shapes.values())


def check_plausible(part: Path) -> None:
    """Raise UserError if a configuration speaks of more than the part's files hold.

    Check it before a library counts or allocates by the configuration.
    """
    file, shapes = part / "config.json", tensor_shapes(part)
    config = read_json(file)
    refuse_quantised(part, config)
    _check_blocks(file, config)
    numbers, tensors = count_numbers(shapes), len(shapes)
    for name, number in _whole_numbers(config):
        counts_layers = "layers" in name or name.endswith("blocks")
        limit = tensors if counts_layers else max(numbers, MIN_LIMIT)
        if abs(number) > limit:
            raise UserError(
                f"{file} is damaged, or belongs to other weights: {name} is {shorten(number)}, "
                f"and the files next to it hold {tensors} tensors of {numbers} numbers"
            )


def refuse_quantised(part: Path, config: dict) -> None:
    """Raise UserError for weights that are scaled or rounded to few bits: a library would load them as they are.

    Whole numbers are allowed here, because some tensors count positions.
    """
    dtypes = tensor_dtypes(part)
    readable = FLOAT_DTYPES | INTEGER_DTYPES
    rounded = [name for name, dtype in sorted(dtypes.items()) if dtype not in readable]
    scales = sorted(name for name in dtypes if name.endswith(SCALES))
    quantisation = config.get("quantization_config")
    if rounded:
        cause = f"{part} holds {name_first(rounded)} as {dtypes[rounded[0]]}"
    elif scales:
        cause = f"{part} holds scaled weights ({name_first(scales)})"
    elif quantisation:
        is_table = isinstance(quantisation, dict)
        method = quantisation.get("quant_method") if is_table else quantisation
        cause = f"{part} is quantised, by its config.json ({shorten(method)})"
    else:
        return
    raise UserError(f"{cause}, which is not supported yet", GET_FULL_WEIGHTS)


def name_first(names: list[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0] + more


def _check_blocks(file: Path, config: dict) -> None:
    """Raise UserError if there are not as many kinds of blocks as widths.

    A library builds as many as either list says, and they do not fit together.
    """
    widths = config.get("block_out_channels")
    for name in ("down_block_types", "up_block_types"):
        kinds = config.get(name)
        if isinstance(widths, list) and isinstance(kinds, list) and len(kinds) != len(widths):
            raise UserError(
                f"{file} is damaged: {name} has {len(kinds)} entries, "
                f"and block_out_channels has {len(widths)}"
            )


def _whole_numbers(value: object, name: str = "") -> list[tuple[str, int]]:
    """Return all whole numbers of a configuration, each with the name of its entry."""
    if isinstance(value, int):
        return [(name, value)]
    entries: list[tuple[str, object]] = []
    if isinstance(value, list):
        entries = [(name, item) for item in value]
    if isinstance(value, dict):
        entries = list(value.items())
    return [number for key, item in entries for number in _whole_numbers(item, key)]
