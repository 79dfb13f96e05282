"""Keep a page that other machines reach to the files in its own folder: one check of everything that a task names."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.schema import list_settings
from ..media.masks import BOX
from ..models import registry
from ..pipeline.task import EditTask
from .messages import label

# Fields whose text is never opened. Every other field holds a file's name, until it is said here that it does not.
PROSE = ("source_prompt", "target_prompt", "negative", "words", "frames", "background", "settings")
# What is a path whatever field it stands in: it begins at the root, at home, at a drive or a scheme, or climbs.
PATH = re.compile(
    r"\s*(?:[/\\~]|[A-Za-z]:[/\\]|file:|[A-Za-z][\w+.-]*://)|(?:.*[/\\])?\.\.(?:[/\\]|\s*$)",
    re.I | re.S,
)


def check_inside(values: Mapping[str, Any], root: Path) -> None:
    """Raise UserError for a field that names what is not in the folder, whether there is such a file or not.

    values: the fields of a task by name, each as EditTask or the page holds it.
    """
    for name, value in values.items():
        for text in _texts(value):
            known = _is_spoken(name, text) or _is_upload(text, root)
            if not (known or all(_may_say(name, piece, root) for piece in _pieces(text))):
                raise UserError(
                    f"{label(name)} may only name an uploaded file: this page takes uploads only, "
                    "since other machines reach it"
                )


def _is_upload(text: str, root: Path) -> bool:
    return is_inside(text, root) and Path(text).exists()


def _may_say(name: str, text: str, root: Path) -> bool:
    if not text or is_inside(text, root):
        return True
    if PATH.match(text):
        return False
    return name in PROSE or name in _closed()


def _is_spoken(name: str, text: str) -> bool:
    """Whether a text is a word of its field and opens no file."""
    if name == "mask":
        return text == "auto" or bool(BOX.fullmatch(text))
    return name == "image_model" and text in registry.backbones()


def _closed() -> set[str]:
    """Return the fields that take one of some names, or no text at all."""
    free = ("string", "array", "object")
    settings = list_settings(EditTask).values()
    closed = {s.name for s in settings if s.choices or s.kind not in free}
    return closed | {"method", "backbone"}


def is_inside(text: str, root: Path) -> bool:
    """Whether a text names what lies in a folder, with every link followed."""
    try:
        return root.resolve() in Path(text).resolve().parents
    except (OSError, ValueError, RuntimeError):
        return False


def _pieces(text: str) -> Iterator[str]:
    """Yield a text and what follows each "=" in it, as in NAME=FOLDER and N=IMAGE."""
    first, *rest = text.split("=")
    if rest and not first.strip().isdigit() and first.strip() not in registry.backbones():
        yield text
    elif not rest:
        yield text.strip()
    yield from (piece.strip() for piece in rest)


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a value."""
    if isinstance(value, Mapping):
        for key, held in value.items():
            yield from _texts(key)
            yield from _texts(held)
    elif isinstance(value, (list, tuple)):
        for held in value:
            yield from _texts(held)
    elif isinstance(value, (str, Path)):
        yield str(value)
