"""Observe what a method computes on its way: maps that explain an edit.

    with observing.observe_edit() as observations:
        ...  # run an edit

Outside such a block `observe` does nothing. What costs time to compute is computed only if `is_observed()`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

# maps on the CPU, b c f h w, by name and step
Observations: TypeAlias = "dict[str, dict[int, Tensor]]"
_observations: ContextVar[Observations | None] = ContextVar("observations", default=None)


def is_observed() -> bool:
    """Return whether someone observes the edit."""
    return _observations.get() is not None


def observe(name: str, step: int, values: Tensor) -> None:
    """Keep a map b c f h w of a step, if the edit is observed. The mean over the channels is kept, b 1 f h w.

    name: "GROUP" or "GROUP: PART"; the parts of a group are drawn together. Of several maps with one name and step, as
    the segments of a long clip have, the first is kept.
    """
    observations = _observations.get()
    if observations is not None:
        mean = values.detach().float().mean(1, keepdim=True).cpu()
        observations.setdefault(name, {}).setdefault(step, mean)


@contextlib.contextmanager
def observe_edit() -> Iterator[Observations]:
    """Observe the edits that run inside the block."""
    before, observations = _observations.get(), {}
    _observations.set(observations)
    try:
        yield observations
    finally:
        _observations.set(before)
