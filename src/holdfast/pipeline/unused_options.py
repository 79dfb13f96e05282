"""Warn about options that have no effect, with the reason: a user would take an ignored option for a fault."""

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..base.notices import warn_user
from ..media import video
from .task import EditTask

if TYPE_CHECKING:
    from ..models.base import Backbone
    from ..models.registry import BackboneInfo

GUIDANCE_SETTINGS = ("guidance_interval", "negative_every")
CODECS_WITHOUT_CRF = ("lossless", "lossless-rgb", "ffv1", "prores")


def warn_unused_file_options(task: EditTask, clip: video.Clip) -> None:
    """Warn about options that change nothing for this clip or this kind of result.

    clip: with the options that it was opened with (deinterlacing, background).
    """
    for text in clip_notices(task, clip):
        warn_user(text)
    _warn_unused_encoding(task)
    _warn_unused_mask_options(task)
    if task.deinterlace and not clip.is_deinterlaced:
        warn_user(f"deinterlace has no effect: {clip.path.name} is not interlaced")
    if task.background and clip.background is None:
        warn_user(f"background has no effect: {clip.path.name} has no transparency")


def _warn_unused_encoding(task: EditTask) -> None:
    path = Path(task.output)
    is_video = path.suffix.lower() in video.CONTAINERS
    if task.output and not is_video and (task.codec != "auto" or task.crf is not None):
        warn_user(f"codec and crf have no effect on {path.name}, which is not a video")
    if task.crf is not None and task.codec in CODECS_WITHOUT_CRF:
        warn_user(f"crf has no effect with codec {task.codec}")
    if task.raw and task.mask is None:
        warn_user(f"{Path(task.raw).name} equals the result: without a mask nothing is put back")


def _warn_unused_mask_options(task: EditTask) -> None:
    is_shaped = task.feather or task.invert_mask or task.grow or task.outline != "given"
    if task.mask is None and is_shaped:
        warn_user("--feather, --grow, --outline and --invert-mask have no effect without a mask")
    has_file = any(mask != "auto" and Path(mask).exists() for mask in task.masks)
    if task.mask_channel != "auto" and not has_file:
        warn_user("--mask-channel has no effect unless the mask is a file")


def warn_overlap(task: EditTask, share: float) -> None:
    """Warn where masks with words of their own overlap. share: of their pixels."""
    if share:
        warn_user(
            f"the masks {' and '.join(task.masks)} overlap in {share:.1%} of their pixels: "
            "there, the words of the later one count"
        )


def clip_notices(task: EditTask, clip: video.Clip) -> list[str]:
    """Return what a user should know before any work: about the clip, and about what its result cannot hold."""
    losses = video.losses(Path(task.output), clip, task.codec) if task.output else []
    return [*clip.cautions, *losses]


def warn_unused_settings(
    task: EditTask, method: ModuleType, config: Any, setting_sources: dict[str, str]
) -> None:
    """Warn about settings that need another setting, and about a seed where nothing is drawn at random.

    METHOD says both of each method: `unused_unless` and `draws_noise`.
    """
    if task.changes_nothing:
        return
    unused = method.METHOD.unused_settings(config) | _unused_guidance_settings(config)
    for name, reason in unused.items():
        if setting_sources.get(name) == "given":
            warn_user(f"{name} has no effect while {reason}")
    if task.seed and not method.METHOD.uses_seed(config) and task.mask != "auto":
        warn_user(f"the seed has no effect: {task.method} draws nothing at random")


def warn_unused_region(
    info: "Backbone | BackboneInfo", has_mask: bool, config: Any, setting_sources: dict[str, str]
) -> None:
    """Warn about a region that was asked for, where the target is evaluated everywhere."""
    if setting_sources.get("region") != "given" or config.region != "mask":
        return
    if not has_mask:
        warn_user("region has no effect without a mask")
    elif "regions" not in info.capabilities:
        warn_user(f"region has no effect: {info.name} is always evaluated everywhere")


def _unused_guidance_settings(config: Any) -> dict[str, str]:
    """Return the settings of negative evaluations, with the reason, where guidance of 1 makes none."""
    scales = [getattr(config, name, 1) for name in ("source_guidance", "target_guidance")]
    is_guided = any(scale != 1 for scale in scales)
    return {} if is_guided else dict.fromkeys(GUIDANCE_SETTINGS, "guidance is 1")


def warn_unused_prompts(
    task: EditTask, info: "Backbone | BackboneInfo", image_model: str | None
) -> None:
    """Warn about prompts where only the first frame conditions the model.

    image_model: the name of the edit's second model, which reads the prompts.
    """
    has_text = task.source_prompt.strip() or task.target_prompt.strip() or task.negative.strip()
    if task.first_frame and has_text and "text" not in info.capabilities and not image_model:
        warn_user(
            f"the prompts have no effect: {info.name} is conditioned on its first frame alone"
        )


def warn_equal_prompts(task: EditTask) -> None:
    """Warn about prompts that mean the same, so that nothing is edited."""
    are_equal = task.source_prompt.split() == task.target_prompt.split()
    how = "are equal" if are_equal else "differ only in punctuation, case or spelling"
    warn_user(f"the prompts {how}: the result is the source")
