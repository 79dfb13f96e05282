"""A case of a benchmark: one edit of one clip. The clip, the mask and the truth are files; unknown fields are empty."""

import re
from dataclasses import dataclass
from pathlib import Path

from ...base.errors import UserError

FILES = ("clip", "mask", "truth")  # fields of a case


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


def file_name(text: str) -> str:
    """Return a text as a file name: letters, digits and . + = _ - ; anything else becomes one underscore."""
    return re.sub(r"[^A-Za-z0-9.+=_-]+", "_", text).strip("_.")[:150] or "_"


def is_box(mask: str) -> bool:
    """Return whether a mask is a box x,y,w,h instead of a file."""
    from ...media.masks import BOX

    return BOX.fullmatch(mask) is not None


def require_path(path: Path, where: str) -> str:
    """Return a path as text. Raise UserError, which begins with `where`, if it does not exist."""
    if not path.exists():
        raise UserError(f"{where}: {path} does not exist")
    return str(path)
