"""A case of a benchmark: one edit of one clip. The clip, the mask and the truth are files; unknown fields are empty."""

import re
from dataclasses import dataclass
from pathlib import Path

from ...base.errors import UserError

FILES = ("clip", "mask", "truth", "first_frame")  # fields of a case
FRAME_FIELDS = ("first_frame", "keyframes")  # the edited frames that drive image-driven methods


@dataclass(frozen=True)
class Case:
    name: str  # unique in the dataset, and valid as a file name
    clip: str
    source_prompt: str
    target_prompt: str
    kind: str = ""  # of edit: colour, shape, ...
    group: str = ""  # of clip: a difficulty, a part of the dataset
    mask: str | None = None  # of the edited object: a file, or a box x,y,w,h
    object_prompt: str = ""  # of the edited object alone
    truth: str | None = None  # the true result
    scene: tuple[int, str, str] | None = None  # shapeworld: seed, kind, set
    first_frame: str | None = None  # edited, for every method that an image drives
    keyframes: tuple[str, ...] = ()  # more edited frames, each N=IMAGE


def file_name(text: str) -> str:
    """Return a text as a file name: letters, digits and . + = _ - ; anything else becomes one underscore."""
    return re.sub(r"[^A-Za-z0-9.+=_-]+", "_", text).strip("_.")[:150] or "_"


def is_box(mask: str) -> bool:
    """Return whether a mask is a box x,y,w,h instead of a file."""
    from ...media.masks import BOX

    return BOX.fullmatch(mask) is not None


def check_edited_frames(case: Case, where: str) -> None:
    """Raise UserError, which begins with `where`, for edited frames that do not fit the case's clip."""
    if not (case.first_frame or case.keyframes):
        return
    from ...media import first_frame, video
    from ...pipeline.task import EditTask
    from ...pipeline.validation import keyframes_by_index

    try:
        clip = video.probe(case.clip)
        task = EditTask(case.clip, "", first_frame=case.first_frame, keyframes=case.keyframes)
        paths = [*filter(None, [task.first_frame]), *task.keyframe_paths().values()]
        keyframes_by_index(task, range(clip.frames))
        for path in paths:
            first_frame.check(path, clip.size)
    except UserError as error:
        raise UserError(f"{where}: {error.cause}", error.remedy) from error


def require_path(path: Path, where: str) -> str:
    """Return a path as text. Raise UserError, which begins with `where`, if it does not exist."""
    if not path.exists():
        raise UserError(f"{where}: {path} does not exist")
    return str(path)
