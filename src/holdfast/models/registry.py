"""The registry of backbones: which ones exist, and what is known of one before it is loaded."""

import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.names import choose, normalize
from ..media.clip_format import ClipFormat
from . import calibration, identity
from .calibration import Calibration
from .checkpoint import Checkpoint
from .family import DiffusersFamily, Family
from .placement import DEFAULT, Placements
from .spec import BackboneSpec, latent_space

if TYPE_CHECKING:
    from .base import Backbone

ENTRY_POINTS = "holdfast.backbones"  # group in which an installed package names its families
_registered: list[Family] = []


def register(family: Family) -> None:
    """Add a family from outside the package to the backbones of this process. Doing it again changes nothing."""
    if family not in _registered:
        _registered.append(family)


def unregister(family: Family) -> None:
    """Remove a family that `register` added."""
    _registered.remove(family)


def backbones() -> dict[str, Family]:
    """Return every backbone's name with its family. No weights are read, and nothing heavy is imported.

    A family is the FAMILY of `holdfast.models.PACKAGE.spec`, or of an installed package that names it under the entry
    point group `holdfast.backbones`, or one that was registered.
    """
    families = [*_own_families(), *_installed_families(), *_registered]
    return {name: family for family in families for name in family.specs}


@functools.cache
def _own_families() -> tuple[Family, ...]:
    families = []
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        package = f"holdfast.models.{module.name}"
        if module.ispkg and importlib.util.find_spec(f"{package}.spec"):
            families.append(importlib.import_module(f"{package}.spec").FAMILY)
    return tuple(families)


@functools.cache
def _installed_families() -> tuple[Family, ...]:
    return tuple(entry.load() for entry in metadata.entry_points(group=ENTRY_POINTS))


def specs() -> dict[str, BackboneSpec]:
    """Return the constants of every backbone by name."""
    return {name: family.specs[name] for name, family in backbones().items()}


def choose_backbone(name: str) -> tuple[str, Family]:
    """Return a backbone's name as it is registered, and its family. Raise UserError with the nearest names."""
    families = backbones()
    name = choose(name, families, "backbone")
    return name, families[name]


def find_spec(name: str) -> BackboneSpec:
    """Return the constants of a backbone. Raise UserError with the nearest names."""
    name, family = choose_backbone(name)
    return family.specs[name]


@dataclass(frozen=True)
class BackboneInfo:
    """What is known of a backbone before it is loaded. A loaded backbone has the same attributes."""

    name: str
    clip_format: ClipFormat
    capabilities: frozenset[str]
    recommended: Mapping[str, Any]
    image_model: str  # name of an image model over the same latents
    latent_space: Mapping[str, Any]
    calibration: Calibration


def describe_backbone(name: str, weights: str | None = None) -> BackboneInfo:
    """Describe a backbone by its constants and its weights' configurations. Raise as `load_backbone` does."""
    name, family = choose_backbone(name)
    spec, checkpoint = family.specs[name], family.find(name, weights)
    return BackboneInfo(
        name,
        family.clip_format(name, checkpoint),
        spec.capabilities,
        spec.recommended,
        spec.image_model,
        _latent_space(checkpoint),
        calibration.read(checkpoint),
    )


def _latent_space(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the latent space of a diffusers folder; empty for other checkpoints."""
    has_vae = checkpoint.file("vae/config.json").exists()
    return latent_space(checkpoint.config("vae")) if has_vae else {}


def find_weightless(is_suitable: Callable[[Collection[str]], bool]) -> str | None:
    """Return a backbone without weights whose capabilities are suitable; None if there is none."""
    for name, spec in specs().items():
        if not spec.weights and is_suitable(spec.capabilities):
            return name
    return None


def find_weights(name: str, weights: str | None = None) -> Checkpoint:
    """Return a backbone's checkpoint. Raise as `load_backbone` does."""
    name, family = choose_backbone(name)
    return family.find(name, weights)


def identify(name: str, weights: str | None = None) -> dict[str, Any] | None:
    """Describe the files that a backbone would be loaded from, without checking them.

    Return None if they are not on this machine, or if no backbone has that name.
    """
    families = backbones()
    known = next((k for k in families if normalize(k) == normalize(name)), None)
    checkpoint = families[known].locate(known, weights) if known else None
    if known is None or checkpoint is None:
        return None
    return identity.identify(checkpoint, families[known].specs[known].parts)


def weights_identity(name: str, weights: str | None = None) -> str | None:
    """Return the identity of a backbone's files, so that a loaded one can be replaced after they change."""
    files = identify(name, weights)
    return files["identity"] if files else None


def identify_image_model(name: str, image_model: str | None = None) -> dict[str, Any] | None:
    """Describe the files of a backbone's image model.

    image_model: NAME or NAME=FOLDER; None for the one in the backbone's constants.
    """
    spec = next((s for known, s in specs().items() if normalize(known) == normalize(name)), None)
    chosen = image_model or (spec.image_model if spec else "")
    other, _, weights = chosen.partition("=")
    return identify(other, weights or None) if other else None


def load_backbone(
    name: str,
    weights: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    placements: Placements = DEFAULT,
) -> "Backbone":
    """Load a backbone by name, from its own weights or from a folder or hub id of the same family.

    device: auto, cpu, cuda, cuda:N, xpu, xpu:N or mps. dtype: auto (float32 on a CPU, bfloat16 on a GPU that has it,
    else float16), bfloat16, float16 or float32. Only safetensors are read, and a VAE stays in float32. placements:
    where its parts are; a family from outside the package has its own way. Raise UserError for an unknown name or
    weights that do not fit, and MissingDependencyError for weights that are not on this machine.
    """
    name, family = choose_backbone(name)
    checkpoint = family.find(name, weights)
    if isinstance(family, DiffusersFamily):
        backbone = family.load(name, checkpoint, device, dtype, placements)
    else:
        backbone = family.load(name, checkpoint, device, dtype)
    backbone.calibration = calibration.read(checkpoint)
    backbone.weights = identify(name, weights)
    return backbone
