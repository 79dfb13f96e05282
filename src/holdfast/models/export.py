"""Write a backbone's weights as an ordinary diffusers folder, which diffusers itself loads."""

import shutil
import tempfile
from pathlib import Path

from ..base.errors import UserError
from . import registry
from .checkpoint import Checkpoint


def export(name: str, folder: str | Path, weights: str | None = None) -> Path:
    """Copy a backbone's checkpoint to a new folder, with the parts that it shares with another one. Return the folder.

    weights: a folder or a hub id in place of the backbone's own. The folder appears when it is complete. Raise
    UserError if it exists and is not empty, and as `registry.load_backbone` does.
    """
    if not registry.find_spec(name).weights:
        raise UserError(f"{name} has no weights", "name another backbone")
    checkpoint = registry.find_weights(name, weights)
    target = Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already", "name a folder that does not exist")
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.absolute().parent) as temporary:
        complete = Path(temporary) / target.name
        _copy(checkpoint, complete)
        if target.exists():
            target.rmdir()
        complete.rename(target)
    return target


def _copy(checkpoint: Checkpoint, target: Path) -> None:
    """Copy a checkpoint's folder and its shared parts. Links of the hub's cache become files."""
    shutil.copytree(checkpoint.folder, target)
    for part in checkpoint.shared_parts:
        if not (target / part).exists():
            shutil.copytree(checkpoint.part(part), target / part)
