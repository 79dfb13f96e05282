"""Holdfast: edit videos with text prompts, without training. Everything outside the mask stays identical."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import methods as methods
    from . import models as backbones
    from .base.errors import MissingDependencyError, UserError
    from .conform.api import compare, keep
    from .conform.kept_clip import KeptClip
    from .models.registry import load_backbone
    from .pipeline.api import edit, edit_events
    from .pipeline.result import Result
    from .pipeline.task import EditTask

__version__ = "0.2.0"
__all__ = [
    "EditTask",
    "KeptClip",
    "MissingDependencyError",
    "Result",
    "UserError",
    "backbones",
    "compare",
    "edit",
    "edit_events",
    "keep",
    "load_backbone",
    "methods",
]
# Name: module that has it, or that it is. Nothing is imported before it is used.
_HOMES = {
    "EditTask": "pipeline.task",
    "KeptClip": "conform.kept_clip",
    "MissingDependencyError": "base.errors",
    "Result": "pipeline.result",
    "UserError": "base.errors",
    "backbones": "models",
    "compare": "conform.api",
    "edit": "pipeline.api",
    "edit_events": "pipeline.api",
    "keep": "conform.api",
    "load_backbone": "models.registry",
    "methods": "methods",
}


def __getattr__(name: str) -> Any:
    name = _present_name(name)
    if name not in _HOMES:
        raise AttributeError(f"module holdfast has no attribute {name!r}")
    module = importlib.import_module(f"holdfast.{_HOMES[name]}")
    return module if name in ("backbones", "methods") else getattr(module, name)


def _present_name(name: str) -> str:
    """Return the present name of a function of release 0.1, with a notice."""
    if name != "events":
        return name
    from .base.notices import warn_user
    from .base.old_names import describe_rename

    warn_user(describe_rename("events", "edit_events"))
    return "edit_events"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
