"""The optical flow of a clip on a model's latent grid: made once an edit, from the fitted source frames."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from ...base.errors import UserError
from ...base.names import choose
from ...media.optical_flow import FlowFunction, compose, dis, occlusion, sharp_dis
from .raft import load_raft

BACKENDS = ("sharp_dis", "dis", "raft")


def flow_function(name: str, weights: str | Path | None = None, device: str = "cpu") -> FlowFunction:
    """A flow function by its name. weights, device: of `raft`. Raises ValueError, and Missing as `raft` does."""
    name = choose(name, BACKENDS, "optical flow")
    if name == "raft":
        return load_raft(weights, device)
    return {"sharp_dis": sharp_dis, "dis": dis}[name]


@dataclass(frozen=True)
class LatentFlow:
    """Between each latent frame i and the next, of f; in latent cells (x, y), float32. Cells h w.

    lost and new are shares of a cell, in [0, 1].
    """

    forward: Tensor  # f-1 2 h w: where each cell of frame i goes in frame i+1
    backward: Tensor  # f-1 2 h w: where each cell of frame i+1 was in frame i
    occluded_share: Tensor  # f-1 1 h w: of frame i, what frame i+1 does not show
    disoccluded_share: Tensor  # f-1 1 h w: of frame i+1, what frame i does not show

    def to(self, like: Tensor) -> "LatentFlow":
        """The same, of the type and on the device of a latent."""
        return LatentFlow(*(getattr(self, part.name).to(like) for part in fields(self)))

    def from_next(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Each frame as its next one shows it: z b c f h w warped, and how much of each cell can be trusted.

        The second is 1 1 f h w in [0, 1]; 0 in the last frame, which has no next one.
        """
        moved = _warped_frames(z[:, :, 1:], self.forward)
        return functional.pad(moved, _AFTER), functional.pad(_seen(self.occluded_share), _AFTER)

    def from_previous(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Each frame as the one before it shows it, in the same way; 0 in the first frame."""
        moved = _warped_frames(z[:, :, :-1], self.backward)
        return functional.pad(moved, _BEFORE), functional.pad(_seen(self.disoccluded_share), _BEFORE)


_AFTER, _BEFORE = (0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 1, 0)  # a frame of zeros, as `pad` takes it


def _seen(hidden: Tensor) -> Tensor:
    """Shares f 1 h w of what is hidden to those of what is seen, 1 1 f h w."""
    return (1 - hidden).transpose(0, 1)[None]


def _warped_frames(z: Tensor, flow: Tensor) -> Tensor:
    """warped, for a latent b c f h w and one flow a frame, f 2 h w."""
    b, c, f, h, w = z.shape
    frames = z.transpose(1, 2).reshape(b * f, c, h, w)
    moved = warp(frames, flow.repeat(b, 1, 1, 1))
    return moved.view(b, f, c, h, w).transpose(1, 2)


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """motion.warp for tensors: W(I, F)(p) = I(p + F(p)), bilinear, the edge repeated. n c h w, n 2 h w in cells."""
    h, w = image.shape[-2:]
    x = torch.arange(w).to(flow) + flow[:, 0]
    y = torch.arange(h).to(flow)[:, None] + flow[:, 1]
    ends = torch.stack(((2 * x + 1) / w - 1, (2 * y + 1) / h - 1), -1)
    return functional.grid_sample(image, ends, padding_mode="border", align_corners=False)


def latent_flow(frames: Iterable[Tensor], stride: tuple[int, int, int], flow: FlowFunction = sharp_dis) -> LatentFlow:
    """The flow between the latent frames of a clip, from its fitted frames 3 H W in [0, 1].

    stride: pixels a latent cell: time, height, width (Grid.stride). A latent frame of several frames stands at the
    middle one of them. Flow over several frames is joined from one to the next: a step is short enough to be found
    where the whole way is not.
    """
    parts = [
        _on_cells(ahead, back, stride[1:]) for ahead, back in _between(frames, stride[0], flow)
    ]
    if not parts:
        raise UserError("flow needs two latent frames or more; the clip has one")
    return LatentFlow(*(torch.stack(part) for part in zip(*parts, strict=True)))


def _between(frames: Iterable[Tensor], time: int, flow: FlowFunction) -> Iterator[tuple[ndarray, ndarray]]:
    """Flow H W 2 in pixels from where each latent frame stands to where the next one does, and back."""
    last = ahead = back = None
    for i, frame in enumerate(frames):
        here = np.ascontiguousarray(frame.permute(1, 2, 0).float().cpu().numpy())
        if last is not None:
            onward, returned = flow(last, here), flow(here, last)
            ahead = onward if ahead is None else compose(ahead, onward)
            back = returned if back is None else compose(returned, back)
            if _stands(i, time):
                yield ahead, back
                ahead = back = None
        last = here


def _stands(i: int, time: int) -> bool:
    """Whether a latent frame stands at frame i: 0, then the middle, the later of two, of each group of `time` frames.

    The first latent frame holds one frame alone.
    """
    return i == 0 or (i - 1) % time == time // 2


def _on_cells(
    ahead: ndarray, back: ndarray, cell: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What Flows holds of one pair of frames."""
    high, wide = cell
    size = torch.tensor([wide, high], dtype=torch.float32).view(2, 1, 1)  # x, y, as vectors go
    vectors = [_mean(flow.transpose(2, 0, 1), cell) / size for flow in (ahead, back)]
    hidden = [_mean(occlusion(*pair)[None], cell) for pair in ((ahead, back), (back, ahead))]
    return *vectors, *hidden


def _mean(values: ndarray, cell: tuple[int, int]) -> Tensor:
    """Mean over each cell, c H W to c h w."""
    return functional.avg_pool2d(torch.from_numpy(values.astype(np.float32))[None], cell)[0]
