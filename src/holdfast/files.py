"""Files that are whole or not there: published under their name when they are finished; JSON; the store of latents."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .step import Step


def publish(part: Path, path: Path) -> None:
    """Give a finished file its name, once it is on the disk: existence means complete, after a power cut too."""
    if part.is_file():
        with part.open("rb+") as file:
            os.fsync(file.fileno())
    part.replace(path)


def as_json(data: dict) -> str:
    """JSON that every reader takes: an infinite figure becomes "inf"."""
    return json.dumps(_finite(data), indent=2)


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def write_json(path: Path, data: dict) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(as_json(data) + "\n")
    publish(part, path)


def save_tensors(path: Path, tensors: "Mapping[str, Tensor]", about: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all. Raises OSError where it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # A state may be the latent itself, and safetensors refuses two names for one memory.
    tensors = {name: value.contiguous().clone() for name, value in tensors.items()}
    part = path.with_name(path.name + ".part")
    try:
        save_file(tensors, part, dict(about))
    except SafetensorError as error:
        raise OSError(f"could not save {path}: {error}") from error
    publish(part, path)


def load_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """The tensors of a safetensors file and what it says of itself. Raises ValueError where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it to start over") from error


@dataclass(frozen=True)
class Store:
    """Latents on disk beside a result, bound to one task by its key."""

    path: Path
    key: str
    # name: tensor. What a run found out before its first step, saved with every one
    found: dict = field(default_factory=dict)

    def save(self, step: "Step") -> None:
        tensors = {"z": step.z}
        tensors |= {f"state.{name}": value for name, value in step.state.items()}
        tensors |= {f"found.{name}": value for name, value in self.found.items()}
        about = {
            "key": self.key,
            "stage": step.stage,
            "index": str(step.index),
            "count": str(step.count),
        }
        save_tensors(self.path, tensors, about)

    def load(self) -> "tuple[Step, dict] | None":
        """The saved step and what was found before it; None where nothing was saved.

        Raises ValueError where the file cannot be read, or belongs to another task.
        """
        from .step import Step

        if not self.path.exists():
            return None
        tensors, about = load_tensors(self.path)
        if about.get("key") != self.key:
            raise ValueError(
                f"{self.path} was saved by another task or other settings; delete it, or run without --resume"
            )
        step = Step(
            about["stage"],
            int(about["index"]),
            int(about["count"]),
            tensors["z"],
            _under("state.", tensors),
        )
        return step, _under("found.", tensors)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _under(prefix: str, tensors: dict) -> dict:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
