"""Read the JSON files of a checkpoint and refuse numbers that no model has, before any library counts up to them."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import UserError

MAX_BYTES = 16 * 2**20  # of a JSON file: the index of the largest model has a hundredth of it


@dataclass(frozen=True)
class Range:
    """The limits of a number, both included."""

    low: float = -math.inf
    high: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and math.isfinite(value)

    def __str__(self) -> str:
        if math.isinf(self.low):
            return "a number"
        return f"between {self.low:g} and {self.high:g}"


# Numbers that are used before the weights are read, or that a library counts up to. The limits are far from what any
# model has. Where both limits are whole numbers, the value is one too.
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
# Names whose value may be a list, and its greatest length.
MAX_ENTRIES: dict[str, int] = dict.fromkeys(
    ("block_out_channels", "num_attention_heads", "layers_per_block", "norm_num_groups"), 16
)
MAX_ENTRIES |= {"patch_size": 3, "latents_mean": 2**16, "latents_std": 2**16}
MAX_ENTRIES |= {"image_mean": 3, "image_std": 3}
# Names whose value is always a list.
LISTS = {"block_out_channels", "latents_mean", "latents_std", "image_mean", "image_std"}


def read_json(file: Path) -> dict:
    """Return the values of a JSON file of a checkpoint. Raise UserError if it is invalid or exceeds LIMITS."""
    if not file.is_file():
        raise UserError(f"{file.parent.parent} lacks {file.parent.name}/{file.name}")
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"{file} is too large to describe a model: {size} bytes")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} is not valid JSON of a model: it holds no table of names")
    for name in LIMITS.keys() & values.keys():
        _check_limits(file, name, values[name])
    return values


def _check_limits(file: Path, name: str, value: object) -> None:
    """Raise UserError for a number, or a number of a list, outside its limits."""
    if value is None:
        return
    numbers: list[Any] = value if isinstance(value, list) else [value]
    _check_list(file, name, value, len(numbers))
    limits = LIMITS[name]
    is_whole = isinstance(limits.low, int) and isinstance(limits.high, int)
    kinds = (int,) if is_whole else (int, float)
    for number in numbers:
        if type(number) not in kinds or float(number) not in limits:
            noun = "a whole number " if is_whole else ""
            raise UserError(f"{file} is damaged: {name} is {noun}{limits}, not {shorten(number)}")


def _check_list(file: Path, name: str, value: object, count: int) -> None:
    """Raise UserError for a list in place of a number, a number in place of a list, and a list that is too long."""
    is_list = isinstance(value, list)
    if (is_list and name not in MAX_ENTRIES) or (not is_list and name in LISTS):
        noun = "a list of numbers" if name in LISTS else "a number"
        raise UserError(f"{file} is damaged: {name} is {noun}, not {shorten(value)}")
    if not 0 < count <= MAX_ENTRIES.get(name, 1):
        raise UserError(f"{file} is damaged: {name} has {count} entries")


def shorten(value: object) -> str:
    """Return the text of a value, at most 40 characters long."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
