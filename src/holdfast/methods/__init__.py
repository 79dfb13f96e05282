"""One module per paper; its name is the method's. Each offers NEEDS, Config and the generator edit()."""

import importlib
from collections.abc import Iterable
from types import ModuleType

from ..base.names import choose, list_modules


def names() -> list[str]:
    """List the names of all methods."""
    return list_modules(__name__)


def load(name: str) -> ModuleType:
    """Return the module of a method. Raise UserError with the nearest names."""
    return importlib.import_module(f"{__name__}.{choose(name, names(), 'method')}")


def list_compatible(capabilities: Iterable[str]) -> list[str]:
    """List the methods that need nothing but these capabilities of a model."""
    return [name for name in names() if set(capabilities) >= load(name).NEEDS]
