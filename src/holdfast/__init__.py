"""Holdfast: training-free video editing by words. Outside the mask, what you did not name holds fast."""

__version__ = "0.2.0"
__all__ = ["EditTask", "backbones", "edit", "events", "load_backbone", "methods"]


def load_backbone(name, weights=None, device="auto", dtype="auto"):
    """Load a backbone by name: see holdfast.models.registry.load_backbone."""
    from .models.registry import load_backbone

    return load_backbone(name, weights, device, dtype)


def __getattr__(name: str):
    import importlib

    if name in ("edit", "events"):
        return getattr(importlib.import_module("holdfast.pipeline.api"), name)
    if name == "EditTask":
        return importlib.import_module("holdfast.pipeline.task").EditTask
    if name in ("methods", "backbones"):  # packages: their names() lists what there is
        room = {"methods": "methods", "backbones": "models"}[name]
        return importlib.import_module(f"holdfast.{room}")
    raise AttributeError(f"module holdfast has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
