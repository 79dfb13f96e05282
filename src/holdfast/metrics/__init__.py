"""Metrics: one file each. Every figure's name carries its variant: `name@variant/network`.

holdfast.metrics.compare runs them.
"""

import importlib
from functools import cache
from types import ModuleType

from ..base.names import choose, list_modules


def names() -> list[str]:
    """List the names of all metrics."""
    return [name for name in list_modules(__name__) if name != "compare"]  # compare runs them


def module(name: str) -> ModuleType:
    """The module of a metric. Raises ValueError with the nearest names."""
    return importlib.import_module(f"{__name__}.{choose(name, names(), 'metric')}")


def better(figure: str) -> str:
    """Whether a figure is better "higher" or "lower"; "" where that is not known. By its `bare` name."""
    return _directions().get(bare(figure), "")


def is_rate(figure: str) -> bool:
    """Whether a figure is 0 or 1 for each clip, so that its mean is a rate. By its `bare` name."""
    return bare(figure) in _rates()


def bare(figure: str) -> str:
    """A figure's name without its variant and network."""
    return figure.split("@")[0].split("/")[0]


@cache
def _directions() -> dict[str, str]:
    found = {"seconds": "lower", "peak_memory_mb": "lower"}
    for name in names():
        found |= module(name).BETTER
    return found


@cache
def _rates() -> set[str]:
    return set().union(*(getattr(module(name), "RATES", ()) for name in names()))
