"""Models of two denoisers: each noise level uses one of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .spec import SECOND

FIRST = "transformer"


@dataclass(frozen=True)
class LazyModule:
    """A denoiser that is loaded when it is needed first, with what is read of it before."""

    config: Mapping[str, Any]
    dtype: torch.dtype
    load: Callable[[], nn.Module]


@dataclass(frozen=True)
class ExpertPair:
    """Denoisers of one structure: the first one is used at noise levels from `boundary`, the second one below."""

    first: Any  # nn.Module | LazyModule | None
    second: Any = None
    boundary: float = 0.0

    def part_at(self, sigma: float) -> str:
        """Return the name of the part in use at a noise level. Timesteps are compared as in diffusers' pipeline."""
        return FIRST if 1000 * sigma >= 1000 * self.boundary else SECOND
