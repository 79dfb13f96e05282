"""Holdfast: training-free video editing by words. What you did not name holds fast."""

__version__ = "0.1.0"
__all__ = ["EditTask", "backbones", "edit", "load_backbone", "methods"]


def edit(
    input,
    source,
    target,
    method="flowedit",
    backbone="wan2.1-1.3b",
    mask=None,
    seed=0,
    settings=None,
):
    """Edit a clip by two prompts. Returns a Result: `result.save("out.mp4")`, `result.preservation`, `result.frames()`.

    input, mask: paths. backbone: a name, or one loaded with load_backbone. settings: of the method, and any other
    field of EditTask by its name. Raises ValueError for bad input, registry.Missing for weights that are not here.
    """
    import dataclasses

    from .editing import edit as run_edit
    from .task import EditTask

    fields = {f.name for f in dataclasses.fields(EditTask)}
    settings = dict(settings or {})
    twice = {"input", "source", "target", "method", "backbone", "mask", "seed", "settings"}
    if twice.intersection(settings):
        names = ", ".join(sorted(twice.intersection(settings)))
        raise ValueError(f"give {names} as an argument of edit(), not in settings")
    task = {k: settings.pop(k) for k in list(settings) if k in fields}
    loaded = None if isinstance(backbone, str) else backbone
    task |= {
        "input": str(input),
        "source": source,
        "target": target,
        "method": method,
        "backbone": backbone if loaded is None else backbone.name,
        "seed": seed,
        "mask": None if mask is None else str(mask),
        "settings": settings,
    }
    return run_edit(EditTask.from_dict({"output": ""} | task), loaded)


def load_backbone(name, weights=None, device="auto", dtype="auto"):
    """Load a backbone by name: see holdfast.registry.load_backbone."""
    from .registry import load_backbone

    return load_backbone(name, weights, device, dtype)


def __getattr__(name: str):
    import importlib

    if name == "EditTask":
        return importlib.import_module("holdfast.task").EditTask
    if name in ("methods", "backbones"):  # packages: their names() lists what there is
        return importlib.import_module(f"holdfast.{name}")
    raise AttributeError(f"module holdfast has no attribute {name!r}")
