"""Metrics: one file each. Every figure's name carries its variant: `name@variant/network`.

holdfast.measuring runs them.
"""

import importlib
from functools import cache, partial
from types import ModuleType

from .. import registry

names = partial(registry.modules, __name__)


def module(name: str) -> ModuleType:
    """The module of a metric. Raises ValueError with the nearest names."""
    return importlib.import_module(f"{__name__}.{registry.choose(name, names(), 'metric')}")


def better(figure: str) -> str:
    """Whether a figure is better "higher" or "lower"; "" where that is not known. By its `bare` name."""
    return _directions().get(bare(figure), "")


def bare(figure: str) -> str:
    """A figure's name without its variant and network."""
    return figure.split("@")[0].split("/")[0]


@cache
def _directions() -> dict[str, str]:
    found = {"seconds": "lower", "peak_memory_mb": "lower"}
    for name in names():
        found |= module(name).BETTER
    return found
