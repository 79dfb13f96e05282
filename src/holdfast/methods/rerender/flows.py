"""Where the frames of a clip show the same: flow between any two of them, and what one of them does not show."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from ...base.lazy import functional, torch
from ...media import optical_flow
from ...models.vision.latent_flow import warp
from .settings import Config

if TYPE_CHECKING:
    from torch import Tensor

    from ...sampling.field import EditInputs

RELATIVE, ABSOLUTE = 0.01, 0.5  # alpha and beta of GMFlow's occlusion test


@dataclass(frozen=True)
class ClipFlow:
    """The flow of a clip's frames, H W 3 in [0, 1]. The flow between distant frames is composed of short ones."""

    frames: tuple[ndarray, ...]
    estimate: optical_flow.FlowFunction

    @functools.cached_property
    def _steps(self) -> dict[tuple[int, int], ndarray]:
        return {}

    def between(self, frame: int, other: int) -> ndarray:
        """Return the flow from a frame to another one, H W 2."""
        step = 1 if other > frame else -1
        flow = self.neighbours(frame, frame + step)
        for middle in range(frame + step, other, step):
            flow = optical_flow.compose(flow, self.neighbours(middle, middle + step))
        return flow

    def neighbours(self, frame: int, other: int) -> ndarray:
        """Return the flow from a frame to the one before or after it, which is estimated once."""
        if (frame, other) not in self._steps:
            self._steps[frame, other] = self.estimate(self.frames[frame], self.frames[other])
        return self._steps[frame, other]

    def warp(self, image: ndarray, frame: int, other: int) -> tuple[ndarray, ndarray]:
        """Return an image of `other`, H W 3, as `frame` shows it, and where it is visible there, H W boolean."""
        if frame == other:
            return image, np.ones(image.shape[:2], bool)
        flow, back = self.between(frame, other), self.between(other, frame)
        return optical_flow.warp(image, flow), is_visible(flow, back)

    def warp_cells(
        self, z: Tensor, frame: int, other: int, stride: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return a latent of `other`, 1 c 1 h w, as `frame` shows it, and where it is visible there, 1 1 1 h w."""
        flow, back = self.between(frame, other), self.between(other, frame)
        cell = torch.tensor(stride[:0:-1], dtype=torch.float32).view(2, 1, 1)  # x, y
        moved = torch.from_numpy(flow.transpose(2, 0, 1).astype(np.float32)) / cell
        cells = functional.avg_pool2d(moved[None], stride[1:]).to(z)
        return warp(z[:, :, 0], cells)[:, :, None], to_cells(is_visible(flow, back), stride).to(z)


def is_visible(flow: ndarray, back: ndarray) -> ndarray:
    """Return which pixels the other frame shows, H W boolean, by GMFlow's test (arXiv:2111.13680).

    Hidden where |F + W(B, F)| > 0.01 (|F| + |W(B, F)|) + 0.5, and where F leaves the frame.
    """
    returned = optical_flow.warp(back, flow)
    lengths = np.linalg.norm(flow, axis=-1) + np.linalg.norm(returned, axis=-1)
    mismatch = np.linalg.norm(flow + returned, axis=-1)
    return (mismatch <= RELATIVE * lengths + ABSOLUTE) & optical_flow.ends_in_frame(flow)


def to_cells(visible: ndarray, stride: tuple[int, int, int]) -> Tensor:
    """Return which latent cells are visible in all their pixels, 1 1 1 h w, 0 or 1."""
    hidden = torch.from_numpy(~visible)[None, None].float()
    return 1 - functional.max_pool2d(hidden, stride[1:])[:, :, None]


def open_flow(inputs: EditInputs, config: Config) -> ClipFlow:
    """Return the flow of the source clip."""
    frames = [to_array(frame) for frame in inputs.get_pixels().frames()]
    estimate = {"dis": optical_flow.dis, "sharp_dis": optical_flow.sharp_dis}
    return ClipFlow(tuple(frames), estimate[config.optical_flow])


def to_array(frame: Tensor) -> ndarray:
    """Return a frame 3 H W as H W 3 float32."""
    return np.ascontiguousarray(frame.permute(1, 2, 0).float().cpu().numpy())


def to_tensor(array: ndarray) -> Tensor:
    """Return a frame H W 3 as 3 H W."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1), np.float32))
