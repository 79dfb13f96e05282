"""Quality: how many steps an edit takes, as one word instead of a method's setting.

normal: the steps that the model recommends, or else the method's default, which is its authors' figure.
draft: 40 % of them. best: the method's default, unless normal has more.
The strength stays the same share of the steps, and at least one step is run. Score distillation adds up its
iterations, so a draft takes longer steps: iterations times learning rate stays the same. Adapters that a method fits to
the clip are trained as long as ever, because later edits of the clip use them again.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..base.notices import warn_user
from ..base.schema import list_settings
from ..models import registry
from .task import EditTask

if TYPE_CHECKING:
    from ..models.base import Backbone
    from ..models.registry import BackboneInfo

DRAFT_SHARE = 0.4
NOT_MEASURED = "not measured on this backbone"


def apply_quality(
    task: EditTask, model: "Backbone | BackboneInfo", config: Any, sources: Mapping[str, str]
) -> tuple[Any, dict[str, str]]:
    """Return a method's settings with the steps of the task's quality, and where each value comes from.

    config, sources: as `schema.configure` returns them. Warn where the user gives the steps, so that quality has no
    effect. Steps whose results were not measured on the model say so.
    """
    if sources["steps"] == "given":
        if task.quality != "normal":
            warn_user("quality has no effect: steps is given")
        return config, dict(sources)
    follows_model = list_settings(type(config))["steps"].follows_model
    values: dict[str, Any] = {}
    if task.quality == "draft":
        values = _draft(config)
        if follows_model or sources.get("learning_rate") == "given":
            values.pop("learning_rate", None)
    elif task.quality == "best":
        values = {"steps": _best(config)}
    config = dataclasses.replace(config, **values)
    sources = {**sources, **dict.fromkeys(values, f"quality {task.quality}")}
    is_measured = follows_model and _is_measured(task.quality, model, config.steps)
    for name in {"steps", *values} if not is_measured else ():
        sources[name] += f", {NOT_MEASURED}"
    return config, sources


def _is_measured(quality: str, model: "Backbone | BackboneInfo", steps: int) -> bool:
    """Return whether a model's steps were measured: those that suit an embedded model, and those that it lists."""
    spec = registry.specs().get(model.name)
    if quality == "normal":
        return "steps" in model.recommended and not (spec and spec.download_gb)
    return spec is not None and steps in spec.measured_steps


def _draft(config: Any) -> dict[str, Any]:
    steps = draft_steps(config.steps, config.strength)
    values = {"steps": steps}
    rate = getattr(config, "learning_rate", None)
    return values if rate is None else values | {"learning_rate": rate * config.steps / steps}


def draft_steps(steps: int, strength: float) -> int:
    """Return 40 % of the steps, and at least so many that the strength runs one of them."""
    needed = math.floor(0.5 / strength) + 1 if strength else 1
    return min(steps, max(round(DRAFT_SHARE * steps), needed))


def _best(config: Any) -> int:
    default = list_settings(type(config))["steps"].default
    return max(config.steps, default)
