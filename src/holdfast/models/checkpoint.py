"""The folder of a model's weights, with the configurations of its parts. Nothing is loaded."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .config_files import read_json

EMBEDDED = Path(__file__).parent.parent / "shapeworld" / "checkpoints"
# What each class uses for a value that its configuration omits. tests/configurations.py writes the file from the
# classes themselves: importing them takes seconds, which a mistyped flag should not cost.
DEFAULTS_FILE = Path(__file__).parent / "defaults.json"
INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A diffusers folder: one subfolder for each part of a model.

    shared_parts: parts that this folder lacks because another embedded checkpoint stores them, as
    {"vae": "NAME/vae"}.
    """

    folder: Path
    shared_parts: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.folder)

    def part(self, name: str) -> Path:
        """Return the folder of a part. It may not exist."""
        own = self.folder / name
        if name in self.shared_parts and not own.exists():
            return EMBEDDED / self.shared_parts[name]
        return own

    def file(self, name: str) -> Path:
        """Return the path of a file, "PART/FILE" or "FILE". It may not exist."""
        part, _, rest = name.partition("/")
        return self.part(part) / rest

    def index(self) -> dict[str, Any]:
        """Return the values of model_index.json: the parts' classes, and the pipeline's settings."""
        return read_json(self.folder / INDEX)

    def config(self, part: str) -> dict[str, Any]:
        """Return a part's configuration, with its class's defaults for the values that the file omits.

        Raise UserError if the file is missing or damaged.
        """
        file = SCHEDULER if part == "scheduler" else f"{part}/config.json"
        values = read_json(self.file(file))
        return class_defaults(class_name(values) or self._class_in_index(part)) | values

    def _class_in_index(self, part: str) -> str:
        if not (self.folder / INDEX).is_file():
            return ""
        entry = self.index().get(part)
        return entry[1] if isinstance(entry, list) and len(entry) == 2 and entry[1] else ""

    def tensor_files(self) -> dict[PurePosixPath, Path]:
        """Return the safetensors files of all parts, by "PART/FILE" in order."""
        folders = {path.name: path for path in self.folder.glob("*")}
        folders |= {name: self.part(name) for name in self.shared_parts}
        files = {
            PurePosixPath(name, file.name): file
            for name, folder in folders.items()
            for file in folder.glob("*.safetensors")
        }
        return dict(sorted(files.items()))


def class_name(config: Mapping[str, Any]) -> str:
    """Return the class that a configuration names; empty if it names none."""
    names = config.get("_class_name") or config.get("architectures")
    first = names[0] if isinstance(names, list) and names else names
    return first if isinstance(first, str) else ""


def class_defaults(name: str) -> dict[str, Any]:
    """Return what a class uses for values that a configuration omits; empty for an unknown class."""
    return dict(_all_defaults().get(name, {}))


@functools.cache
def _all_defaults() -> dict[str, dict]:
    return json.loads(DEFAULTS_FILE.read_text(encoding="utf-8"))
