"""Run a network whose weights do not fit: read each block when it runs, and drop it afterwards.

Between its calls a block has placeholders: tensors of the same shape, format and device that take no memory. So hooks,
adapters and code that asks a layer for its device work as they do on a resident network.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import UserError
from ..base.memory import return_freed_memory
from . import weight_files
from .placement import StreamedPart

ReadTensor = Callable[[str], Tensor]  # by name, in the format of the files


@dataclass(frozen=True)
class Slot:
    """A parameter of a block. owner: the layer that has it; tensor: its name in the files."""

    owner: nn.Module
    name: str
    tensor: str
    dtype: torch.dtype

    def set(self, value: Tensor) -> None:
        """Give the layer a value for this parameter."""
        self.owner._parameters[self.name] = nn.Parameter(value, requires_grad=False)


class TensorFiles:
    """The tensors of a part, read from its safetensors one at a time."""

    def __init__(self, part: Path):
        files = weight_files.weight_files(part)
        self.files = {name: file for file in files for name in weight_files.tensor_names(file)}

    def read(self, name: str) -> Tensor:
        """Return a tensor that maps its file: as long as it lives, its pages may count as memory of this process."""
        from safetensors import safe_open

        with safe_open(
            self.files[name], "pt"
        ) as opened:  # closed at once, so that few pages stay mapped
            return opened.get_tensor(name)

    def read_rows(self, name: str, rows: Iterable[int]) -> Tensor:
        """Return some rows of a matrix. Only their pages are read."""
        from safetensors import safe_open

        with safe_open(self.files[name], "pt") as opened:
            table = opened.get_slice(name)
            return torch.cat([table[row : row + 1].clone() for row in rows])


class RowEmbedding(nn.Module):
    """An embedding whose table stays in its file: each call reads the rows of its tokens."""

    def __init__(self, files: TensorFiles, tensor: str, dtype: torch.dtype):
        super().__init__()
        self.files, self.tensor, self.dtype = files, tensor, dtype

    def forward(self, tokens: Tensor) -> Tensor:
        rows, places = tokens.unique(return_inverse=True)
        table = self.files.read_rows(self.tensor, rows.tolist())
        return nn.functional.embedding(places, table.to(tokens.device, self.dtype))


class BlockStreamer:
    """Load a block before its forward pass and drop it afterwards, by hooks on the block.

    Gradients work: what autograd needs of a block stays in memory until the backward pass has used it.
    """

    def __init__(self, slots: list[Slot], read: ReadTensor, device: torch.device):
        self.slots, self.read, self.device = slots, read, device
        self.is_checked = False

    def mount(self, block: nn.Module) -> None:
        """Put placeholders into a block, and hooks on it."""
        self.drop()
        block.register_forward_pre_hook(lambda *_: self.load())
        block.register_forward_hook(lambda *_: self.drop(), always_call=True)

    @torch.no_grad()
    def load(self) -> None:
        """Read the block's weights. Raise UserError for values that are not finite, the first time."""
        for slot in self.slots:
            value = self.read(slot.tensor).to(self.device, slot.dtype, copy=True)
            if not self.is_checked:
                check_finite(slot.tensor, value)
            slot.set(value)
        self.is_checked = True

    def drop(self) -> None:
        """Replace the block's weights by placeholders."""
        for slot in self.slots:
            shape = slot.owner._parameters[slot.name].shape  # pyright: ignore[reportOptionalMemberAccess]
            slot.set(_placeholder(shape, slot.dtype, self.device))
        if self.device.type == "cpu":
            return_freed_memory()  # it would pile up: 0.4 GB over the 24 blocks of UMT5


def _placeholder(shape: Iterable[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a tensor of one stored number that has a shape. A meta tensor would name another device."""
    return torch.zeros(1, dtype=dtype, device=device).expand(tuple(shape))


def check_finite(name: str, value: Tensor) -> None:
    """Raise UserError for a tensor whose values are not all finite."""
    if value.numel() and not torch.stack(torch.aminmax(value)).isfinite().all():
        raise UserError(f"{name} holds numbers that are not finite", "get the weights again")


def stream_blocks(
    module: nn.Module,
    streamed: StreamedPart,
    read: ReadTensor,
    device: torch.device,
    dtype_of: Callable[[str], torch.dtype],
) -> None:
    """Fill a module whose parameters are on the meta device: blocks are streamed, everything else is read now.

    dtype_of: the format in which a parameter computes.
    """
    slots = _list_slots(module, dtype_of)
    blocks: dict[str, list[Slot]] = {}
    for slot in slots:
        path = streamed.block_of(slot.tensor)
        if path:
            blocks.setdefault(path, []).append(slot)
        else:
            value = read(slot.tensor).to(device, slot.dtype, copy=True)
            check_finite(slot.tensor, value)
            slot.set(value)
    for path, own in blocks.items():
        BlockStreamer(own, read, device).mount(module.get_submodule(path))
    for name, buffer in list(module.named_buffers()):
        owner, _, last = name.rpartition(".")
        module.get_submodule(owner)._buffers[last] = buffer.to(device)


def _list_slots(module: nn.Module, dtype_of: Callable[[str], torch.dtype]) -> list[Slot]:
    return [
        Slot(owner, name, tensor := f"{path}.{name}" if path else name, dtype_of(tensor))
        for path, owner in module.named_modules()
        for name, parameter in owner._parameters.items()
        if parameter is not None
    ]


def read_rows_from_file(
    module: nn.Module, paths: Iterable[str], files: TensorFiles, tensor: str, dtype: torch.dtype
) -> None:
    """Replace a module's embeddings by one that reads its rows. paths: of the embeddings, which share one table."""
    rows = RowEmbedding(files, tensor, dtype)
    for path in paths:
        module.set_submodule(path, rows)


class StoredTensors:
    """The tensors of a part in RAM, in the format of its files."""

    def __init__(self, files: TensorFiles):
        self.tensors: Mapping[str, Tensor] = {n: files.read(n).clone() for n in files.files}

    def read(self, name: str) -> Tensor:
        """Return a tensor."""
        return self.tensors[name]


def count_bytes(module: nn.Module) -> int:
    """Return the memory that a module's tensors take. A placeholder takes next to none."""
    tensors: list[Any] = [*module.parameters(), *module.buffers()]
    return sum(t.untyped_storage().nbytes() for t in tensors if math.prod(t.shape))
