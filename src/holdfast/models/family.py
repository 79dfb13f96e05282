"""A family: the backbones that one adapter loads."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, final

from ..media.clip_format import ClipFormat
from .checkpoint import Checkpoint
from .footprint import ActivationFormula
from .placement import DEFAULT, Placements, StreamedPart
from .spec import BackboneSpec
from .weights import Requirements, find_checkpoint, locate, open_checkpoint

if TYPE_CHECKING:
    from .base import Backbone


class Family(ABC):
    """The backbones of one kind. A family outside the package is added with `registry.register`."""

    specs: Mapping[str, BackboneSpec]

    @abstractmethod
    def find(self, name: str, weights: str | None = None) -> Checkpoint:
        """Return the checkpoint of a backbone.

        weights: a folder or a hub id in place of its own. Raise UserError for a folder that does not fit, and
        MissingDependencyError for weights that are not on this machine.
        """

    @abstractmethod
    def locate(self, name: str, weights: str | None = None) -> Checkpoint | None:
        """Return the checkpoint of a backbone without checking it; None if it is not on this machine."""

    @abstractmethod
    def clip_format(self, name: str, checkpoint: Checkpoint) -> ClipFormat:
        """Return the clips that the model in a checkpoint takes. Only configurations are read."""

    @abstractmethod
    def load(self, name: str, checkpoint: Checkpoint, device: str, dtype: str) -> "Backbone":
        """Load a backbone. device, dtype: as in models/devices.py."""


def accept(name: str, checkpoint: Checkpoint) -> None:
    """Accept every checkpoint."""


@final
@dataclass(frozen=True)
class DiffusersFamily(Family):
    """A family whose checkpoints are diffusers folders.

    adapter: name of a module with `load(name, spec, checkpoint, device, dtype, placements)`. It is imported when a
    backbone is loaded, because it needs torch. check: refuses a checkpoint by raising UserError. streamed: the parts
    that can be loaded block by block. activations: what it takes next to the weights. decode_saving: how its VAE can
    decode with less memory.
    """

    specs: Mapping[str, BackboneSpec]
    parts: tuple[str, ...]  # that every checkpoint of the family has
    pipelines: tuple[str, ...]  # class names that model_index.json may have
    adapter: str
    make_clip_format: Callable[[BackboneSpec, Checkpoint], ClipFormat]
    check: Callable[[str, Checkpoint], None] = accept
    streamed: Mapping[str, StreamedPart] = field(default_factory=dict)
    activations: ActivationFormula | None = None
    decode_saving: Literal["", "tiles", "frames"] = ""

    def find(self, name: str, weights: str | None = None) -> Checkpoint:
        """Return the checkpoint of a backbone after all checks. Its parts are checked first, then what `check` says."""
        found = self._find(name, weights, self.parts)
        self.check(name, found)
        own = self.specs[name].parts
        return found if set(own) <= set(self.parts) else self._find(name, weights, own)

    def _find(self, name: str, weights: str | None, parts: tuple[str, ...]) -> Checkpoint:
        needed = Requirements(self.specs[name], parts, self.pipelines, self._shared_parts())
        return find_checkpoint(needed, weights)

    def locate(self, name: str, weights: str | None = None) -> Checkpoint | None:
        folder = locate(self.specs[name], weights)
        return None if folder is None else open_checkpoint(folder, self._shared_parts())

    def _shared_parts(self) -> dict[str, Mapping[str, str]]:
        return {spec.weights: spec.shared_parts for spec in self.specs.values()}

    def clip_format(self, name: str, checkpoint: Checkpoint) -> ClipFormat:
        return self.make_clip_format(self.specs[name], checkpoint)

    def load(
        self,
        name: str,
        checkpoint: Checkpoint,
        device: str,
        dtype: str,
        placements: Placements = DEFAULT,
    ) -> "Backbone":
        adapter = importlib.import_module(self.adapter)
        return adapter.load(name, self.specs[name], checkpoint, device, dtype, placements)
