"""What only a synthetic world knows: how far a result is from the true edited clip, and whether the edit succeeded."""

import math

import torch
from torch import Tensor

from .render import SIZE, compose, render
from .scenes import Edit, edits


def psnr(a: Tensor, b: Tensor, where: Tensor | None = None) -> float:
    """PSNR in dB of f 3 H W in [0, 1]; where: pixels f 1 H W that count."""
    square = (a - b).square()
    mean = (square.mean() if where is None else (square * where).sum() / (3 * where.sum()).clamp(min=1)).item()
    return math.inf if mean == 0 else -10 * math.log10(mean)


def region(edit: Edit, frames: int, size: tuple[int, int] = SIZE) -> Tensor:
    """Pixels that the true edit changes at all, f 1 H W, 0 or 1."""
    source, target = render([edit.source, edit.target], frames, size)
    return ((source - target).abs().amax(1, keepdim=True) > 0).float()


def actor_mask(edit: Edit, frames: int, size: tuple[int, int] = SIZE) -> Tensor:
    """Where the edited actor is, before or after the edit, f H W in [0, 1]; the whole frame for a backdrop."""
    if edit.actor is None:
        return torch.ones(frames, *size)
    masks = [compose([s], frames, size)[1][0] for s in (edit.source, edit.target)]
    seen = [m[edit.actor] for m in masks if len(m) > edit.actor]
    if edit.kind == "remove":  # in the target that index is another actor
        seen = seen[:1]
    return (torch.stack(seen).amax(0) > 0).float()


def judge(edit: Edit, result: Tensor) -> dict[str, float | bool]:
    """Figures of a result f 3 H W against the truth.

    psnr, psnr_source: of the result, and of the unedited source, against the true edited clip; psnr_inside and _outside:
    within and without what the true edit changes; outside_share: the share of the result's change that falls outside it.
    success: the result is closer to the truth than to the source and than to every other single edit of the same kind.
    """
    frames, size = len(result), tuple(result.shape[-2:])
    source, target = render([edit.source, edit.target], frames, size)
    inside = region(edit, frames, size)
    change = (result - source).square()
    error = (result - target).square().mean().item()
    rivals = [source] + [render([e.target], frames, size)[0] for e in edits(edit.source, edit.kind, edit.seed) if e != edit]
    return {
        "psnr": psnr(result, target),
        "psnr_source": psnr(source, target),
        "psnr_inside": psnr(result, target, inside),
        "psnr_outside": psnr(result, target, 1 - inside),
        "outside_share": ((change * (1 - inside)).sum() / change.sum().clamp(min=1e-9)).item(),
        "success": error < min((result - r).square().mean().item() for r in rivals),
    }
