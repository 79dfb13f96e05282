"""What the files of a model's part say of themselves, read without loading anything: configurations within reason, and
the names and shapes in the headers of safetensors files.
"""

import json
import math
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..settings import Range

# Single file or index, in the order in which diffusers and transformers look for them.
WHOLE = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
)
FLOATS = ("F", "BF")  # how the kinds of a safetensors header begin that hold fractions
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
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
        raise UserError(f"{file} is damaged: {name} is {kind}, not {_shown(value)}")
    numbers = value if listed else [value]
    if not 0 < len(numbers) <= MANY.get(name, 1):
        raise UserError(f"{file} is damaged: {name} has {len(numbers)} entries")
    limits = LIMITS[name]
    whole = isinstance(limits.low, int) and isinstance(limits.high, int)
    kinds = (int,) if whole else (int, float)
    for number in numbers:
        if type(number) not in kinds or number not in limits:
            what = "a whole number " if whole else ""
            raise UserError(f"{file} is damaged: {name} is {what}{limits}, not {_shown(number)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def files(part: Path) -> list[Path]:
    """The safetensors files of a part: one, or those that its index names; none where it has neither.

    Raises ValueError for an index that cannot be used.
    """
    for name in WHOLE:
        file = part / name
        if file.is_file():
            return _shards(file) if name.endswith(".json") else [file]
    return []


def _shards(index: Path) -> list[Path]:
    places = read(index).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) and _texts(places) else set()
    if not names or any(Path(name).name != name for name in names):
        raise UserError(f"{index} is damaged: it does not say which file holds which tensor")
    return [index.parent / name for name in sorted(names)]


def _texts(places: dict) -> bool:
    return all(isinstance(name, str) for name in places.values())


def lacking(part: Path) -> list[str]:
    """What a part needs and has not, in words; nothing where its weights are all there."""
    found = files(part)
    if found:
        return [f"{part.name}/{file.name}" for file in found if not file.is_file()]
    inside = sorted(part.iterdir()) if part.is_dir() else []
    pickles = [file.name for file in inside if file.suffix in PICKLES]
    return [f"{part.name} but as {pickles[0]}, a pickle" if pickles else part.name]


def shapes(part: Path) -> dict[str, tuple[int, ...]]:
    """Every tensor of a part by name, from the headers alone. Raises ValueError for a file that is not whole."""
    return {name: tuple(tensor.get_shape()) for name, tensor in _tensors(part).items()}


def whole_numbers(part: Path) -> set[str]:
    """Names of the tensors that hold no fractions, as weights that were made smaller do."""
    kinds = {name: str(tensor.get_dtype()) for name, tensor in _tensors(part).items()}
    return {name for name, kind in kinds.items() if not kind.startswith(FLOATS)}


def _tensors(part: Path) -> dict[str, Any]:
    """What the headers say of each tensor, by name."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Any] = {}
    for file in files(part):
        try:
            with safe_open(file, "np") as opened:
                for name in opened.keys():  # noqa: SIM118  not a dict
                    found[name] = opened.get_slice(name)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{file} is damaged, so that it cannot be loaded ({error}); get it anew"
            ) from error
    if not found:
        raise UserError(f"{part} holds no tensor; get its weights anew")
    return found


def size(found: dict[str, tuple[int, ...]]) -> int:
    """How many numbers tensors have together."""
    return sum(math.prod(shape) for shape in found.values())


def plausible(part: Path) -> None:
    """Raises ValueError for a configuration that speaks of more than the part's files hold, before a library counts or
    allocates by it.
    """
    file, found = part / "config.json", shapes(part)
    config = read(file)
    _blocks(file, config)
    most, layers = max(size(found), SMALL), len(found)
    for name, number in _numbers(config):
        counts = "layers" in name or name.endswith("blocks")
        limit = layers if counts else most
        if abs(number) > limit:
            raise UserError(
                f"{file} is damaged, or of other weights: {name} is {_shown(number)}, "
                f"and the files beside it hold {layers} tensors of {size(found)} numbers"
            )


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
