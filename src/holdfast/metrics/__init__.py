"""Metrics, one file each. The name of every value carries its variant and network: `name@variant/network`.

`compare.py` runs them over a pair of clips.
"""

import importlib
from functools import cache
from typing import Literal

from ..base.names import choose, list_modules
from .base import Direction, MetricInfo

NOT_METRICS = {"base", "compare"}
RAW = "raw "  # begins the names of a benchmark's values of what a method left, before the mask put the source back


def names() -> list[str]:
    """Return the names of all metrics, which are the names of their modules."""
    return [name for name in list_modules(__name__) if name not in NOT_METRICS]


def find(name: str) -> MetricInfo:
    """Return the METRIC of a metric's module. Raise UserError with the nearest names if there is no such metric."""
    return importlib.import_module(f"{__name__}.{choose(name, names(), 'metric')}").METRIC


def direction(value_name: str) -> Direction | Literal[""]:
    """Return whether a "higher" or a "lower" value is better; "" if that is unknown."""
    return _directions().get(base_name(value_name), "")


def is_rate(value_name: str) -> bool:
    """Return whether a value is 0 or 1 for every clip, so that its mean is a rate."""
    return base_name(value_name) in _rates()


def base_name(value_name: str) -> str:
    """Return the name of a value without its variant and network, and without the mark of a raw clip."""
    return value_name.removeprefix(RAW).split("@")[0].split("/")[0]


@cache
def _directions() -> dict[str, Direction]:
    directions: dict[str, Direction] = {"seconds": "lower", "peak_memory_mb": "lower"}
    for name in names():
        directions |= find(name).directions
    return directions


@cache
def _rates() -> frozenset[str]:
    return frozenset().union(*(find(name).rates for name in names()))
