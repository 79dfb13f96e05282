"""Estimate optical flow with torchvision's RAFT, an optional package: a flow function as in `media/optical_flow.py`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from ...base.errors import MissingDependencyError, install_remedy
from ...base.lazy import torch
from ...media.optical_flow import FlowFunction, downscale_flow, upscale_factor

MIN_SIDE = 128  # pixels of a side; torchvision's coarsest correlations need as many
WEIGHTS = "raft_large_C_T_SKHT_V2-ff5fadd5.pth"  # torchvision's default ones


def load_raft(weights: str | Path | None = None, device: str = "cpu") -> FlowFunction:
    """Return a flow function: RAFT (Teed and Deng, arXiv:2003.12039), torchvision's large one.

    weights: the file of its state dict, or None for torch hub's cache. Nothing is downloaded: raise
    MissingDependencyError, with the command to run, if torchvision or the weights are not there.
    """
    try:
        # an optional package
        from torchvision.models.optical_flow import (  # pyright: ignore[reportMissingImports]
            raft_large,
        )
    except ImportError as error:
        raise MissingDependencyError("raft needs torchvision", install_remedy("raft")) from error
    model = raft_large(weights=None, progress=False)
    model.load_state_dict(torch.load(weights_file(weights), map_location="cpu", weights_only=True))
    model.eval().requires_grad_(False).to(device)

    def raft(first: ndarray, second: ndarray) -> ndarray:  # results name the flow by `__name__`
        scale, size = upscale_factor(first, MIN_SIDE), first.shape[:2]
        pair = [torch.from_numpy(prepare(frame, scale)).to(device) for frame in (first, second)]
        with torch.no_grad():
            refined = model(*pair)[-1][0]  # 2 H W, after the last refinement
        flow = refined.permute(1, 2, 0).float().cpu().numpy()
        flow = flow[: scale * size[0], : scale * size[1]]
        return downscale_flow(np.ascontiguousarray(flow), size, scale)

    return raft


def weights_file(weights: str | Path | None) -> Path:
    """Return the path of RAFT's weights. Raise MissingDependencyError if it is no file."""
    file = Path(weights or Path(torch.hub.get_dir(), "checkpoints", WEIGHTS))
    if not file.is_file():
        url = f"https://download.pytorch.org/models/{WEIGHTS}"
        raise MissingDependencyError(
            f"the weights of RAFT (20 MB) are not at {file}",
            f"get them with: curl --create-dirs -o '{file}' {url}",
        )
    return file


def prepare(frame: ndarray, scale: int) -> ndarray:
    """Return a frame as RAFT takes it: 1 3 H W in [-1, 1], enlarged, with sides padded to a multiple of 8.

    The padding below and to the right repeats the edge.
    """
    if scale > 1:
        frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    below, right = (-side % 8 for side in frame.shape[:2])
    padded = np.pad(frame, ((0, below), (0, right), (0, 0)), mode="edge")
    return np.ascontiguousarray(2 * padded.transpose(2, 0, 1) - 1)[None]
