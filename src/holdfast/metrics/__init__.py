"""Metrics: one file each. Every figure's name carries its variant: `name@variant/network`. holdfast.measuring runs them."""

import importlib
from functools import cache
from types import ModuleType


def names() -> list[str]:
    from ..registry import modules

    return modules("holdfast.metrics")


def module(name: str) -> ModuleType:
    """The module of a metric. Raises ValueError with the nearest names."""
    from ..registry import choose

    return importlib.import_module(f"holdfast.metrics.{choose(name, names(), 'metric')}")


def better(figure: str) -> str:
    """Whether a figure is better "higher" or "lower"; "" where that is not known. By the part of its name before @ and /."""
    return _directions().get(figure.split("@")[0].split("/")[0], "")


@cache
def _directions() -> dict[str, str]:
    found = {"seconds": "lower", "peak_memory_mb": "lower"}
    for name in names():
        found |= module(name).BETTER
    return found
