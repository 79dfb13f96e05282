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
from typing import Any

from ..base.notices import warn_user
from ..base.schema import list_settings
from .task import EditTask

DRAFT_SHARE = 0.4
NOT_MEASURED = "not measured on this backbone"


def apply_quality(
    task: EditTask, recommended: Mapping[str, Any], config: Any, sources: Mapping[str, str]
) -> tuple[Any, dict[str, str]]:
    """Return a method's settings with the steps of the task's quality, and where each value comes from.

    recommended: the settings that suit the model. config, sources: as `schema.configure` returns them. Warn where the
    user gives the steps, so that quality has no effect.
    """
    if sources["steps"] == "given":
        if task.quality != "normal":
            warn_user("quality has no effect: steps is given")
        return config, dict(sources)
    setting = list_settings(type(config))["steps"]
    is_measured = setting.follows_model and "steps" in recommended
    note = "" if is_measured else f", {NOT_MEASURED}"
    if task.quality == "normal":
        return config, {**sources, "steps": sources["steps"] + note}
    values = _draft(config) if task.quality == "draft" else {"steps": _best(config)}
    if setting.follows_model or sources.get("learning_rate") == "given":
        values.pop("learning_rate", None)
    changed = dataclasses.replace(config, **values)
    return changed, {**sources, **dict.fromkeys(values, f"quality {task.quality}{note}")}


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
