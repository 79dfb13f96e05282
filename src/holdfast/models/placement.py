"""Where each part of a model is while an edit runs. It needs no torch, so that an edit is planned before it is loaded.

A placement belongs to one part:

- resident: on the device from its first use on;
- swapped: on the device during its stages alone;
- stored: in RAM in the number format of its files, block by block converted to the format that it computes in;
- ram: in RAM, block by block on the GPU while it computes;
- disk: in its files, block by block read while it computes;
- float8: on the device in float8, layer by layer converted. This one changes the numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Placement = Literal["resident", "swapped", "stored", "ram", "disk", "float8"]
STREAMED: tuple[Placement, ...] = ("stored", "ram", "disk")  # block by block
READ_BY_BLOCK: tuple[Placement, ...] = ("stored", "disk")  # by our own streamer


@dataclass(frozen=True)
class StreamedPart:
    """What of a part can be streamed.

    blocks: paths of its lists of blocks, or of single blocks. embedding: name of a table of which single rows are read.
    """

    blocks: tuple[str, ...]
    embedding: str = ""

    def block_of(self, tensor: str) -> str:
        """Return the path of the block that a tensor belongs to; empty for one outside the blocks."""
        for path in self.blocks:
            if tensor.startswith(f"{path}."):
                index = tensor.removeprefix(f"{path}.").split(".")[0]
                return f"{path}.{index}" if index.isdigit() else path
        return ""


UNET_PARTS = {"unet": StreamedPart(("down_blocks", "mid_block", "up_blocks"))}


@dataclass(frozen=True)
class Placements:
    """How a model is loaded.

    parts: by name; parts that it does not name are resident, and encoders swapped. tile: side in pixels of the tiles
    that the VAE decodes; 0 for whole frames. decoded_frames: at once, for a VAE of single frames; 0 for its own number.
    """

    parts: Mapping[str, Placement] = field(default_factory=dict)
    tile: int = 0
    decoded_frames: int = 0

    def of(self, part: str) -> Placement:
        """Return a part's placement."""
        return self.parts.get(part, "resident")

    @property
    def is_default(self) -> bool:
        """Whether this is what a model does without a plan."""
        own = all(value == "resident" for value in self.parts.values())
        return own and not self.tile and not self.decoded_frames


DEFAULT = Placements()
