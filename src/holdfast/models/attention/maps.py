"""Attention maps: how much each position attends to some words, and the automatic mask that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ...base.errors import UserError
from ...base.lazy import functional, torch
from ...base.prompt_diff import NO_WORD
from ...sampling.field import VelocityField
from ...sampling.masking import normalize_range
from ...sampling.noise import add_noise, keyed_noise
from ..base import Conditioning
from .hooks import Layer, is_cross, record

if TYPE_CHECKING:
    from torch import Tensor

MASK_SIGMAS = (0.8, 0.6, 0.4)  # noise levels at which attention is read for a mask
# Numbers in a block of rows. On a CPU a block should fit into the cache (16 MB in float32). A GPU is idle between
# small blocks (256 MB; a few of that size are alive at once).
CPU_BLOCK_NUMBERS, GPU_BLOCK_NUMBERS = 2**22, 2**26


def rows_per_block(count: int, numbers_per_row: int, device: torch.device | None = None) -> int:
    """Return how many of `count` rows to hold at once on a device; None: the CPU."""
    is_cpu = device is None or device.type == "cpu"
    numbers = CPU_BLOCK_NUMBERS if is_cpu else GPU_BLOCK_NUMBERS
    return max(1, min(count, numbers // max(1, numbers_per_row)))


def mean_attention(q: Tensor, k: Tensor, columns: Tensor) -> Tensor:
    """Return how much each query attends to some keys, `B N` in float32.

    It is the softmax probability, averaged over those keys and over heads. It is computed in blocks of queries, so
    the whole map is never in memory.
    """
    scale = q.shape[-1] ** -0.5
    size = rows_per_block(q.shape[2], q.shape[0] * q.shape[1] * k.shape[2], q.device)
    keys = k.float().mT  # once: a cast in each block would read all keys again
    parts = []
    for rows in q.split(size, dim=2):
        weights = (rows.float() @ keys * scale).softmax(-1)
        parts.append(weights[..., columns].mean((1, 3)))
    return torch.cat(parts, 1)


def attention_probabilities(q: Tensor, k: Tensor) -> Tensor:
    """Return the whole attention map `softmax(q k^T / sqrt(d))`, B heads N L in float32, for rules that edit it.

    It takes 4 N L bytes a head and batch: a rule should keep it to coarse layers.
    """
    return (q.float() @ k.float().mT * q.shape[-1] ** -0.5).softmax(-1)


def token_heatmap(tokens: tuple[int, ...]) -> Callable[[Layer, Tensor, Tensor, Tensor], Tensor]:
    """Return an `extract` for `record`: attention to some prompt tokens, `1 1 f h w` on the layer's token grid."""

    def extract(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return layer.to_grid(mean_attention(q, k, layer.key_positions(tokens, q.device)))

    return extract


def merge_windows(maps: Mapping[Layer, Tensor]) -> Tensor:
    """Merge the maps of one layer in one or more windows into one of the whole clip, `1 1 f h w`.

    Where windows overlap, take their mean. A frame that no window covers gets 0.
    """
    length = 1 + max(max(layer.frames) for layer in maps)
    some = next(iter(maps.values()))
    total = torch.zeros(1, 1, length, *some.shape[3:], device=some.device)
    count = torch.zeros_like(total)
    for layer, part in maps.items():
        frames = list(layer.frames)
        total[:, :, frames] += part
        count[:, :, frames] += 1
    return total / count.clamp(min=1)


def group_by_layer(values: Mapping[Layer, Tensor]) -> list[dict[Layer, Tensor]]:
    """Group recorded values by layer: one dict for each layer, with an entry for each call."""
    layers: dict[str, dict[Layer, Tensor]] = {}
    for layer, value in values.items():
        layers.setdefault(layer.path, {})[layer] = value
    return list(layers.values())


def average_layers(maps: Mapping[Layer, Tensor]) -> Tensor:
    """Return the mean of all layers' maps, `1 1 f h w` on the finest of their token grids."""
    merged = [merge_windows(layer) for layer in group_by_layer(maps)]
    size = max((one.shape[2:] for one in merged), key=lambda shape: shape.numel())
    return torch.stack([functional.interpolate(one, size=size) for one in merged]).mean(0)


def find_auto_mask(
    field: VelocityField, latent: Tensor, source: Conditioning, target: Conditioning, seed: int
) -> Tensor:
    """Return where the words that drive the edit attend on the clip: `f h w`, boolean, in latent cells.

    Read the words that the edit removes, in the source's pass; if it removes none, the words that it adds, in the
    target's pass. Attention is read at a few noise levels, and each layer's map is scaled to its own range. The mask
    is where the sum exceeds Otsu's threshold. Raise UserError if no word drives the edit.
    """
    conditioning, branch = (source, "src+") if source.edit_tokens else (target, "tgt+")
    if not conditioning.edit_tokens:
        raise UserError(NO_WORD)
    heat = torch.zeros_like(latent[:, :1])
    for repeat, sigma in enumerate(MASK_SIGMAS):
        noisy = add_noise(latent, sigma, keyed_noise(latent, seed, 0, repeat))
        with record(field, is_cross, token_heatmap(conditioning.edit_tokens)) as maps:
            field.velocity(noisy, sigma, conditioning, branch=branch)
        for layer in group_by_layer(maps):
            merged = merge_windows(layer)
            resized = functional.interpolate(merged, size=latent.shape[2:], mode="nearest")
            heat += normalize_range(resized)
    smooth = functional.avg_pool3d(
        heat, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False
    )
    return _exceeds_otsu(smooth[0, 0])


def _exceeds_otsu(heat: Tensor) -> Tensor:
    """Return where a map `f h w` exceeds the threshold that separates its values best."""
    import cv2

    values = (normalize_range(heat[None])[0] * 255).byte().cpu().numpy()
    threshold, _ = cv2.threshold(
        values.reshape(-1, values.shape[-1]), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU
    )
    return torch.from_numpy(values > threshold)
