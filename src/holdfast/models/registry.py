"""The module name is the registry: find what a package folder offers, and answer a wrong name with the nearest ones."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from . import calibration
from .errors import UserError


def modules(package: str) -> list[str]:
    """Names of the modules in a package, leaving out private ones and the contracts."""
    folder = importlib.import_module(package).__path__
    return sorted(
        m.name
        for m in pkgutil.iter_modules(folder)
        if not m.name.startswith("_") and m.name != "base"
    )


def plain(name: str) -> str:
    """`FlowEdit`, `flow-edit` and `flow_edit` are the same name."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def choose(name: str, known: Iterable[str], what: str) -> str:
    """The known name that is meant. Raises ValueError with the nearest ones."""
    known = list(known)
    same = {plain(k): k for k in known}
    if plain(name) in same:
        return same[plain(name)]
    near = [same[n] for n in difflib.get_close_matches(plain(name), same, n=3, cutoff=0.5)]
    hint = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(known)}"
    raise UserError(f"no {what} is called {name!r}; {hint}")


def method(name: str) -> ModuleType:
    """The module of a method: it has NEEDS, Config and edit."""
    return importlib.import_module(
        f"holdfast.methods.{choose(name, modules('holdfast.methods'), 'method')}"
    )


def backbones() -> dict[str, ModuleType]:
    """Every backbone's name, with the module whose MODELS holds it. No weights are looked at, and nothing heavy is
    imported.
    """
    found = {}
    for name in modules("holdfast.backbones"):
        module = importlib.import_module(f"holdfast.backbones.{name}")
        found |= dict.fromkeys(module.MODELS, module)
    return found


@dataclass(frozen=True)
class Unloaded:
    """What is known of a backbone before it is loaded. A loaded one has the same."""

    name: str
    grid: Any  # backbones.base.Grid
    carries: frozenset[str]
    prefers: Mapping[str, Any]
    guide: str  # the name of an image model over the same latents
    space: Mapping[str, Any]  # what its latents are
    calibration: Any  # calibration.Calibration: what was measured of these weights


def about(name: str, weights: str | None = None) -> Unloaded:
    """Describe a backbone by its card and its weights' configuration. Raises as `load_backbone` does."""
    known = backbones()
    name = choose(name, known, "backbone")
    module = known[name]
    card = module.MODELS[name]
    folder = module.find(name, weights)
    grid, space = module.grid(name, folder), _space(folder)
    measured = calibration.read(folder)
    return Unloaded(name, grid, card.carries, card.prefers, card.guide, space, measured)


def folder_of(name: str, weights: str | None = None) -> Path:
    """Where a backbone's weights are. Raises as `load_backbone` does."""
    known = backbones()
    name = choose(name, known, "backbone")
    return known[name].find(name, weights)


def _space(folder: Path) -> dict[str, Any]:
    """Of a backbone that comes as a diffusers folder; nothing is known of another's."""
    from .backbones import _cards, _weights

    there = (folder / "vae" / "config.json").exists()
    return _cards.space_of(_weights.config(folder, "vae")) if there else {}


def identify(name: str, weights: str | None = None) -> dict[str, Any] | None:
    """Describe the files that a backbone would be loaded from, without checking them; None where there are none, or no
    backbone of that name.
    """
    from .backbones import _identity

    known = backbones()
    same = {plain(k): k for k in known}
    if plain(name) not in same:
        return None
    name = same[plain(name)]
    return _identity.identify(known[name].MODELS[name], weights)


def weights_identity(name: str, weights: str | None = None) -> str | None:
    """Return what tells a backbone's files from others, so that a warm one is loaded again after they changed."""
    found = identify(name, weights)
    return found and found["identity"]


def identify_guide(name: str, guide: str | None = None) -> dict[str, Any] | None:
    """Describe the files of the model that may help a backbone: `guide` is NAME or NAME=FOLDER, else the card's own."""
    known = backbones()
    card = next((known[k].MODELS[k] for k in known if plain(k) == plain(name)), None)
    helper, _, weights = (guide or (card.guide if card else "")).partition("=")
    return identify(helper, weights or None) if helper else None


def fitting(carries: Iterable[str]) -> list[str]:
    """Names of the methods that need nothing but what a backbone carries."""
    return [n for n in modules("holdfast.methods") if set(carries) >= method(n).NEEDS]


def load_backbone(name: str, weights: str | None = None, device: str = "auto", dtype: str = "auto"):
    """Load a backbone by name, from its own weights or from a folder or hub id of the same family.

    device: auto, cpu or cuda. dtype: auto (bfloat16 on a GPU, float32 on a CPU), bfloat16 or float32.
    Raises ValueError for an unknown name, Missing where the weights are not on this machine.
    """
    known = backbones()
    name = choose(name, known, "backbone")
    made = known[name].load(name, weights, device, dtype)
    made.calibration = calibration.read(known[name].find(name, weights))
    made.weights = identify(name, weights)
    return made
