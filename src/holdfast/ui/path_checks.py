"""Restrict a page that accepts remote connections to the files in its own folder: check every name in a task."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.memory import parse_limit
from ..base.schema import list_settings, read_value
from ..conform.task import KeepTask
from ..media.masks import BOX
from ..models import registry
from ..pipeline.task import CONTROL_KINDS, EditTask
from .messages import control_label

# Fields whose text is never opened. Any field that is not listed here is assumed to name a file.
TEXT_FIELDS = (
    "source_prompt",
    "target_prompt",
    "negative",
    "words",
    "frames",
    "background",
    "settings",
)
# Fields that take no text but their own.
CHECKED_FIELDS: dict[str, Callable[[str], object]] = {
    "device": partial(read_value, EditTask, "device"),
    "memory": parse_limit,
}
# A path in any field: it begins at the root, at home, at a drive or a scheme, or it climbs.
PATH_PATTERN = re.compile(
    r"\s*(?:[/\\~]|[A-Za-z]:[/\\]|file:|[A-Za-z][\w+.-]*://)|(?:.*[/\\])?\.\.(?:[/\\]|\s*$)",
    re.I | re.S,
)


def check_inside_folder(values: Mapping[str, Any], root: Path) -> None:
    """Raise UserError for a field that names a file outside the folder, whether it exists or not.

    values: the fields of a task by name, each as EditTask, KeepTask or the page holds it.
    """
    for name, value in values.items():
        for text in _texts_in(value):
            is_known = _is_keyword(name, text) or _is_upload(text, root)
            if not (is_known or all(_is_allowed(name, piece, root) for piece in _split(text))):
                raise UserError(
                    f"{control_label(name)} names a file on the server, and file paths are disabled "
                    "because this server accepts remote connections",
                    "upload the file instead",
                )


def _is_upload(text: str, root: Path) -> bool:
    return is_inside(text, root) and Path(text).exists()


def _is_allowed(name: str, text: str, root: Path) -> bool:
    if not text or is_inside(text, root):
        return True
    if PATH_PATTERN.match(text):
        return False
    return name in TEXT_FIELDS or name in _closed_fields()


def _is_keyword(name: str, text: str) -> bool:
    """Return whether a text is a keyword of its field that opens no file."""
    if name == "mask":
        return text == "auto" or bool(BOX.fullmatch(text))
    if name in ("control", "controlnet"):
        return text in CONTROL_KINDS
    if name in CHECKED_FIELDS:
        return _is_accepted(CHECKED_FIELDS[name], text)
    return name == "image_model" and text in registry.backbones()


def _is_accepted(check: Callable[[str], object], text: str) -> bool:
    try:
        check(text)
    except UserError:
        return False
    return True


def _closed_fields() -> set[str]:
    """Return the fields that take one of a few names, or no text at all, in every task that has them."""
    texts = ("string", "array", "object")
    fields = [*list_settings(EditTask).values(), *list_settings(KeepTask).values()]
    closed = {f.name for f in fields if f.choices or f.kind not in texts}
    open_fields = {f.name for f in fields if f.kind in texts and not f.choices}
    return (closed - open_fields) | {"method", "backbone"}


def is_inside(text: str, root: Path) -> bool:
    """Return whether a text names a file inside a folder, after every link is followed."""
    try:
        return root.resolve() in Path(text).resolve().parents
    except (OSError, ValueError, RuntimeError):
        return False


def _split(text: str) -> Iterator[str]:
    """Yield a text and what follows each "=" in it, as in NAME=FOLDER and N=IMAGE."""
    first, *rest = text.split("=")
    if rest and not first.strip().isdigit() and first.strip() not in registry.backbones():
        yield text
    elif not rest:
        yield text.strip()
    yield from (piece.strip() for piece in rest)


def _texts_in(value: Any) -> Iterator[str]:
    """Yield all texts in a value, at any depth."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts_in(key)
            yield from _texts_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts_in(item)
    elif isinstance(value, (str, Path)):
        yield str(value)
