"""Load a part of a model as its placement says: whole, block by block, or in another format of storage."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..base.errors import UserError
from ..base.notices import warn_user
from . import loading, weight_files
from .config_files import read_json
from .placement import DEFAULT, READ_BY_BLOCK, Placement, Placements, StreamedPart
from .streaming import StoredTensors, TensorFiles, read_rows_from_file, stream_blocks

EMBEDDINGS = {"shared.weight": ("shared", "encoder.embed_tokens")}  # modules that share a table
FLOAT8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class PartLoader:
    """Load the parts of one model. device: where they compute; dtype: of the denoiser and the encoders."""

    device: torch.device
    dtype: torch.dtype
    placements: Placements = DEFAULT
    streamed: dict[str, StreamedPart] = field(default_factory=dict)

    def load(self, cls: type[nn.Module], part: Path, name: str = "") -> Any:
        """Load a part. name: that of its placement, if its folder is called otherwise. Raise as `load_part` does."""
        name = name or part.name
        placement = self.placements.of(name)
        if placement in READ_BY_BLOCK:
            return self._load_by_block(cls, part, self.streamed[name], placement)
        module = loading.load_part(cls, part, self.dtype)
        if placement == "ram":
            offload_blocks(module, self.device)
        if placement == "float8":
            module.enable_layerwise_casting(storage_dtype=FLOAT8, compute_dtype=self.dtype)
        return module

    def _load_by_block(
        self, cls: type[nn.Module], part: Path, streamed: StreamedPart, placement: Placement
    ) -> nn.Module:
        module, files = _build_empty(cls, part), TensorFiles(part)
        embedding = streamed.embedding
        if embedding and placement == "disk":
            paths = EMBEDDINGS[embedding]
            read_rows_from_file(module, paths, files, embedding, self.dtype)
        _check_names(part, module, files, embedding)
        read = StoredTensors(files).read if placement == "stored" else files.read
        stream_blocks(module, streamed, read, self.device, _compute_dtype(cls, self.dtype))
        return module


def _build_empty(cls: Any, part: Path) -> nn.Module:
    """Return the part as it is configured, with its parameters on the meta device and its buffers in RAM."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        if issubclass(cls, PreTrainedModel):
            config_class: Any = cls.config_class
            return cls(config_class.from_pretrained(part, local_files_only=True))
        return cls.from_config(read_json(part / "config.json"))


def _check_names(part: Path, module: nn.Module, files: TensorFiles, embedding: str) -> None:
    """Raise UserError for a tensor that the files lack. Note those that the module has no place for."""
    names = {name for name, _ in module.named_parameters()}
    missing = sorted(names - files.files.keys())
    if missing:
        raise UserError(
            f"{part} cannot be streamed: its files lack {weight_files.name_first(missing)}",
            "get its weights again, or use --memory auto with more memory",
        )
    spare = sorted(files.files.keys() - names - {embedding, "encoder.embed_tokens.weight"})
    if spare:
        warn_user(
            f"{part} holds {weight_files.name_first(spare)}, which its config.json has no place for: not used"
        )


def _compute_dtype(cls: Any, dtype: torch.dtype) -> Callable[[str], torch.dtype]:
    """Return the format of each parameter, by name, as `from_pretrained` chooses it for float32 and bfloat16."""
    if issubclass(cls, PreTrainedModel):
        return lambda name: dtype
    kept = set(getattr(cls, "_keep_in_fp32_modules", None) or ())
    return lambda name: torch.float32 if kept & set(name.split(".")) else dtype


def offload_blocks(module: nn.Module, device: torch.device) -> None:
    """Keep a module in RAM, and copy each of its blocks to the device while it runs (diffusers' group offloading)."""
    from diffusers.hooks.group_offloading import apply_group_offloading

    has_streams = device.type == "cuda"
    apply_group_offloading(
        module,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=has_streams,
        low_cpu_mem_usage=has_streams,  # pins a block at a time, not a second copy of all weights
    )
