"""The events of an edit, which every front end consumes, and the callback that reports its progress."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from ..sampling.field import Step

ProgressCallback = Callable[[str, int, int], None]  # (stage, done, count)


@dataclass(frozen=True)
class Progress:
    """`done` of `count` parts of a stage are finished."""

    stage: str
    done: int
    count: int


@dataclass(frozen=True)
class NoticeIssued:
    """The run found something that its user should know."""

    text: str


@dataclass(frozen=True)
class AutoMaskFound:
    """The automatic mask was found. cells: f h w, boolean, in latent cells."""

    cells: "Tensor"
    stage: str = "mask"


@dataclass(frozen=True)
class FirstFramePainted:
    """An image model made the edited first frame from the prompts. frame: 3 H W in [0, 1], of the model's size."""

    frame: "Tensor"
    evaluations: int
    stage: str = "first frame"


@dataclass(frozen=True)
class EditFinished:
    """The sampling loop ended.

    z: the edited latent, 1 c f h w. evaluations: of the backbone's network. dense_equivalents: what they cost, in
    evaluations of the whole latent. reused_evaluations: those of an earlier edit of the clip. is_edited: False where
    the method had no step to do, so that the latent is the clip's own. agreement: the model's score of the result
    (agreement.py), where the job asks for it. is_in_domain: whether clip and prompts are of the kind that the score
    was calibrated on.
    """

    z: "Tensor"
    evaluations: int
    image_model_evaluations: int = 0
    dense_equivalents: float = 0.0
    reused_evaluations: int = 0
    stage: str = "edit"
    is_edited: bool = True
    agreement: float | None = None
    judge_evaluations: int = 0
    is_in_domain: bool = True


Event: TypeAlias = (
    "FirstFramePainted | Progress | NoticeIssued | AutoMaskFound | Step | EditFinished"
)


def report_progress(event: object, on_progress: ProgressCallback | None) -> None:
    """Call on_progress for an event that says how far a stage is."""
    from ..sampling.field import Step

    if on_progress and isinstance(event, Progress):
        on_progress(event.stage, event.done, event.count)
    elif on_progress and isinstance(event, Step):
        on_progress(event.stage, event.index, event.count)
