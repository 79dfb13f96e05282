"""The other model of an edit: one that helps the method, one that makes the first frame, or a ControlNet."""

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


# The ControlNet of a backbone's last edit, with its folder.
_controlnets: weakref.WeakKeyDictionary[Backbone, tuple[str | None, Any]]
_controlnets = weakref.WeakKeyDictionary()
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


@contextlib.contextmanager
def borrow_controlnet(folder: str | None, backbone: Backbone) -> Iterator[None]:
    """Let a backbone use the ControlNet of a folder inside the block; None: it uses none.

    Afterwards it stays in RAM for the backbone's next edit with the same one. An edit without one releases it.
    """
    owner = unwrap(backbone)
    known, network = _controlnets.pop(owner, (None, None))
    if folder is None:
        yield
        return
    if known != folder:
        from ..models.unet.control import load_controlnet

        del network  # before the other one is loaded
        network = load_controlnet(Path(folder), backbone.dtype)
    try:
        with backbone.use_controlnet(network):
            yield
    finally:
        _controlnets[owner] = folder, network


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
