"""Find a ControlNet on this machine, or say what is missing and how to get it. Nothing is downloaded or loaded."""

from pathlib import Path

from ..base.errors import MissingDependencyError, UserError
from . import hub, weight_files
from .checkpoint import EMBEDDED, class_name
from .config_files import read_json
from .spec import BackboneSpec

CLASS = "ControlNetModel"
FILES = ("config.json", "diffusion_pytorch_model.safetensors")
FOLDER = f"a ControlNet's folder has config.json of class {CLASS} and safetensors"


def find_controlnet(spec: BackboneSpec, name: str) -> Path:
    """Return the folder of a ControlNet.

    name: what it reads (canny, hed, depth), for the one that is known for the backbone; a folder; or a hub id. Raise
    UserError for a folder of another kind, MissingDependencyError for one that is not on this machine.
    """
    place = spec.controlnets.get(name, name)
    folder = _local_folder(place)
    if folder is None:
        folder = _find_cached(place)
    _check_folder(folder)
    return folder


def _local_folder(place: str) -> Path | None:
    for folder in (EMBEDDED / place, Path(place).expanduser()):
        if folder.is_dir():
            return folder
    return None


def _find_cached(place: str) -> Path:
    if hub.split_revision(place)[0].count("/") != 1:
        raise UserError(
            f"there is no ControlNet {place!r}", "give canny, hed, depth, a folder or a hub id"
        )
    folder = hub.find_cached(place)
    if folder is None or weight_files.missing_files(folder):
        command = hub.download_command(place, FILES)
        raise MissingDependencyError(
            f"the ControlNet {place} is not on this machine", f"get it with: {command}"
        )
    return folder


def _check_folder(folder: Path) -> None:
    """Raise UserError for a folder that holds no ControlNet, or not all of it."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json", FOLDER)
    kind = class_name(read_json(folder / "config.json"))
    if kind != CLASS:
        raise UserError(f"{folder} holds a {kind or 'network without a class'}", FOLDER)
    missing = weight_files.missing_files(folder)
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)} (only safetensors are read)", FOLDER)
