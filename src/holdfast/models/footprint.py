"""The memory that a model takes, by arithmetic on the headers of its files. Nothing is loaded."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import weight_files
from .checkpoint import Checkpoint
from .placement import Placement, Placements, StreamedPart

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
FLOAT8_SHARE = (
    0.95  # of a network's numbers are stored in float8; norms and embeddings keep their format
)


@dataclass(frozen=True)
class ClipShape:
    """What one evaluation and one call of the VAE work on. frames: latent, of a window; height, width: pixels."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Activations:
    """Bytes that each stage needs next to the weights.

    is_measured: whether the formula was compared with measurements.
    """

    encode: int
    condition: int
    denoise: int
    decode: int
    is_measured: bool = False


# int: bytes of a number that the denoiser computes in
ActivationFormula = Callable[[Checkpoint, ClipShape, int, Placements], Activations]


@dataclass(frozen=True)
class PartSize:
    """The size of a part. largest_block, outside: numbers of its largest block, and of what is in no block.

    file_bytes: of all its tensors; largest_tensor: bytes in its file; embedding: numbers of a table whose rows are read
    singly.
    """

    numbers: int
    file_bytes: int
    largest_block: int = 0
    outside: int = 0
    largest_tensor: int = 0
    embedding: int = 0

    def device_bytes(self, placement: Placement, item: int) -> int:
        """Return the memory of the device while the part computes in numbers of `item` bytes."""
        if placement == "float8":
            return round(self.numbers * (FLOAT8_SHARE + (1 - FLOAT8_SHARE) * item))
        if placement == "disk":
            return item * (self.largest_block + self.outside) + self.largest_tensor
        if placement == "ram":  # the next block is copied while one computes
            return item * (2 * self.largest_block + self.outside + self.embedding)
        if placement == "stored":
            return self.file_bytes + item * (self.largest_block + self.outside + self.embedding)
        return item * self.numbers

    @property
    def is_stored_smaller(self) -> bool:
        """Whether its files take less than float32."""
        return self.file_bytes < 3 * self.numbers


def measure_part(part: Path, streamed: StreamedPart | None = None) -> PartSize:
    """Return a part's size. Raise UserError for files that are damaged."""
    files = [file.stat() for file in weight_files.weight_files(part)]
    stamp = tuple((file.st_size, file.st_mtime_ns) for file in files)
    return _measure_files(part, streamed, stamp)


@functools.lru_cache(maxsize=64)
def _measure_files(part: Path, streamed: StreamedPart | None, stamp: tuple) -> PartSize:
    """Measure a part. stamp: of its files, so that a change of them is noticed."""
    dtypes = weight_files.tensor_dtypes(part)
    items = {name: ITEM_BYTES.get(dtype, 4) for name, dtype in dtypes.items()}
    return count_part(weight_files.tensor_shapes(part), items, streamed)


def count_part(
    shapes: Mapping[str, tuple[int, ...]], items: Mapping[str, int], streamed: StreamedPart | None
) -> PartSize:
    """Return the size of a part from the shapes of its tensors. items: bytes of a number of each."""
    streamed = streamed or StreamedPart(())
    blocks: Counter[str] = Counter()
    embedding = largest_tensor = file_bytes = 0
    for name, shape in shapes.items():
        count = math.prod(shape)
        size = count * items[name]
        file_bytes += size
        if name == streamed.embedding:
            embedding = count
        else:
            blocks[streamed.block_of(name)] += count
            largest_tensor = max(largest_tensor, size)
    numbers, outside = sum(blocks.values()) + embedding, blocks.pop("", 0)
    largest_block = max(blocks.values(), default=0)
    return PartSize(numbers, file_bytes, largest_block, outside, largest_tensor, embedding)


def measure_parts(
    checkpoint: Checkpoint, names: tuple[str, ...], streamed: Mapping[str, StreamedPart]
) -> dict[str, PartSize]:
    """Return the sizes of a model's parts by name."""
    return {name: measure_part(checkpoint.part(name), streamed.get(name)) for name in names}
