"""Compile a denoiser's blocks with torch.compile.

A block is compiled once, and the code serves all blocks of its class. Attention hooks stay out of the compiled code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..base.lazy import torch
from ..base.notices import warn_user
from .base import Backbone, unwrap

if TYPE_CHECKING:
    from torch import nn

DENOISERS = ("transformer", "transformer_2", "unet")
BLOCKS = ("WanTransformerBlock", "BasicTransformerBlock", "TemporalBasicTransformerBlock")


@contextlib.contextmanager
def compile_blocks(backbone: Backbone, backend: str = "inductor") -> Iterator[None]:
    """Run the blocks of a backbone's denoisers compiled, inside the block.

    Warn the user where they cannot be compiled, and run them as they are.
    """
    own = unwrap(backbone)
    problem = _find_problem(own, backend)
    if problem:
        warn_user(f"{own.name} is not compiled: {problem}")
        yield
        return
    own.prepare_denoiser = lambda network: _compile(network, backend)
    try:
        for name in DENOISERS:
            if name in own.parts:
                _compile(own.parts[name], backend)
        yield
    finally:
        del own.prepare_denoiser
        for name in DENOISERS:
            if name in own.parts:
                _restore(own.parts[name])


def _compile(network: nn.Module, backend: str) -> None:
    for module in _find_blocks(network):
        module.compile(backend=backend)


def _restore(network: nn.Module) -> None:
    for module in _find_blocks(network):
        module._compiled_call_impl = None  # torch has no public way back


def _find_blocks(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if type(module).__name__ in BLOCKS]


def _find_problem(backbone: Backbone, backend: str) -> str:
    """Return why a backbone's blocks cannot be compiled; empty where they can."""
    if "pixels" in backbone.capabilities:
        return "it has no network"
    if backbone.streams_blocks:
        return "its blocks are streamed, and each would be compiled again; use more --memory"
    from torch._dynamo.exc import TorchDynamoException

    probe = torch.compile(lambda x: x + 1, backend=backend)
    try:
        probe(torch.ones(2, device=backbone.device))
    except (TorchDynamoException, RuntimeError) as error:
        return f"torch.compile does not work here ({str(error).strip().splitlines()[0][:120]})"
    return ""
