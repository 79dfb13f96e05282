"""Optional packages of the metrics, imported when one is asked for, and frames as they take them."""

import shlex
from pathlib import Path

from numpy import ndarray

from ..base.errors import MissingDependencyError


def batch(frame: ndarray):
    """H W 3 to a tensor 1 3 H W."""
    import torch

    return torch.from_numpy(frame).permute(2, 0, 1)[None]


def torchmetrics():
    try:
        import torchmetrics
        import torchmetrics.functional.image
    except ImportError as error:
        raise MissingDependencyError(
            "this metric needs torchmetrics; get it with: pip install 'holdfast[bench]'"
        ) from error
    return torchmetrics


NETWORKS = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}


def perceptual(net: str):
    """LPIPS of torchmetrics. Nothing is downloaded: torchvision would fetch its network without being asked.

    Raises Missing where torchvision, which holds the network, or the network's weights are not here.
    """
    try:
        import torchvision
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except ImportError as error:
        raise MissingDependencyError(
            "lpips needs torchvision; get it with: pip install 'holdfast[bench]' torchvision"
        ) from error
    url = getattr(torchvision.models, NETWORKS[net]).DEFAULT.url
    weights(url, f"lpips needs the weights of torchvision's {net}")
    return LearnedPerceptualImagePatchSimilarity(net, normalize=True)


def weights(url: str, needs: str) -> Path:
    """Where torch hub keeps a file. Raises Missing with the command that brings it."""
    import torch

    file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not file.is_file():
        raise MissingDependencyError(
            f"{needs}, which are not at {file}; "
            f"get them with: curl -L --create-dirs -o {shlex.quote(str(file))} {url}"
        )
    return file
