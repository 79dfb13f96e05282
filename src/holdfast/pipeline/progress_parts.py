"""The large tensors of saved progress, one file each.

A method that inverts a clip keeps a latent for every step. Each of them is written and hashed once, and not again with
every save.
"""

import hashlib
import re
import weakref
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import UserError
from ..base.files import load_tensors, publish, scratch_folder, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

MIN_NUMBERS = 2**16  # of a part: smaller tensors stay in the file of the step
NAME = re.compile(r"[0-9a-f]{32}")  # the hash of a part's content


@dataclass(frozen=True)
class PartFolder:
    """A folder of tensors whose names are the hashes of their content. It exists while it holds any."""

    folder: Path
    # by id: the tensor, its version, and its name, so that it is hashed once
    _known: "dict[int, tuple[weakref.ref[Tensor], int, str]]" = field(default_factory=dict)

    def add(self, tensor: "Tensor") -> str:
        """Write a tensor unless the folder holds it, and return its name. Raise OSError if it cannot be written."""
        name = self._find_name(tensor)
        if name is not None and self._file(name).exists():
            return name
        value = tensor.detach().cpu().contiguous()
        name = name or _hash(value)
        if not self._file(name).exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with scratch_folder(self.folder) as scratch:
                part = scratch / self._file(name).name
                write_tensors(part, {"part": value}, {})
                publish(part, self._file(name))
        self._known[id(tensor)] = weakref.ref(tensor), tensor._version, name
        return name

    def load(self, name: str) -> "Tensor":
        """Return a tensor. Raise UserError if it is missing or damaged."""
        path = self._file(name)
        value = load_tensors(path)[0].get("part") if path.exists() else None
        if value is None or _hash(value) != name:
            raise UserError(f"{path} is missing or damaged", "delete it to start over")
        return value

    def remove_except(self, names: Collection[str]) -> None:
        """Remove all parts but some, and the folder where it is empty then."""
        for path in self.folder.glob("*.safetensors"):
            if NAME.fullmatch(path.stem) and path.stem not in names:
                path.unlink(missing_ok=True)
        for known, (tensor, _, name) in list(self._known.items()):
            if tensor() is None or name not in names:
                del self._known[known]
        with suppress(OSError):  # it does not exist, or it holds more
            self.folder.rmdir()

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _find_name(self, tensor: "Tensor") -> str | None:
        """Return the name of a tensor that was hashed before and has not changed since."""
        found, version, name = self._known.get(id(tensor), (lambda: None, 0, None))
        return name if found() is tensor and version == tensor._version else None


def _hash(value: "Tensor") -> str:
    """Return a hash of a tensor on the CPU."""
    import torch

    digest = hashlib.blake2b(f"{value.dtype} {tuple(value.shape)}".encode(), digest_size=16)
    content: Any = value.reshape(-1).view(torch.uint8).numpy()  # hashed without a copy
    digest.update(content)
    return digest.hexdigest()
