"""The other model of an edit: an image model that helps the method, or one that makes the first frame."""

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ..models import registry
from ..models.base import Backbone, unwrap
from .planning import ModelChoice


@dataclass(frozen=True)
class ParkedModel:
    """The image model of a backbone's last edit, on the CPU.

    identity: how it was loaded, and from which files. parts: those that return to the device.
    """

    identity: tuple[str | None, ...]
    model: Backbone
    parts: list[nn.Module]


_parked: weakref.WeakKeyDictionary[Backbone, ParkedModel] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def borrow_image_model(choice: ModelChoice, backbone: Backbone) -> Iterator[Backbone | None]:
    """Yield the image model of an edit, on the backbone's device; None where none is chosen.

    Afterwards it is parked on the CPU for the backbone's next edit. An edit that does not use it releases it.
    """
    owner = unwrap(backbone)
    parked = _parked.pop(owner, None)
    if choice.name is None:
        del parked
        yield None
        return
    arguments = _load_arguments(choice.name, choice.weights, backbone)
    identity = (registry.weights_identity(choice.name, choice.weights), *arguments)
    if parked and parked.identity == identity:
        model = parked.model
        for part in parked.parts:
            part.to(model.device)
    else:
        del parked  # before the other model is loaded
        model = registry.load_backbone(*arguments)
    try:
        yield model
    finally:
        parts = [part for part in model.parts.values() if _is_on(part, model.device)]
        for part in parts:
            part.to("cpu")
        _parked[owner] = ParkedModel(identity, model, parts)


def _is_on(part: nn.Module, device: torch.device) -> bool:
    first = next(part.parameters(), None)
    return first is not None and first.device.type == device.type


def load_helper(choice: ModelChoice, backbone: Backbone) -> Backbone:
    """Load a chosen model, on the backbone's device."""
    assert choice.name is not None
    return registry.load_backbone(*_load_arguments(choice.name, choice.weights, backbone))


def _load_arguments(
    name: str, weights: str | None, backbone: Backbone
) -> tuple[str, str | None, str, str]:
    return name, weights, str(backbone.device), str(backbone.dtype).removeprefix("torch.")
