"""Estimate depth on a frame with a model of transformers (Depth Anything V2, Yang et al., arXiv:2406.09414)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ..hub import find_folder
from .sam2 import load_model

WEIGHTS = "depth-anything/Depth-Anything-V2-Small-hf"


def load_estimator(weights: str = WEIGHTS) -> Callable[[Tensor], Tensor]:
    """Return a function from a frame to its depth picture, both 3 H W in [0, 1]; near is bright.

    Raise MissingDependencyError, with the command that gets them, if the weights are not on this machine.
    """
    from transformers import AutoImageProcessor, DepthAnythingForDepthEstimation

    folder = find_folder(weights)
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    model = load_model(DepthAnythingForDepthEstimation, "depth_anything", str(folder)).eval()

    @torch.no_grad()
    def estimate(frame: Tensor) -> Tensor:
        image = (frame * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        inputs = processor(images=image, return_tensors="pt")
        depth = model(**inputs).predicted_depth[None]  # 1 1 h w; larger is nearer
        return scale_depth(depth, frame.shape[-2:])

    return estimate


def scale_depth(depth: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return a map 1 1 h w as a picture 3 H W of a size, from 0 at its smallest value to 1 at its largest."""
    resized = functional.interpolate(depth, size, mode="bicubic", align_corners=False)[0]
    low, high = resized.aminmax()
    return ((resized - low) / (high - low).clamp(min=1e-6)).expand(3, -1, -1)
