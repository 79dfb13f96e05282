"""Drive a method's generator: count evaluations, report progress, save on the way, stop and go on again at any step."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from .video import publish

SAVE_EVERY = 20.0  # seconds between two saves of a running edit


@dataclass(frozen=True)
class Step:
    """Where an edit stands after an update: all that going on from there needs.

    index: the next step to do; count: how many there are; z: the edited latent, 1 c f h w; state: named tensors that the
    method needs besides.
    """

    index: int
    count: int
    z: Tensor
    state: dict[str, Tensor]


def resumed(start: Step | None, z: Tensor, first: int) -> tuple[Tensor, int, dict[str, Tensor]]:
    """The latent, step index and state to begin with: those of `start`, or a fresh latent at step `first`."""
    return (z, first, {}) if start is None else (start.z, start.index, start.state)


class Cancelled(Exception):
    """The user stopped a run; what was done is saved."""


class Metered:
    """A velocity field that counts its evaluations and their time."""

    def __init__(self, field):
        self.field, self.evaluations, self.seconds = field, 0, 0.0
        self.levels, self.door = field.levels, field.door

    def velocity(self, z: Tensor, sigma: float, condition, *, branch: str) -> Tensor:
        begin = time.perf_counter()
        result = self.field.velocity(z, sigma, condition, branch=branch)
        self.seconds += time.perf_counter() - begin
        self.evaluations += 1
        return result


@dataclass(frozen=True)
class Store:
    """Latents on disk beside a result: written whole or not at all, and bound to one task by its key."""

    path: Path
    key: str
    keep: dict[str, Tensor] = field(default_factory=dict)  # saved beside every step: what a run found out before its first one

    def save(self, step: Step) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {"z": step.z, **{f"state.{k}": v for k, v in step.state.items()}}
        tensors |= {f"keep.{k}": v for k, v in self.keep.items()}
        metadata = {"key": self.key, "index": str(step.index), "count": str(step.count)}
        part = self.path.with_name(self.path.name + ".part")
        try:
            save_file({k: v.contiguous().clone() for k, v in tensors.items()}, part, metadata)  # a state may be the latent itself
        except SafetensorError as error:
            raise OSError(f"could not save {self.path}: {error}") from error
        publish(part, self.path)

    def load(self) -> Step | None:
        """The saved step, or None where there is none. Raises ValueError where it belongs to another task."""
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{self.path} cannot be read ({error}); delete it to start over") from error
        if metadata["key"] != self.key:
            raise ValueError(f"{self.path} was saved by another task or other settings; delete it, or run without --resume")
        state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
        return Step(int(metadata["index"]), int(metadata["count"]), tensors["z"], state)

    def kept(self, name: str) -> Tensor | None:
        """What an earlier run kept; None where there is none. `load` says whether it is this task's."""
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                return file.get_tensor(f"keep.{name}") if f"keep.{name}" in file.keys() else None  # noqa: SIM118
        except SafetensorError:
            return None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def drive(steps: Iterator[Step], start: Step, store: Store | None = None, progress: Callable[[int, int], None] | None = None) -> Step:
    """Run a method to its end and return the last step, saved. `start` is what stands if it yields nothing at all.

    progress(done, count) is called after every step. On Ctrl-C the last finished step is saved and Cancelled raised.
    """
    step, saved = None, time.monotonic()
    try:
        for step in steps:
            if progress:
                progress(step.index, step.count)
            if store and time.monotonic() - saved > SAVE_EVERY:
                store.save(step)
                saved = time.monotonic()
    except KeyboardInterrupt as error:
        if store and step:
            store.save(step)
        where = f"after step {step.index} of {step.count}" if step else "before a step was done"
        raise Cancelled(f"stopped {where}") from error
    step = step or start
    if store:
        store.save(step)  # before anything is decoded: an edit is never lost to what comes after it
    return step


def as_json(data: dict) -> str:
    """JSON that every reader takes: an infinite figure becomes "inf"."""

    def finite(value):
        if isinstance(value, dict):
            return {k: finite(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(v) for v in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(data), indent=2)


def write_json(path: Path, data: dict) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(as_json(data) + "\n")
    publish(part, path)
