"""Optional packages of the metrics, imported when one is asked for, and frames as they take them."""

from numpy import ndarray

from ..errors import Missing


def batch(frame: ndarray):
    """H W 3 to a tensor 1 3 H W."""
    import torch

    return torch.from_numpy(frame).permute(2, 0, 1)[None]


def torchmetrics():
    try:
        import torchmetrics
        import torchmetrics.functional.image
    except ImportError as error:
        raise Missing(
            "this metric needs torchmetrics; get it with: pip install 'holdfast[bench]'"
        ) from error
    return torchmetrics


def perceptual(net: str):
    """LPIPS of torchmetrics.

    Raises Missing where torchvision, which holds its network, or the network's weights are not here.
    """
    try:
        import torchvision  # noqa: F401
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except ImportError as error:
        raise Missing(
            "lpips needs torchvision; get it with: pip install 'holdfast[bench]' torchvision"
        ) from error
    try:
        return LearnedPerceptualImagePatchSimilarity(net, normalize=True)
    except OSError as error:
        raise Missing(
            f"lpips needs the weights of torchvision's {net}, which could not be fetched: {error}"
        ) from error
