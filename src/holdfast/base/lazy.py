"""Libraries that are imported when they are first used, so that methods can be listed without them."""

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch as torch
    from torch import nn as nn
    from torch.nn import functional as functional


Function = TypeVar("Function", bound=Callable[..., Any])


class LazyModule:
    """A stand-in for a module. The first use of it imports the module."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


if not TYPE_CHECKING:
    torch = LazyModule("torch")
    nn = LazyModule("torch.nn")
    functional = LazyModule("torch.nn.functional")


def disable_compiler(function: Function) -> Function:
    """Keep torch.compile out of a function, as `torch.compiler.disable` does, without an import of torch."""

    eager: Callable[..., Any] | None = None  # a cache of functools would warn while torch compiles

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal eager
        eager = eager or torch.compiler.disable(function)
        return eager(*arguments, **options)

    call._torchdynamo_disable = True  # pyright: ignore[reportAttributeAccessIssue]  torch reads it
    return call  # pyright: ignore[reportReturnType]  it takes and returns the same
