"""What the files of a model's part say of themselves, read without loading anything: configurations within reason, and
the names and shapes in the headers of safetensors files.
"""

import json
import math
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.schema import Range

# Single file or index, in the order in which diffusers and transformers look for them.
PLAIN = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
)
VARIANTS = ("fp32", "bf16", "fp16")  # of precision, the best first; the full files come before all
READ = {"F16", "BF16", "F32", "F64"}  # kinds of numbers that weights may have; F64 is rounded
INTEGERS = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}  # of positions, say
# How tensors are called that the weights next to them have to be multiplied by.
SCALES = ("scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant")
FULL = "get the weights as float32, float16 or bfloat16"
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
POINTER = b"version https://git-lfs"  # how a file begins that stands for a large one
LARGEST = 16 * 2**20  # bytes of a JSON file: the index of the largest model is a hundredth of it
SMALL = 2**20  # a number that any configuration may hold, however small its weights are

# Numbers that are used before weights are looked at, or that a library counts up to: far from what any model has.
# Where both limits are whole numbers, so is what lies between.
LIMITS = {
    "num_train_timesteps": Range(2, 10**5),
    "beta_start": Range(1e-9, 0.999),
    "beta_end": Range(1e-9, 0.999),
    "steps_offset": Range(0, 1000),
    "flow_shift": Range(0.01, 1000),
    "shift": Range(0.01, 1000),
    "sigma_min": Range(1e-9, 1e6),
    "sigma_max": Range(1e-9, 1e6),
    "boundary_ratio": Range(0.0, 1.0),
    "scaling_factor": Range(1e-6, 1e6),
    "latents_mean": Range(),
    "latents_std": Range(1e-9, 1e9),
    "scale_factor_temporal": Range(1, 64),
    "scale_factor_spatial": Range(1, 256),
    "rope_max_seq_len": Range(1, 2**16),
    "patch_size": Range(1, 256),
    "block_out_channels": Range(1, 2**16),
    "latent_channels": Range(1, 2**16),
    "z_dim": Range(1, 2**16),
    "num_labels": Range(0, 10**4),
    "num_attention_heads": Range(1, 2**16),
    "num_heads": Range(1, 2**16),
    "norm_num_groups": Range(1, 2**16),
    "layers_per_block": Range(0, 1000),
    "downsample_padding": Range(0, 8),
    "freq_shift": Range(-10.0, 10.0),
    "mid_block_scale_factor": Range(1e-3, 1e3),
    "norm_eps": Range(0, 0.1),
    "layer_norm_eps": Range(0, 0.1),
    "layer_norm_epsilon": Range(0, 0.1),
    "eps": Range(0, 0.1),
    "addition_time_embed_dim": Range(1, 2**16),
    "dropout": Range(0.0, 1.0),
    "dropout_rate": Range(0.0, 1.0),
    "attention_dropout": Range(0.0, 1.0),
    "eos_token_id": Range(0, 10**7),
    "image_mean": Range(),
    "image_std": Range(1e-6, 1e6),
}
# How many numbers there may be in place of one; those of LISTS are never one.
MANY = dict.fromkeys(
    ("block_out_channels", "num_attention_heads", "layers_per_block", "norm_num_groups"), 16
)
MANY |= {"patch_size": 3, "latents_mean": 2**16, "latents_std": 2**16}
MANY |= {"image_mean": 3, "image_std": 3}
LISTS = {"block_out_channels", "latents_mean", "latents_std", "image_mean", "image_std"}


def read(file: Path) -> dict:
    """A JSON file of a checkpoint, within LIMITS. Raises ValueError where it is none."""
    if not file.is_file():
        raise UserError(f"{file.parent.parent} lacks {file.parent.name}/{file.name}")
    if file.stat().st_size > LARGEST:
        raise UserError(f"{file} is too large to describe a model: {file.stat().st_size} bytes")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} is not valid JSON of a model: it holds no table of names")
    for name in LIMITS.keys() & found.keys():
        _within(file, name, found[name])
    return found


def _within(file: Path, name: str, value: object) -> None:
    """Raises ValueError for a number, or one of a list, that cannot be meant."""
    if value is None:
        return
    listed = isinstance(value, list)
    if (listed and name not in MANY) or (not listed and name in LISTS):
        kind = "a list of numbers" if name in LISTS else "a number"
        raise UserError(f"{file} is damaged: {name} is {kind}, not {shown(value)}")
    numbers = value if listed else [value]
    if not 0 < len(numbers) <= MANY.get(name, 1):
        raise UserError(f"{file} is damaged: {name} has {len(numbers)} entries")
    limits = LIMITS[name]
    whole = isinstance(limits.low, int) and isinstance(limits.high, int)
    kinds = (int,) if whole else (int, float)
    for number in numbers:
        if type(number) not in kinds or number not in limits:
            what = "a whole number " if whole else ""
            raise UserError(f"{file} is damaged: {name} is {what}{limits}, not {shown(number)}")


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def files(part: Path) -> list[Path]:
    """The safetensors files of a part: one, or those that its index names; none where it has neither. The full ones
    come first, then variants of less precision; of all these the first whose files are there.

    Raises UserError for an index that cannot be used.
    """
    return choose(part)[1]


def choose(part: Path) -> tuple[str, list[Path]]:
    """The name of a part's single file or index, and the files that it stands for."""
    chosen: tuple[str, list[Path]] = ("", [])
    for name in _names():
        file = part / name
        if not file.is_file():
            continue
        held = _shards(file) if name.endswith(".json") else [file]
        if all(shard.is_file() for shard in held):
            return name, held
        chosen = chosen if chosen[0] else (name, held)
    return chosen


def _names() -> list[str]:
    """What single files and indices may be called: as diffusers and transformers write a variant, then as people do."""
    found = list(PLAIN)
    for variant in VARIANTS:
        for plain in PLAIN:
            stem, kind = plain.removesuffix(".json").removesuffix(".index").rsplit(".", 1)
            if plain.endswith(".json"):
                found.append(f"{stem}.{kind}.index.{variant}.json")
                found.append(f"{stem}.{variant}.{kind}.index.json")
                found.append(f"{stem}.{kind}.{variant}.index.json")
            else:
                found.append(f"{stem}.{variant}.{kind}")
    return found


def _shards(index: Path) -> list[Path]:
    places = read(index).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) and _texts(places) else set()
    if not names or any(Path(name).name != name for name in names):
        raise UserError(f"{index} is damaged: it does not say which file holds which tensor")
    return [_shard(index.parent / name) for name in sorted(names)]


def _shard(file: Path) -> Path:
    """A file that an index names, or its variant where that alone is there."""
    if file.is_file():
        return file
    others = [file.with_suffix(f".{variant}{file.suffix}") for variant in VARIANTS]
    return next((other for other in others if other.is_file()), file)


def _texts(places: dict) -> bool:
    return all(isinstance(name, str) for name in places.values())


def lacking(part: Path) -> list[str]:
    """What a part needs and has not, in words; nothing where its weights are all there."""
    found = files(part)
    if found:
        return [f"{part.name}/{file.name}" for file in found if not file.is_file()]
    if pickled := pickles(part):
        return [f"{part.name} but as {pickled[0].name}, a pickle"]
    if other := list_misnamed(part):
        return [f"{part.name} but as {other[0].name}"]
    return [part.name]


def pickles(part: Path) -> list[Path]:
    """The files of a part that are pickles, which are never read: they may hold code."""
    return [file for file in _inside(part) if file.suffix in PICKLES]


def list_misnamed(part: Path) -> list[Path]:
    """The safetensors files of a part under names that nobody looks for."""
    return [file for file in _inside(part) if file.suffix == ".safetensors"]


def _inside(part: Path) -> list[Path]:
    return sorted(part.iterdir()) if part.is_dir() else []


def shapes(part: Path) -> dict[str, tuple[int, ...]]:
    """Every tensor of a part by name, from the headers alone. Raises UserError for a file that is not whole."""
    return {name: tuple(tensor.get_shape()) for name, tensor in _tensors(part).items()}


def kinds(part: Path) -> dict[str, str]:
    """The kind of number of every tensor of a part, such as BF16."""
    return {name: str(tensor.get_dtype()) for name, tensor in _tensors(part).items()}


def places(part: Path) -> dict[str, str]:
    """The name of the file that holds each tensor."""
    return {name: file.name for file in files(part) for name in keys(file)}


def keys(file: Path) -> list[str]:
    """The names of a safetensors file's tensors."""
    return list(_read_header(file))


def _tensors(part: Path) -> dict[str, Any]:
    """What the headers say of each tensor, by name."""
    found = {name: tensor for file in files(part) for name, tensor in _read_header(file).items()}
    if not found:
        raise UserError(f"{part} holds no tensor: get its weights again")
    return found


def refuse_pointer(file: Path) -> None:
    """Raise UserError for a file that cannot be read, and for one that Git left in place of a large one."""
    try:
        with file.open("rb") as opened:
            begin = opened.read(len(POINTER))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error})") from error
    if begin == POINTER:
        cause = f"{file} is a pointer that Git LFS left, not the weights"
        raise UserError(cause, "get them with git lfs pull, or with hf download")


def _read_header(file: Path) -> dict[str, Any]:
    """What the header of a safetensors file says of each tensor, by name."""
    from safetensors import SafetensorError, safe_open

    refuse_pointer(file)
    try:
        with safe_open(file, "np") as opened:
            return {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  not a dict
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise UserError(
            f"{file} is damaged, so that it cannot be loaded ({error})", "get it again"
        ) from error


def size(found: dict[str, tuple[int, ...]]) -> int:
    """How many numbers tensors have together."""
    return sum(math.prod(shape) for shape in found.values())


def plausible(part: Path) -> None:
    """Raises ValueError for a configuration that speaks of more than the part's files hold, before a library counts or
    allocates by it.
    """
    file, found = part / "config.json", shapes(part)
    config = read(file)
    refuse_quantised(part, config)
    _blocks(file, config)
    most, layers = max(size(found), SMALL), len(found)
    for name, number in _numbers(config):
        counts = "layers" in name or name.endswith("blocks")
        limit = layers if counts else most
        if abs(number) > limit:
            raise UserError(
                f"{file} is damaged, or of other weights: {name} is {shown(number)}, "
                f"and the files beside it hold {layers} tensors of {size(found)} numbers"
            )


def refuse_quantised(part: Path, config: dict) -> None:
    """Raise UserError for weights that a library would take as they are, though they are scaled or rounded to few bits.

    Whole numbers are allowed here: some tensors count positions.
    """
    held = kinds(part)
    few = [name for name, kind in sorted(held.items()) if kind not in READ | INTEGERS]
    scales = sorted(name for name in held if name.endswith(SCALES))
    said = config.get("quantization_config")
    if few:
        cause = f"{part} holds {some(few)} as {held[few[0]]}"
    elif scales:
        cause = f"{part} holds scaled weights ({some(scales)})"
    elif said:
        how = said.get("quant_method") if isinstance(said, dict) else said
        cause = f"{part} says in its config.json that it is quantised ({shown(how)})"
    else:
        return
    raise UserError(f"{cause}, which is not read yet", FULL)


def some(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0] + more


def _blocks(file: Path, config: dict) -> None:
    """Raises ValueError for kinds of blocks that are not as many as their widths: a library makes as many as it is told
    of either, and they do not fit together.
    """
    widths = config.get("block_out_channels")
    for name in ("down_block_types", "up_block_types"):
        kinds = config.get(name)
        if isinstance(widths, list) and isinstance(kinds, list) and len(kinds) != len(widths):
            raise UserError(
                f"{file} is damaged: {name} has {len(kinds)} entries, and block_out_channels {len(widths)}"
            )


def _numbers(value: object, name: str = "") -> list[tuple[str, int]]:
    """All whole numbers of a configuration, with the names that they stand under."""
    if isinstance(value, int):
        return [(name, value)]
    inside = [(name, item) for item in value] if isinstance(value, list) else []
    if isinstance(value, dict):
        inside = list(value.items())
    return [number for under, item in inside for number in _numbers(item, under)]
