"""Choose the device and the number format that a model runs in."""

from typing import TYPE_CHECKING

from ..base.errors import UserError

if TYPE_CHECKING:
    import torch


def pick_device(device: str) -> "torch.device":
    """Return the device for auto, cpu or cuda. Raise UserError for another name, and for cuda without a GPU."""
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device is auto, cpu or cuda, not {device!r}")
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise UserError("torch finds no CUDA device on this machine", "use the device cpu or auto")
    return torch.device("cuda" if has_gpu and device != "cpu" else "cpu")


def pick_dtype(dtype: str, device: "torch.device") -> "torch.dtype":
    """Return the dtype for auto, bfloat16 or float32. auto is bfloat16 on a GPU and float32 on a CPU."""
    import torch

    dtypes = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    dtypes["auto"] = torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in dtypes:
        raise UserError(f"dtype is auto, bfloat16 or float32, not {dtype!r}")
    return dtypes[dtype]
