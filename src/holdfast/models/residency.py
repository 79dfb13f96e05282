"""Which parts of a backbone are on the device during which stage of an edit.

A part moves to the device when a stage first needs it. An encoder leaves it after its stage. A part whose placement is
"swapped" leaves it when a stage begins that does not need it. A streamed part never moves: its blocks do, by hooks.
On the CPU nothing moves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from ..base.lazy import nn, torch
from ..base.memory import return_freed_memory
from .placement import DEFAULT, STREAMED, Placements

Stage = Literal["encode", "condition", "denoise", "decode"]
ENCODERS = frozenset({"text_encoder", "image_encoder"})  # the denoiser needs their room


class Residency:
    """Move a backbone's parts. parts: the backbone's own dict, which may gain parts later."""

    def __init__(self, parts: dict[str, nn.Module], placements: Placements = DEFAULT):
        self.parts, self.placements = parts, placements
        self.arrived: set[str] = set()  # parts that were moved to the device

    def is_streamed(self, name: str) -> bool:
        """Return whether a part computes block by block."""
        return self.placements.of(name) in STREAMED

    @contextlib.contextmanager
    def use(self, names: Sequence[str], device: torch.device) -> Iterator[None]:
        """Have parts on the device inside the block. Encoders leave it afterwards."""
        self.begin(names, device)
        try:
            yield
        finally:
            for name in ENCODERS.intersection(names):
                self.leave(name)
            if device.type == "cpu" and not self.placements.is_default:
                return_freed_memory()  # the next stage needs it

    def begin(self, names: Sequence[str], device: torch.device) -> None:
        """Have parts on the device from now on, and swapped parts that are not named off it."""
        for name in self._list_swappable() - set(names):
            self.leave(name)
        for name in names:
            self.arrive(name, device)

    def arrive(self, name: str, device: torch.device) -> None:
        """Move a part to the device, unless it is there."""
        if name not in self.arrived and not self.is_streamed(name):
            self.parts[name].to(device)
            self.arrived.add(name)

    def leave(self, name: str) -> None:
        """Move a part to the CPU."""
        self.arrived.discard(name)
        if name in self.parts and not self.is_streamed(name):
            self.parts[name].to("cpu")

    def _list_swappable(self) -> set[str]:
        return {name for name in self.arrived if self.placements.of(name) == "swapped"}


def prepare_parts(parts: Mapping[str, nn.Module | None]) -> dict[str, nn.Module]:
    """Return the parts that are not None, frozen, for inference. They move to the device when a stage needs them."""
    present = {name: part for name, part in parts.items() if part is not None}
    for part in present.values():
        part.eval().requires_grad_(False)
    return present


def find_device(parts: Mapping[str, nn.Module]) -> torch.device:
    """Return the device of some parts, encoders aside; the CPU if there are none."""
    for name, part in parts.items():
        for parameter in part.parameters():
            if name not in ENCODERS:
                return parameter.device
    return torch.device("cpu")
