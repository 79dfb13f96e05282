"""What a benchmark knows of one edit. The clip, the mask and the truth are files; what is not known is empty."""

import re
from dataclasses import dataclass
from pathlib import Path

from ...base.errors import UserError

FILES = ("clip", "mask", "truth")  # of a case


@dataclass(frozen=True)
class Case:
    name: str  # of its own in the dataset, and fit for a file name
    clip: str
    source: str
    target: str
    kind: str = ""  # of edit: colour, shape, ...
    group: str = ""  # of clip: a difficulty, a part of the dataset
    mask: str | None = None  # of the edited thing: a file, or a box x,y,w,h
    local: str = ""  # the words of the edited thing alone
    truth: str | None = None  # the true result
    scene: tuple[int, str, str] | None = None  # shapeworld: seed, kind, set


def file_name(text: str) -> str:
    """Letters, digits and . + = _ - of a text; the rest becomes one underscore."""
    return re.sub(r"[^A-Za-z0-9.+=_-]+", "_", text).strip("_.")[:150] or "_"


def is_box(mask: str) -> bool:
    """Whether a mask is a box x,y,w,h, no file."""
    from ...media.masks import BOX

    return BOX.fullmatch(mask) is not None


def existing(path: Path, what: str) -> str:
    if not path.exists():
        raise UserError(f"{what}: there is no {path}")
    return str(path)
