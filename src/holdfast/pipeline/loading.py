"""Load the backbone of an edit with its parts where the edit's memory plan says."""

from typing import TYPE_CHECKING

from ..base.errors import UserError
from ..base.memory import parse_limit
from ..models import registry
from ..models.placement import DEFAULT, Placements
from .planning import Plan, make_plan
from .task import EditTask
from .validation import ValidatedTask, keyframes_by_index, validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ..models.base import Backbone


def load_planned(plan: Plan) -> "Backbone":
    """Load the backbone of a plan."""
    task, placements = plan.task, plan.memory.placements
    return registry.load_backbone(task.backbone, task.weights, task.device, task.dtype, placements)


def load_for_task(task: EditTask, validated: ValidatedTask | None = None) -> "Backbone":
    """Load the backbone of a task. Raise as `make_plan` does."""
    return load_planned(_plan(task, validated or validate(task)))


def _plan(task: EditTask, validated: ValidatedTask) -> Plan:
    clip, part = validated.clip, validated.part
    size, keyframes = (clip.size[1], clip.size[0]), keyframes_by_index(task, clip, part)
    return make_plan(task, validated.info, len(part), size, keyframes)


def choose_placements(task: EditTask) -> Placements:
    """Return where the parts are for a backbone that stays loaded for several tasks.

    Only a size that a task names counts: what is free is less while the backbone of an earlier task is loaded.
    """
    limit = parse_limit(task.memory)
    if limit.bytes is None and not limit.storage:
        return DEFAULT
    return _plan(task, validate(task)).memory.placements


def check_windows(plan: Plan, extra: "Mapping[str, Tensor]") -> None:
    """Raise UserError where progress was saved with windows of another length, because of another --memory.

    extra: the tensors that were saved with the progress.
    """
    saved, own = int(extra["window"]) if "window" in extra else 0, plan.memory.window
    if saved != own:
        raise UserError(
            f"the saved progress has windows of {_window_text(saved)}, and with "
            f"--memory {plan.task.memory} they have {_window_text(own)}",
            "use the same --memory, or run without --resume",
        )


def _window_text(window: int) -> str:
    return f"{window} latent frames" if window else "the usual length"
