"""Optional packages of the metrics, imported on first use, and frames in the form that they take."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy import ndarray

from ..base.errors import MissingDependencyError, install_remedy

if TYPE_CHECKING:
    from torch import Tensor

# LPIPS network: the class of its weights in torchvision
NETWORKS = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}


def to_batch(frame: ndarray) -> "Tensor":
    """Convert a frame H W 3 to a tensor 1 3 H W."""
    import torch

    return torch.from_numpy(frame).permute(2, 0, 1)[None]


def import_torchmetrics() -> Any:
    """Import torchmetrics. Raise MissingDependencyError if it is not installed."""
    try:
        import torchmetrics
        import torchmetrics.functional.image
    except ImportError as error:
        raise MissingDependencyError(
            "this metric needs torchmetrics", install_remedy("bench")
        ) from error
    return torchmetrics


def load_lpips(net: Literal["alex", "vgg", "squeeze"]) -> Any:
    """Load torchmetrics' LPIPS with a network of torchvision, without a download.

    Raise MissingDependencyError if torchvision or the network's weights are missing: torchvision itself would
    download the weights without asking.
    """
    try:
        import torchvision  # pyright: ignore[reportMissingImports]  # optional
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except ImportError as error:
        raise MissingDependencyError(
            "lpips needs torchmetrics and torchvision", install_remedy("bench", "raft")
        ) from error
    url = getattr(torchvision.models, NETWORKS[net]).DEFAULT.url
    find_weights(url, f"lpips needs the weights of torchvision's {net}")
    return LearnedPerceptualImagePatchSimilarity(net, normalize=True)


def find_weights(url: str, requirement: str) -> Path:
    """Return where torch hub stores a file. Raise MissingDependencyError with the download command if it is missing."""
    import torch

    file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not file.is_file():
        raise MissingDependencyError(
            f"{requirement}, which are not at {file}",
            f"get them with: curl -L --create-dirs -o {shlex.quote(str(file))} {url}",
        )
    return file
