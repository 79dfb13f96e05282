"""Frames in place of latents, for methods that need no model. The constants; they need no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, final

from ...base.errors import UserError
from ...base.notices import warn_user
from ...media.clip_format import ClipFormat
from ..checkpoint import Checkpoint
from ..family import Family
from ..spec import BackboneSpec

if TYPE_CHECKING:
    from ..base import Backbone

ANY_LENGTH = 10**6

SPECS: Mapping[str, BackboneSpec] = {
    "pixels": BackboneSpec(
        weights="",
        download_gb=0,
        fps=8,
        train_pixels=0,
        train_frames=ANY_LENGTH,
        capabilities=frozenset({"image", "pixels"}),
        recommended={"steps": 6},
    )
}
FORMAT = ClipFormat(
    stride=(1, 1, 1),
    patch=(1, 1, 1),
    fps=8,
    train_pixels=0,
    train_frames=ANY_LENGTH,
    max_frames=ANY_LENGTH,
)


@final
class PixelFamily(Family):
    """The family of the backbone without weights."""

    specs = SPECS

    def find(self, name: str, weights: str | None = None) -> Checkpoint:
        """Return a checkpoint without files. Raise UserError if weights are given."""
        if weights:
            raise UserError(f"{name} has no weights, and --weights is {weights}", "leave it out")
        return Checkpoint(Path(__file__).parent)

    def locate(self, name: str, weights: str | None = None) -> Checkpoint | None:
        return None

    def clip_format(self, name: str, checkpoint: Checkpoint) -> ClipFormat:
        return FORMAT

    def load(self, name: str, checkpoint: Checkpoint, device: str, dtype: str) -> "Backbone":
        from ..devices import pick_device
        from .adapter import PixelBackbone

        if device != "auto" and pick_device(device).type != "cpu":
            warn_user(f"the device has no effect: {name} computes on the CPU")
        if dtype not in ("auto", "float32"):
            warn_user(f"the number format has no effect: {name} computes in float32")
        return PixelBackbone(name, SPECS[name], FORMAT)


FAMILY = PixelFamily()
