"""Compare a result with the true edited clip, which only a synthetic world knows, and decide if the edit succeeded."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from ..media.optical_flow import ends_in_frame, warp
from ..metrics import base
from ..metrics.warp_error import warp_error
from .rendering import SIZE, exact_flow, render, render_with_coverage
from .scenes import EDIT_KINDS, PANS, Scene, SceneEdit, list_edits


def psnr(a: Tensor, b: Tensor, where: Tensor | None = None) -> float:
    """Return the PSNR in dB of f 3 H W in [0, 1]. where: the pixels that count, f 1 H W, 0 or 1."""
    square = (a - b).square()
    if where is None:
        return base.psnr(square.mean().item())
    count = (3 * where.sum()).clamp(min=1)
    return base.psnr(((square * where).sum() / count).item())


def changed_region(edit: SceneEdit, frames: int, size: tuple[int, int] = SIZE) -> Tensor:
    """Return the pixels that the true edit changes, f 1 H W, 0 or 1."""
    source, target = render([edit.source, edit.target], frames, size)
    return _changed_pixels(source, target)


def _changed_pixels(source: Tensor, target: Tensor) -> Tensor:
    difference = (source - target).abs()
    return (difference.amax(1, keepdim=True) > 0).float()


def actor_mask(edit: SceneEdit, frames: int, size: tuple[int, int] = SIZE) -> Tensor:
    """Return where the edited actor is, before or after the edit, f H W, 0 or 1. For a backdrop it is 1 everywhere."""
    if edit.actor is None:
        return torch.ones(frames, *size)
    scenes = [edit.source, edit.target]
    if edit.kind == "add":  # the source does not have it
        scenes = [edit.target]
    if edit.kind == "remove":  # in the target, this index is another actor
        scenes = [edit.source]
    shares = [render_with_coverage([scene], frames, size)[1][0, edit.actor] for scene in scenes]
    return (torch.stack(shares).amax(0) > 0).float()


def judge(edit: SceneEdit, result: Tensor) -> dict[str, float | bool]:
    """Return metrics of a result f 3 H W against the truth.

    psnr, psnr_source: of the result and of the unedited source against the true edited clip. psnr_inside,
    psnr_outside: inside and outside the pixels that the true edit changes. outside_share: the share of the result's
    change that is outside them. success: see `is_success`, among edits of the same kind.
    """
    frames, size = len(result), (result.shape[-2], result.shape[-1])
    source, target = render([edit.source, edit.target], frames, size)
    inside = _changed_pixels(source, target)
    outside = 1 - inside
    change = (result - source).square()
    outside_share = (change * outside).sum() / change.sum().clamp(min=1e-9)
    return {
        "psnr": psnr(result, target),
        "psnr_source": psnr(source, target),
        "psnr_inside": psnr(result, target, inside),
        "psnr_outside": psnr(result, target, outside),
        "outside_share": outside_share.item(),
        "success": is_success(edit, result, (edit.kind,)),
    }


def is_success(
    edit: SceneEdit, result: Tensor, kinds: tuple[str, ...], times: Sequence[int] = ()
) -> bool:
    """Return whether a result f 3 H W is closer to the truth than to the source and to all other edits of the kinds.

    times: the scene's frames that the result has; empty: the first f.
    """
    own = _error(edit.target, result, times)
    return all(own < _error(rival, result, times) for rival in _rivals(edit, kinds))


def _rivals(edit: SceneEdit, kinds: tuple[str, ...]) -> list[Scene]:
    rivals = [edit.source]
    for kind in kinds:
        targets = (other.target for other in list_edits(edit.source, kind, edit.seed))
        rivals += [target for target in targets if target != edit.target]
    return rivals


def _error(scene: Scene, result: Tensor, times: Sequence[int]) -> float:
    """Return the mean squared error of a result f 3 H W to a scene."""
    size = (result.shape[-2], result.shape[-1])
    exact = render([scene], times or len(result), size)[0]
    return (result - exact).square().mean().item()


def make_judge(edit: SceneEdit, times: Sequence[int] = ()) -> base.Judge:
    """Return a judge for `metrics/scene_truth.py` that knows this edit's truth.

    times: the scene's frames that a result has; empty: the first ones.
    """
    return partial(_judge_frames, edit, times)


def _judge_frames(edit: SceneEdit, times: Sequence[int], frames: list[ndarray]) -> dict[str, float]:
    """Return success, and warp error along the exact flow, of edited frames H W 3 float32 in [0, 1].

    The exact flow is of consecutive frames: it is left out for others.
    """
    result = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)  # f 3 H W
    values = {
        "edit_success@any_edit": float(is_success(edit, result, EDIT_KINDS, times)),
        "edit_success@same_kind": float(is_success(edit, result, (edit.kind,), times)),
    }
    if times:
        return values
    return values | {"warp_error_x1000@exact,squared": exact_warp_error(edit.target, frames)}


def exact_warp_error(scene: Scene, frames: list[ndarray]) -> float:
    """Return 1000 times the warp error of frames H W 3 along a scene's exact flow."""
    size = (frames[0].shape[0], frames[0].shape[1])
    forward = exact_flow(scene, len(frames), size).permute(0, 2, 3, 1).numpy()  # f-1 H W 2
    actors = render_with_coverage([scene], len(frames), size)[1][0].transpose(0, 1).numpy()
    values = []
    for t, step in enumerate(forward):  # actors: f k H W
        visible = _trackable_pixels(actors[t], actors[t + 1], step)
        values.append(1000 * warp_error(frames[t], frames[t + 1], step, visible))
    return base.nanmean(values)


def _trackable_pixels(first: ndarray, second: ndarray, forward: ndarray) -> ndarray:
    """Return the pixels, H W, that show one layer alone, which is also the layer where their flow ends.

    A layer is an actor or the backdrop. first, second: each actor's share of each pixel of two frames, k H W.
    """
    at_end = np.stack([warp(share, forward) for share in second])
    same = (np.abs(first - at_end) < 0.01).all(0)
    return _single_layer(first) & _single_layer(at_end) & same & ends_in_frame(forward)


def _single_layer(shares: ndarray) -> ndarray:
    """Return the pixels that no outline crosses, H W."""
    return np.asarray((np.minimum(shares, 1 - shares) < 0.01).all(0))


def exact_displacement(
    scene: Scene, frames: int, step: int = 1, size: tuple[int, int] = SIZE
) -> tuple[Tensor, Tensor]:
    """Return the flow of each frame to the one `step` later (earlier, if negative), and which pixels it loses.

    Flow: n 2 H W in pixels (x, y), of the actor with at least half of the pixel, or else of the backdrop. Lost: n H W
    boolean, if the pixel leaves the frame, or less than half of what it shows of its layer is visible at its end.
    n = frames - |step|: frames without another one at this distance are left out.
    """
    times = range(max(0, -step), frames - max(0, step))
    end_times = [t + step for t in times]
    displacement = step * exact_flow(scene, frames + 1, size)[times.start : times.stop]
    shares = _layer_shares(scene, times, size)
    owner = torch.full(shares[0].shape, len(scene.actors))
    for k in range(len(scene.actors)):
        owner[shares[k] >= 0.5] = k
    flows = [flow.permute(1, 2, 0).numpy() for flow in displacement]
    lost = ~torch.stack([torch.from_numpy(ends_in_frame(flow)) for flow in flows])
    for k in range(len(shares)):
        at_end = _layer_shares(_track_layer(scene, k, step), end_times, size)[k]
        lost |= (owner == k) & (at_end < shares[k] / 2)
    return displacement, lost


def _layer_shares(scene: Scene, times: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Return each actor's share of each pixel, and last the backdrop's, k+1 n H W."""
    actors = render_with_coverage([scene], times, size)[1][0, : len(scene.actors)]
    return torch.cat((actors, 1 - actors.sum(0, keepdim=True)))


def _track_layer(scene: Scene, k: int, step: int) -> Scene:
    """Return the scene as a camera sees it that has moved with layer k for `step` frames, so that k did not move."""
    vx, vy = (0.0, 0.0) if k == len(scene.actors) else scene.actors[k].velocity
    dx, dy = step * (vx - PANS[scene.pan]), step * vy
    return replace(scene, actors=tuple(replace(a, x=a.x - dx, y=a.y - dy) for a in scene.actors))
