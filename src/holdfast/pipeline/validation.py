"""Validate a task before torch is imported, so that most mistakes are reported within a second."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import methods
from ..base import names
from ..base.errors import InputNotFoundError, UserError
from ..media import video
from ..models import registry
from . import planning
from .output_paths import check_disk_space, check_output_path, check_raw_path
from .task import EditTask, parse_frame_range

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.base import Backbone


@dataclass(frozen=True)
class ValidatedTask:
    """What is known of a task's files and model.

    clip: with the frames that the result holds. part: those of them that are edited. info: the backbone, loaded or
    not. latent: the part as the backbone encodes it, 1 c f h w, where it is encoded already.
    """

    clip: video.Clip
    part: range
    info: "Backbone | registry.BackboneInfo"
    latent: "Tensor | None" = None


def validate(task: EditTask, backbone: "Backbone | None" = None) -> ValidatedTask:
    """Read the clip's header and check the task's files, names and output.

    backbone: a loaded one; by default the task's is looked up. Raises UserError for files that are missing or cannot
    be read, for unknown names and for an output that cannot be written; MissingDependencyError for missing weights.
    """
    check_files_exist(task)
    names.choose(task.method, names.list_modules("holdfast.methods"), "method")
    check_outputs(task)
    if backbone is None:
        check_model(task)
    info = backbone or registry.describe_backbone(task.backbone, task.weights)
    clip = video.apply_input_options(video.probe(task.input), task.deinterlace, task.background)
    part = parse_frame_range(task.frames, clip.frames)
    if task.every or task.count:
        clip = video.sample(clip, part, video.choose_frames(part, task.every, task.count))
        part = range(clip.frames)
    keyframes_by_index(task, clip, part)
    if task.output:
        video.check_output(Path(task.output), clip, task.codec, task.crf)
        check_disk_space(Path(task.output), clip, task.codec)
    if task.raw:
        video.check_output(Path(task.raw), clip, task.codec, task.crf)
        check_disk_space(Path(task.raw), clip, task.codec)
    return ValidatedTask(clip, part, info)


def check_model(task: EditTask) -> None:
    """Raise UserError where the method does not run on the task's model, whose weights need not be here.

    The message on missing weights would have the user get those of a model that is of no use.
    """
    name, family = registry.choose_backbone(task.backbone)
    needs = methods.load(task.method).METHOD
    planning.check_pair(needs, task.method, name, family.specs[name].capabilities)


def check_outputs(task: EditTask) -> None:
    """Raise UserError where the result or the raw clip cannot be written, or would overwrite another file."""
    inputs = input_files(task)
    if task.output:
        check_output_path(task.output, inputs)
    if task.raw:
        check_raw_path(task.raw, task.output, inputs)


def input_files(task: EditTask) -> list[str]:
    """Return the files that an edit is made from, and the masks, files or not."""
    files = (task.input, *task.masks, task.first_frame, *task.keyframe_paths().values())
    files += (task.control_file,)
    return [name for name in files if name]


def check_files_exist(task: EditTask) -> None:
    """Raise InputNotFoundError for an input that does not exist, and UserError for one that is not a regular file."""
    for name in input_files(task):
        is_text = name in task.masks and (name == "auto" or "," in name)
        if is_text:
            continue
        if not Path(name).exists():
            raise InputNotFoundError(f"there is no file {name}")
        video.check_regular_file(Path(name))


def keyframes_by_index(task: EditTask, clip: video.Clip, part: range) -> dict[int, str]:
    """Return the paths of the keyframes by their index in the edited part. A task counts the frames of its input.

    Raises UserError for an index outside the part, and for its first frame.
    """
    numbers = clip.sampling.frames if clip.sampling else part
    for index in task.keyframe_paths():
        if index not in numbers[1:]:
            last = f"frames {part.start + 1} to {part.stop - 1}"
            known = ", ".join(map(str, numbers[1:])) if clip.sampling else last
            raise UserError(
                f"keyframe {index} is not within {known}, which follow the first edited frame",
                f"choose one of these for --keyframe {index}=...",
            )
    return {numbers.index(index): path for index, path in task.keyframe_paths().items()}
