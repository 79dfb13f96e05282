"""Names: what a package offers, and the known name that a typed one means."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable

from .errors import UserError


def list_modules(package: str) -> list[str]:
    """List the modules of a package, without private ones and the contract (`base`)."""
    folder = importlib.import_module(package).__path__
    return sorted(
        m.name
        for m in pkgutil.iter_modules(folder)
        if not m.name.startswith("_") and m.name != "base"
    )


def normalize(name: str) -> str:
    """Return a name for comparison: `FlowEdit`, `flow-edit` and `flow_edit` are the same."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def choose(name: str, known: Iterable[str], what: str) -> str:
    """Return the known name that is meant. Raise UserError with the nearest names.

    what: what a message calls such a name, "method".
    """
    known = list(known)
    same = {normalize(k): k for k in known}
    if normalize(name) not in same:
        raise UserError(f"unknown {what} {name!r}", suggest(name, known))
    return same[normalize(name)]


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a remedy for an unknown name: the nearest names, or all of them where none is near."""
    same = {normalize(k): k for k in known}
    near = [same[n] for n in difflib.get_close_matches(normalize(name), same, n=3, cutoff=0.5)]
    return (
        f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(same.values())}"
    )
