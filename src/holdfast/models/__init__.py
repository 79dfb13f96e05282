"""Backbones: one package per model family, with its constants in `spec.py` and its adapter in `adapter.py`."""


def names() -> list[str]:
    """List the names of all backbones."""
    from .registry import specs

    return list(specs())
