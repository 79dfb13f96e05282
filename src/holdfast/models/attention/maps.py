"""Maps of attention: how much each place attends to some words, and the automatic mask that this gives."""

import torch
from torch import Tensor
from torch.nn import functional

from ...base.errors import UserError
from ...base.prompt_diff import NO_WORD
from ...sampling import maths
from .hooks import Site, cross, record

LOOKS = (0.8, 0.6, 0.4)  # noise levels at which attention is read for a mask


def blocks(count: int, row: int, most: int = 2**22) -> int:
    """How many of `count` rows of `row` numbers each to hold at once: at most `most` numbers (16 MB in float32)."""
    return max(1, min(count, most // max(1, row)))


def share(q: Tensor, k: Tensor, columns: Tensor) -> Tensor:
    """How much each query attends to some keys, B N in float32: softmax probability, mean over those keys and over
    heads.

    Worked out in blocks of queries; the whole map is never held.
    """
    scale = q.shape[-1] ** -0.5
    size = blocks(q.shape[2], q.shape[0] * q.shape[1] * k.shape[2])
    parts = []
    for rows in q.split(size, dim=2):
        weights = (rows.float() @ k.float().mT * scale).softmax(-1)
        parts.append(weights[..., columns].mean((1, 3)))
    return torch.cat(parts, 1)


def attending(words: tuple[int, ...]):
    """For `record`: keep how much each place attends to some of the prompt's tokens, 1 1 f h w on the site's grid."""

    def keep(site: Site, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return site.map(share(q, k, site.columns(words, q.device)))

    return keep


def assembled(found: dict[Site, Tensor]) -> Tensor:
    """Maps of one layer in one or more windows as one of the whole clip, 1 1 f h w: their
    mean where windows overlap.
    """
    length = 1 + max(max(site.frames) for site in found)
    some = next(iter(found.values()))
    total = torch.zeros(1, 1, length, *some.shape[3:], device=some.device)
    count = torch.zeros_like(total)
    for site, part in found.items():
        at = list(site.frames)
        total[:, :, at] += part
        count[:, :, at] += 1
    return total / count.clamp(min=1)  # a frame that no site is about has no heat


def by_layer(found: dict[Site, Tensor]) -> list[dict[Site, Tensor]]:
    """Observations of one layer together."""
    layers: dict[str, dict[Site, Tensor]] = {}
    for site, value in found.items():
        layers.setdefault(site.path, {})[site] = value
    return list(layers.values())


def automatic(field, given) -> Tensor:
    """Where the edit's words attend on the source, f h w boolean on latents. For an edit that names no place.

    The words that go, in the source's pass; where none go, those that come, in the target's. Attention is read at a
    few noise levels, each layer's scaled to its own range; inside is above Otsu's threshold. Raises ValueError where
    no word drives the edit.
    """
    source = given.source
    condition, branch = (given.src, "src+") if given.src.words else (given.tgt, "tgt+")
    if not condition.words:
        raise UserError(NO_WORD)
    heat = torch.zeros_like(source[:, :1])
    for k, sigma in enumerate(LOOKS):
        noisy = maths.add_noise(source, sigma, maths.keyed_noise(source, given.seed, 0, k))
        with record(field, cross, attending(condition.words)) as found:
            field.velocity(noisy, sigma, condition, branch=branch)
        for layer in by_layer(found):
            one = functional.interpolate(assembled(layer), size=source.shape[2:], mode="nearest")
            heat += maths.normalize_range(one)
    smooth = functional.avg_pool3d(
        heat, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False
    )
    return _above_otsu(smooth[0, 0])


def _above_otsu(heat: Tensor) -> Tensor:
    import cv2

    values = (maths.normalize_range(heat[None])[0] * 255).byte().cpu().numpy()
    threshold, _ = cv2.threshold(
        values.reshape(-1, values.shape[-1]), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU
    )
    return torch.from_numpy(values > threshold)
