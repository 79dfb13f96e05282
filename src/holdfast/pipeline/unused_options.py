"""Options without effect, each told with the reason: a wish that is silently not granted is taken for a fault."""

from pathlib import Path
from types import ModuleType
from typing import Any

from ..base.notices import note
from ..media import video
from .task import EditTask

OFF_VALUES = (0, False, "off", "none")
CODECS_WITHOUT_CRF = ("lossless", "lossless-rgb", "ffv1", "prores")  # codecs without a quality of their own


def warn_unused_file_options(task: EditTask, clip: video.Clip) -> None:
    """What does nothing to this clip or this kind of result. clip: as it was treated."""
    path = Path(task.output)
    for text in clip_notices(task, clip):
        note(text)
    encoded = task.codec != "auto" or task.crf is not None
    if task.output and path.suffix.lower() not in video.CONTAINERS and encoded:
        note(f"codec and crf have no effect on {path.name}")
    if task.crf is not None and task.codec in CODECS_WITHOUT_CRF:
        note(f"crf has no effect with codec {task.codec}")
    shaped = task.feather or task.invert_mask or task.grow or task.outline != "given"
    if task.mask is None and shaped:
        note("feather, grow, outline and invert-mask have no effect without a mask")
    of_file = task.mask and task.mask != "auto" and Path(task.mask).exists()
    if task.mask_channel != "auto" and not of_file:
        note("mask-channel has no effect without a mask that is a file")
    if task.deinterlace and not clip.is_deinterlaced:
        note(f"deinterlace has no effect: {clip.path.name} is not interlaced")
    if task.background and clip.background is None:
        note(f"background has no effect: {clip.path.name} is not seen through")


def clip_notices(task: EditTask, clip: video.Clip) -> list[str]:
    """What a user should know of the clip, and of what its result cannot hold, before any work."""
    lost = video.losses(Path(task.output), clip, task.codec) if task.output else []
    return [*clip.cautions, *lost]


def warn_unused_settings(task: EditTask, method: ModuleType, cfg: Any, origin: dict[str, str]) -> None:
    """What a method makes no use of with these settings: it says in ONLY_WITH which need which, as NAME or
    NAME=VALUE; and in SEEDED whether it draws anything.
    """
    if task.changes_nothing:
        return
    for name, needed in getattr(method, "ONLY_WITH", {}).items():
        other, _, value = needed.partition("=")
        now = getattr(cfg, other)
        wanted = now == value if value else now not in OFF_VALUES
        if origin[name] == "given" and not wanted:
            note(f"{name} has no effect while {other} is {now}")
    if task.seed and not getattr(method, "SEEDED", True) and task.mask != "auto":
        note(f"{task.method} draws nothing at random: the seed has no effect")


def warn_unused_prompts(task: EditTask, about: Any, beside: str | None) -> None:
    """Prompts beside a first frame, which alone steers some models. beside: the name of the second model, which is told
    them.
    """
    told = task.source_prompt.strip() or task.target_prompt.strip() or task.negative.strip()
    if task.first_frame and told and "text" not in about.capabilities and not beside:
        note(f"the prompts have no effect on {about.name}, which is steered by its first frame")
