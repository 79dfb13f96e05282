"""The second model of an edit: one that guides it, or that paints its first frame."""

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..models import registry
from ..models.base import Backbone, unwrap
from .planning import ModelChoice


@dataclass(frozen=True)
class ParkedModel:
    """The model that guided a backbone's last edit, on the CPU."""

    wanted: tuple[str | None, ...]  # what it was asked by, and the identity of its files then
    model: Backbone
    parts: list[Any]  # that come back to the device


_parked: weakref.WeakKeyDictionary[Backbone, ParkedModel] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def borrow_image_model(chosen: ModelChoice, backbone: Backbone) -> Iterator[Backbone | None]:
    """Have the model that guides an edit inside, on its device; None where there is none.

    Afterwards it waits on the CPU for the next edit of this backbone; an edit that has no use for it lets it go.
    """
    own = unwrap(backbone)
    known = _parked.pop(own, None)
    if chosen.name is None:
        del known
        yield None
        return
    identity = registry.weights_identity(chosen.name, chosen.weights)
    wanted = (identity, *_load_arguments(chosen, backbone))
    if known and known.wanted == wanted:
        model = known.model
        for part in known.parts:
            part.to(model.device)
    else:
        del known  # before the other is loaded
        model = load_helper(chosen, backbone)
    try:
        yield model
    finally:
        parts = [part for part in model.parts.values() if _is_on(part, model.device)]
        for part in parts:
            part.to("cpu")
        _parked[own] = ParkedModel(wanted, model, parts)


def _is_on(part: Any, device: torch.device) -> bool:
    first = next(part.parameters(), None)
    return first is not None and first.device.type == device.type


def load_helper(chosen: ModelChoice, backbone: Backbone) -> Backbone:
    """A plan's second model, on the backbone's device."""
    return registry.load_backbone(*_load_arguments(chosen, backbone))


def _load_arguments(chosen: ModelChoice, backbone: Backbone) -> tuple[str | None, ...]:
    kind = str(backbone.dtype).removeprefix("torch.")
    return chosen.name, chosen.weights, backbone.device.type, kind
