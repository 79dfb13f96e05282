"""Compute the optical flow between the latent frames of a clip, once per edit, from the fitted source frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from ...base.errors import UserError
from ...base.lazy import functional, torch
from ...base.names import choose
from ...media.optical_flow import FlowFunction, compose, dis, occlusion, sharp_dis
from .raft import load_raft

if TYPE_CHECKING:
    from torch import Tensor

BACKENDS = ("sharp_dis", "dis", "raft")


def flow_function(
    name: str, weights: str | Path | None = None, device: str = "cpu"
) -> FlowFunction:
    """Return a flow function by its name. weights, device: for raft.

    Raise UserError if the name is unknown, and MissingDependencyError as `load_raft` does.
    """
    name = choose(name, BACKENDS, "optical flow")
    if name == "raft":
        return load_raft(weights, device)
    return {"sharp_dis": sharp_dis, "dis": dis}[name]


@dataclass(frozen=True)
class LatentFlow:
    """The flow between each latent frame i and the next, of f frames of h w cells, in cells (x, y), float32.

    Occlusions are shares of a cell, in [0, 1].
    """

    forward: Tensor  # f-1 2 h w: where each cell of frame i goes in frame i+1
    backward: Tensor  # f-1 2 h w: where each cell of frame i+1 was in frame i
    occluded_share: Tensor  # f-1 1 h w: share of frame i that frame i+1 does not show
    disoccluded_share: Tensor  # f-1 1 h w: share of frame i+1 that frame i does not show

    def to(self, like: Tensor) -> LatentFlow:
        """Return the same flow with the type and on the device of a latent."""
        return LatentFlow(*(getattr(self, part.name).to(like) for part in fields(self)))

    def from_next(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return each frame as its next one shows it, and how much of each cell can be trusted.

        z: b c f h w, warped to the same shape. Trust: 1 1 f h w in [0, 1]. Both are 0 in the last frame.
        """
        warped = _warp_frames(z[:, :, 1:], self.forward)
        return functional.pad(warped, _AFTER), functional.pad(_trust(self.occluded_share), _AFTER)

    def from_previous(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return each frame as the one before it shows it, in the same way; 0 in the first frame."""
        warped = _warp_frames(z[:, :, :-1], self.backward)
        trust = _trust(self.disoccluded_share)
        return functional.pad(warped, _BEFORE), functional.pad(trust, _BEFORE)


_AFTER, _BEFORE = (0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 1, 0)  # a frame of zeros, as `pad` takes it


def _trust(occluded_share: Tensor) -> Tensor:
    """Return 1 - share, f 1 h w as 1 1 f h w."""
    return (1 - occluded_share).transpose(0, 1)[None]


def _warp_frames(z: Tensor, flow: Tensor) -> Tensor:
    """Warp a latent b c f h w by one flow a frame, f 2 h w."""
    b, c, f, h, w = z.shape
    frames = z.transpose(1, 2).reshape(b * f, c, h, w)
    warped = warp(frames, flow.repeat(b, 1, 1, 1))
    return warped.view(b, f, c, h, w).transpose(1, 2)


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Return W(I, F)(p) = I(p + F(p)), bilinear, with the edge repeated: optical_flow.warp for tensors.

    image: n c h w; flow: n 2 h w, in cells.
    """
    h, w = image.shape[-2:]
    x = torch.arange(w).to(flow) + flow[:, 0]
    y = torch.arange(h).to(flow)[:, None] + flow[:, 1]
    ends = torch.stack(((2 * x + 1) / w - 1, (2 * y + 1) / h - 1), -1)
    return functional.grid_sample(image, ends, padding_mode="border", align_corners=False)


def latent_flow(
    frames: Iterable[Tensor], stride: tuple[int, int, int], flow: FlowFunction = sharp_dis
) -> LatentFlow:
    """Return the flow between the latent frames of a clip, from its fitted frames 3 H W in [0, 1].

    stride: pixels per latent cell in time, height and width (ClipFormat.stride). A latent frame of several frames
    stands at the middle one of them. Flow over several frames is composed from each frame to the next, because a
    short step is found where the whole displacement is not. Raise UserError if there is only one latent frame.
    """
    pairs = _pixel_flows(frames, stride[0], flow)
    parts = [_to_cells(forward, backward, stride[1:]) for forward, backward in pairs]
    if not parts:
        raise UserError("flow needs two latent frames or more; the clip has one")
    return LatentFlow(*(torch.stack(part) for part in zip(*parts, strict=True)))


def _pixel_flows(
    frames: Iterable[Tensor], time_stride: int, flow: FlowFunction
) -> Iterator[tuple[ndarray, ndarray]]:
    """Yield the flow H W 2 in pixels from each latent frame's position to the next one's, and back."""
    previous = forward = backward = None
    for i, frame in enumerate(frames):
        current = np.ascontiguousarray(frame.permute(1, 2, 0).float().cpu().numpy())
        if previous is not None:
            step, step_back = flow(previous, current), flow(current, previous)
            forward = step if forward is None else compose(forward, step)
            backward = step_back if backward is None else compose(step_back, backward)
            if _is_latent_position(i, time_stride):
                yield forward, backward
                forward = backward = None
        previous = current


def _is_latent_position(i: int, time_stride: int) -> bool:
    """Return whether a latent frame stands at frame i.

    The first latent frame holds frame 0 alone. Each other stands at the middle of its `time_stride` frames, the later
    one of two.
    """
    return i == 0 or (i - 1) % time_stride == time_stride // 2


def _to_cells(
    forward: ndarray, backward: ndarray, cell: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the values of LatentFlow for one pair of frames. cell: its height and width in pixels."""
    height, width = cell
    size = torch.tensor([width, height], dtype=torch.float32).view(2, 1, 1)  # x, y, as in flow
    return (
        _cell_means(forward.transpose(2, 0, 1), cell) / size,
        _cell_means(backward.transpose(2, 0, 1), cell) / size,
        _cell_means(occlusion(forward, backward)[None], cell),
        _cell_means(occlusion(backward, forward)[None], cell),
    )


def _cell_means(values: ndarray, cell: tuple[int, int]) -> Tensor:
    """Return the mean over each cell, c H W to c h w."""
    return functional.avg_pool2d(torch.from_numpy(values.astype(np.float32))[None], cell)[0]
