"""The registry of backbones: which ones there are, and what is known of one before it is loaded."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..base.names import choose, normalize
from . import calibration


def backbones() -> dict[str, ModuleType]:
    """Return every backbone's name with the module `spec` of its family, whose MODELS holds it. A family is a package
    in `holdfast.models` that has such a module. No weights are read, and nothing heavy is imported.
    """
    found = {}
    for family in pkgutil.iter_modules(importlib.import_module("holdfast.models").__path__):
        package = f"holdfast.models.{family.name}"
        if family.ispkg and importlib.util.find_spec(f"{package}.spec"):
            module = importlib.import_module(f"{package}.spec")
            found |= dict.fromkeys(module.MODELS, module)
    return found


def load_parts(name: str, weights: str | None, device: str, dtype: str):
    """Load the parts of a backbone by its family's adapter. Only safetensors are read. The VAE stays in float32."""
    spec = backbones()[name]
    adapter = importlib.import_module(spec.ADAPTER)
    return adapter.load(name, spec.MODELS[name], spec.find(name, weights), device, dtype)


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
    from . import spec
    from . import weights as _weights

    there = (folder / "vae" / "config.json").exists()
    return spec.space_of(_weights.config(folder, "vae")) if there else {}


def identify(name: str, weights: str | None = None) -> dict[str, Any] | None:
    """Describe the files that a backbone would be loaded from, without checking them; None where there are none, or no
    backbone of that name.
    """
    from . import identity

    known = backbones()
    same = {normalize(k): k for k in known}
    if normalize(name) not in same:
        return None
    name = same[normalize(name)]
    return identity.identify(known[name].MODELS[name], weights)


def weights_identity(name: str, weights: str | None = None) -> str | None:
    """Return what tells a backbone's files from others, so that a warm one is loaded again after they changed."""
    found = identify(name, weights)
    return found and found["identity"]


def identify_guide(name: str, guide: str | None = None) -> dict[str, Any] | None:
    """Describe the files of the model that may help a backbone: `guide` is NAME or NAME=FOLDER, else the card's own."""
    known = backbones()
    card = next((known[k].MODELS[k] for k in known if normalize(k) == normalize(name)), None)
    helper, _, weights = (guide or (card.guide if card else "")).partition("=")
    return identify(helper, weights or None) if helper else None


def load_backbone(name: str, weights: str | None = None, device: str = "auto", dtype: str = "auto"):
    """Load a backbone by name, from its own weights or from a folder or hub id of the same family.

    device: auto, cpu or cuda. dtype: auto (bfloat16 on a GPU, float32 on a CPU), bfloat16 or float32.
    Raises ValueError for an unknown name, Missing where the weights are not on this machine.
    """
    known = backbones()
    name = choose(name, known, "backbone")
    made = load_parts(name, weights, device, dtype)
    made.calibration = calibration.read(known[name].find(name, weights))
    made.weights = identify(name, weights)
    return made
