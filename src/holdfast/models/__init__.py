"""One adapter per model family. A module here offers MODELS (its backbones by name), find(), grid() and load()."""


def names() -> list[str]:
    """Names of all backbones."""
    from .registry import backbones

    return list(backbones())
