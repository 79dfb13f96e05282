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
from .output_paths import check_place, check_space
from .task import EditTask, part_of


@dataclass(frozen=True)
class Taken:
    """The clip of a task, its part that is edited, and what is known of the backbone."""

    clip: video.Clip
    part: range
    about: Any  # a backbone, loaded or not (registry.about)
    latent: Any = (
        None  # the part as the backbone encodes it, 1 c f h w, where that was done already
    )


def taken(task: EditTask, backbone: Any = None) -> Taken:
    """Read the clip once. Raises ValueError for files that are not there or cannot be read, for names that nobody has
    and for an output that cannot be written; Missing where the weights are not here.

    backbone: one that is loaded already; else the task's is looked up.
    """
    check_there(task)
    names.choose(task.method, names.list_modules("holdfast.methods"), "method")
    if task.output:
        check_place(task.output, sources(task))
    about = backbone or registry.about(task.backbone, task.weights)
    clip = video.apply_input_options(video.probe(task.input), task.deinterlace, task.background)
    part = part_of(task.frames, clip.frames)
    placed(task, part)
    if task.output:
        video.check_output(Path(task.output), clip, task.codec, task.crf)
        check_space(Path(task.output), clip, task.codec)
    return Taken(clip, part, about)


def sources(task: EditTask) -> list[str]:
    """The files that an edit is made from."""
    named = (task.input, task.mask, task.first_frame, *task.key_frames().values())
    return [name for name in named if name]


def check_there(task: EditTask) -> None:
    for name in sources(task):
        spoken = name == task.mask and (name == "auto" or "," in name)  # no file but a box
        if spoken:
            continue
        if not Path(name).exists():
            raise InputNotFoundError(f"there is no file {name}")
        video.check_regular_file(Path(name))


def placed(task: EditTask, part: range) -> dict[int, str]:
    """The images of the key frames by their place in the part that is edited. Raises ValueError for one that is not
    in it, or is its first.
    """
    for at in task.key_frames():
        if at not in part[1:]:
            raise UserError(
                f"--keyframe {at}=... is not within frames {part.start + 1} to {part.stop - 1}, "
                "which follow the first one that is edited"
            )
    return {at - part.start: path for at, path in task.key_frames().items()}
