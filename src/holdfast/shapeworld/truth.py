"""What only a synthetic world knows: how far a result is from the true edited clip, and whether the edit succeeded."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from ..media.optical_flow import ends_in_frame, warp
from ..metrics import base
from ..metrics.warp_error import error as warp_error
from .rendering import SIZE, exact_flow, render, render_with_coverage
from .scenes import EDIT_KINDS, PANS, Scene, SceneEdit, list_edits


def psnr(a: Tensor, b: Tensor, where: Tensor | None = None) -> float:
    """PSNR in dB of f 3 H W in [0, 1]; where: pixels f 1 H W that count."""
    square = (a - b).square()
    if where is None:
        return base.psnr(square.mean().item())
    count = (3 * where.sum()).clamp(min=1)
    return base.psnr(((square * where).sum() / count).item())


def changed_region(edit: SceneEdit, frames: int, size: tuple[int, int] = SIZE) -> Tensor:
    """Pixels that the true edit changes at all, f 1 H W, 0 or 1."""
    source, target = render([edit.source, edit.target], frames, size)
    return _changed(source, target)


def _changed(source: Tensor, target: Tensor) -> Tensor:
    difference = (source - target).abs()
    return (difference.amax(1, keepdim=True) > 0).float()


def actor_mask(edit: SceneEdit, frames: int, size: tuple[int, int] = SIZE) -> Tensor:
    """Where the edited actor is, before or after the edit, f H W in [0, 1]; the whole frame for a backdrop."""
    if edit.actor is None:
        return torch.ones(frames, *size)
    scenes = [edit.source, edit.target]
    if edit.kind == "add":  # it is not there yet
        scenes = [edit.target]
    if edit.kind == "remove":  # in the target that index is another actor
        scenes = [edit.source]
    seen = [render_with_coverage([scene], frames, size)[1][0, edit.actor] for scene in scenes]
    return (torch.stack(seen).amax(0) > 0).float()


def judge(edit: SceneEdit, result: Tensor) -> dict[str, float | bool]:
    """Figures of a result f 3 H W against the truth.

    psnr, psnr_source: of the result, and of the unedited source, against the true edited clip; psnr_inside and
    _outside: within and without what the true edit changes; outside_share: the share of the result's change that falls
    outside it. success: see `succeeded`, among edits of the same kind.
    """
    frames, size = len(result), tuple(result.shape[-2:])
    source, target = render([edit.source, edit.target], frames, size)
    within = _changed(source, target)
    without = 1 - within
    change = (result - source).square()
    outside_share = (change * without).sum() / change.sum().clamp(min=1e-9)
    return {
        "psnr": psnr(result, target),
        "psnr_source": psnr(source, target),
        "psnr_inside": psnr(result, target, within),
        "psnr_outside": psnr(result, target, without),
        "outside_share": outside_share.item(),
        "success": is_success(edit, result, (edit.kind,)),
    }


def is_success(edit: SceneEdit, result: Tensor, kinds: tuple[str, ...]) -> bool:
    """Whether a result f 3 H W is closer to the truth than to the source and to every other edit of these kinds."""
    own = _error(edit.target, result)
    return all(own < _error(rival, result) for rival in _rivals(edit, kinds))


def _rivals(edit: SceneEdit, kinds: tuple[str, ...]) -> list[Scene]:
    rivals = [edit.source]
    for kind in kinds:
        targets = (other.target for other in list_edits(edit.source, kind, edit.seed))
        rivals += [target for target in targets if target != edit.target]
    return rivals


def _error(scene: Scene, result: Tensor) -> float:
    """Mean squared error of a result f 3 H W to a scene."""
    frames, size = len(result), tuple(result.shape[-2:])
    exact = render([scene], frames, size)[0]
    return (result - exact).square().mean().item()


def make_judge(edit: SceneEdit) -> base.Judge:
    """A judge for the metrics (`metrics/scene_truth.py`), who knows this edit's truth."""
    return partial(_figures, edit)


def _figures(edit: SceneEdit, frames: list[ndarray]) -> dict[str, float]:
    """Success, and warp error along the exact flow, of edited frames H W 3 float32 in [0, 1]."""
    result = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)  # f 3 H W
    return {
        "edit_success@any_edit": float(is_success(edit, result, EDIT_KINDS)),
        "edit_success@same_kind": float(is_success(edit, result, (edit.kind,))),
        "warp_error_x1000@exact,squared": exact_warp_error(edit.target, frames),
    }


def exact_warp_error(scene: Scene, frames: list[ndarray]) -> float:
    size = frames[0].shape[:2]
    forward = exact_flow(scene, len(frames), size).permute(0, 2, 3, 1).numpy()  # f-1 H W 2
    actors = render_with_coverage([scene], len(frames), size)[1][0].transpose(0, 1).numpy()  # f k H W
    values = []
    for t, step in enumerate(forward):
        seen = _followed(actors[t], actors[t + 1], step)
        values.append(1000 * warp_error(frames[t], frames[t + 1], step, seen))
    return base.mean(values)


def _followed(here: ndarray, there: ndarray, forward: ndarray) -> ndarray:
    """Pixels whose thing is also the one that is wholly seen where the flow leads, H W.

    A thing is an actor, or the backdrop alone. here, there: each actor's share of each pixel, k H W.
    """
    arrived = np.stack([warp(share, forward) for share in there])
    same = (np.abs(here - arrived) < 0.01).all(0)
    return _whole(here) & _whole(arrived) & same & ends_in_frame(forward)


def _whole(shares: ndarray) -> ndarray:
    """Pixels that no outline crosses, H W."""
    return (np.minimum(shares, 1 - shares) < 0.01).all(0)


def exact_displacement(
    scene: Scene, frames: int, step: int = 1, size: tuple[int, int] = SIZE
) -> tuple[Tensor, Tensor]:
    """Where each pixel goes, and whether it is lost, from each frame to the one `step` later (earlier, if negative).

    Flow n 2 H W in pixels (x, y) of what is seen at a pixel: the actor that has half of it, else the backdrop. Lost, n
    H W boolean: it leaves the frame, or of what the pixel shows of its thing less than half is still seen there. Frames
    that have no such other one are left out: n = frames - |step|.
    """
    here = range(max(0, -step), frames - max(0, step))
    there = [t + step for t in here]
    moved = step * exact_flow(scene, frames + 1, size)[here.start : here.stop]
    shares = _shares(scene, here, size)
    owner = torch.full(shares[0].shape, len(scene.actors))
    for k in range(len(scene.actors)):
        owner[shares[k] >= 0.5] = k
    lost = ~torch.stack([torch.from_numpy(ends_in_frame(m.permute(1, 2, 0).numpy())) for m in moved])
    for k in range(len(shares)):
        arrived = _shares(_followed_by(scene, k, step), there, size)[k]
        lost |= (owner == k) & (arrived < shares[k] / 2)
    return moved, lost


def _shares(scene: Scene, times: Sequence[int], size: tuple[int, int]) -> Tensor:
    """How much of each pixel is each actor's, and last the backdrop's, k+1 n H W."""
    actors = render_with_coverage([scene], times, size)[1][0, : len(scene.actors)]
    return torch.cat((actors, 1 - actors.sum(0, keepdim=True)))


def _followed_by(scene: Scene, k: int, step: int) -> Scene:
    """The scene as a camera sees it that has gone along with thing k for so many frames: k is where it was."""
    vx, vy = (0.0, 0.0) if k == len(scene.actors) else scene.actors[k].velocity
    dx, dy = step * (vx - PANS[scene.pan]), step * vy
    return replace(scene, actors=tuple(replace(a, x=a.x - dx, y=a.y - dy) for a in scene.actors))
