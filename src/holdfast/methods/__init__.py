"""Methods: one module or package per paper, whose name is the method's. Each has METHOD, Config and `edit`."""

import importlib
from collections.abc import Collection
from types import ModuleType

from ..base.names import choose, list_modules


def names() -> list[str]:
    """Return the names of all methods."""
    return list_modules(__name__)


def load(name: str) -> ModuleType:
    """Return the module of a method. Raises UserError for an unknown name, with the nearest ones."""
    return importlib.import_module(f"{__name__}.{choose(name, names(), 'method')}")


def list_compatible(capabilities: Collection[str]) -> list[str]:
    """Return the names of the methods that need nothing but these capabilities of a backbone."""
    return [name for name in names() if not load(name).METHOD.missing(capabilities)]
