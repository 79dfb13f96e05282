"""Choose the device and the number format that a model runs in."""

import re
from typing import TYPE_CHECKING

from ..base.errors import UserError
from ..base.schema import DEVICE_NAMES, DEVICE_PATTERN, DTYPE_NAMES

if TYPE_CHECKING:
    import torch
    from torch import nn


def pick_device(device: str) -> "torch.device":
    """Return the device for a name: auto, cpu, cuda, cuda:N, xpu, xpu:N or mps.

    auto is the first CUDA device, and the CPU where there is none. Raise UserError for another name, and for a device
    that torch does not find on this machine.
    """
    import torch

    if not re.fullmatch(DEVICE_PATTERN, device):
        raise UserError(f"device is {DEVICE_NAMES}, not {device!r}")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = torch.device(device)
    count = _count_devices(found.type)
    if not count:
        name = found.type.upper()
        cause = f"torch finds no {name} device on this machine"
        raise UserError(cause, "use the device cpu or auto")
    if (found.index or 0) >= count:
        last = f"{found.type}:{count - 1}"
        raise UserError(
            f"torch finds no device {device} on this machine", f"the last one is {last}"
        )
    return found


def _count_devices(kind: str) -> int:
    """Return how many devices of a kind torch finds."""
    import torch

    if kind == "mps":
        return int(torch.backends.mps.is_available())
    counts = {"cuda": torch.cuda.device_count, "xpu": torch.xpu.device_count}
    return counts[kind]() if kind in counts else 1


def pick_dtype(dtype: str, device: "torch.device") -> "torch.dtype":
    """Return the dtype for auto, bfloat16, float16 or float32.

    auto is float32 on a CPU, and on a GPU bfloat16, or float16 where the GPU does not compute in bfloat16 itself.
    """
    import torch

    dtypes = {
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "float32": torch.float32,
    }
    if dtype == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if _supports_bfloat16(device) else torch.float16
    if dtype not in dtypes:
        raise UserError(f"dtype is {DTYPE_NAMES}, not {dtype!r}")
    return dtypes[dtype]


def _supports_bfloat16(device: "torch.device") -> bool:
    """Return whether a GPU computes in bfloat16 without emulation."""
    import torch

    if device.type == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    if device.type == "xpu":
        return torch.xpu.is_bf16_supported(including_emulation=False)
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def use_channels_last(module: "nn.Module", device: "torch.device") -> None:
    """Store the weights of 2D convolutions with channels last for a CUDA device, whose kernels compute in that order.

    On other devices the weights stay as they are, and so do the numbers.
    """
    import torch

    if device.type != "cuda":
        return
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
