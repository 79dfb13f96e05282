"""What is asked of a task before anything heavy is imported: most slips are told within a second, and none of them
after minutes of work.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import names
from ..base.errors import InputNotFoundError, UserError
from ..media import video
from ..models import registry
from .output_paths import check_disk_space, check_output_path
from .task import EditTask, parse_frame_range


@dataclass(frozen=True)
class ValidatedTask:
    """The clip of a task, its part that is edited, and what is known of the backbone."""

    clip: video.Clip
    part: range
    info: Any  # a backbone, loaded or not (registry.describe_backbone)
    latent: Any = (
        None  # the part as the backbone encodes it, 1 c f h w, where that was done already
    )


def validate(task: EditTask, backbone: Any = None) -> ValidatedTask:
    """Read the clip once. Raises ValueError for files that are not there or cannot be read, for names that nobody has
    and for an output that cannot be written; Missing where the weights are not here.

    backbone: one that is loaded already; else the task's is looked up.
    """
    check_files_exist(task)
    names.choose(task.method, names.list_modules("holdfast.methods"), "method")
    if task.output:
        check_output_path(task.output, input_files(task))
    about = backbone or registry.describe_backbone(task.backbone, task.weights)
    clip = video.apply_input_options(video.probe(task.input), task.deinterlace, task.background)
    part = parse_frame_range(task.frames, clip.frames)
    keyframes_by_index(task, part)
    if task.output:
        video.check_output(Path(task.output), clip, task.codec, task.crf)
        check_disk_space(Path(task.output), clip, task.codec)
    return ValidatedTask(clip, part, about)


def input_files(task: EditTask) -> list[str]:
    """The files that an edit is made from."""
    named = (task.input, task.mask, task.first_frame, *task.keyframe_paths().values())
    return [name for name in named if name]


def check_files_exist(task: EditTask) -> None:
    for name in input_files(task):
        spoken = name == task.mask and (name == "auto" or "," in name)  # no file but a box
        if spoken:
            continue
        if not Path(name).exists():
            raise InputNotFoundError(f"there is no file {name}")
        video.check_regular_file(Path(name))


def keyframes_by_index(task: EditTask, part: range) -> dict[int, str]:
    """The images of the key frames by their place in the part that is edited. Raises ValueError for one that is not
    in it, or is its first.
    """
    for at in task.keyframe_paths():
        if at not in part[1:]:
            raise UserError(
                f"--keyframe {at}=... is not within frames {part.start + 1} to {part.stop - 1}, "
                "which follow the first one that is edited"
            )
    return {at - part.start: path for at, path in task.keyframe_paths().items()}
