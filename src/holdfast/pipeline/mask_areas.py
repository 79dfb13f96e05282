"""The masks of a task: one, or several that each have words of their own.

As JSON and in Python several masks are a list of {"mask": FILE, "words": TEXT or list of texts}; on the command line
they are FILE=WORDS.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..base.errors import UserError

FORM = 'write each as {"mask": FILE, "words": TEXT}, or as --mask FILE=WORDS'


@dataclass(frozen=True)
class MaskArea:
    """A mask file or a box x,y,w,h, and the words of the target prompt that drive the edit there."""

    mask: str
    words: tuple[str, ...] = ()


def read_areas(value: Any) -> Any:
    """Return a list of masks as MaskArea. Return any other value unchanged. Raise UserError for a wrong item."""
    if not isinstance(value, (list, tuple)):
        return value
    if not value:
        raise UserError("mask is an empty list", "leave it out, or name a mask")
    return tuple(item if isinstance(item, MaskArea) else _read_area(item) for item in value)


def _read_area(item: Any) -> MaskArea:
    names = {field.name for field in fields(MaskArea)}
    if not isinstance(item, Mapping) or "mask" not in item or not item.keys() <= names:
        raise UserError(f"{item!r} is not a mask with its words", FORM)
    words = item.get("words") or ()
    words = (words,) if isinstance(words, str) else words
    is_text = isinstance(words, (list, tuple)) and all(isinstance(word, str) for word in words)
    if not (isinstance(item["mask"], str) and is_text):
        raise UserError(f"{dict(item)!r} is not a mask with its words", FORM)
    return MaskArea(item["mask"], tuple(words))


def check_areas(areas: Sequence[MaskArea], words: Sequence[str]) -> None:
    """Raise UserError for several masks that do not fit together. words: those of the whole task."""
    for area in areas:
        if not area.mask.strip():
            raise UserError("a mask of the list is empty", "use a file or a box x,y,w,h")
        if area.mask == "auto":
            raise UserError(
                "mask auto is in a list of masks, or has words of its own",
                "give --mask auto alone, and its words by --words",
            )
    worded = [area for area in areas if area.words]
    if words and worded:
        raise UserError(
            f"the mask {worded[0].mask} has words, and so has the whole edit", "remove --words"
        )
    bare = [area.mask for area in areas if not area.words]
    if worded and bare:
        raise UserError(
            f"the mask {bare[0]} has no words, but {worded[0].mask} has",
            f"add them, --mask {bare[0]}=WORDS, or give no mask words of its own",
        )


def parse_flags(texts: Sequence[str]) -> str | tuple[MaskArea, ...] | None:
    """Return what the texts of --mask mean: FILE or FILE=WORDS, once or several times.

    An "=" within a path that exists is part of the path. Of the others, the last one begins the words.
    """
    areas = tuple(_parse_flag(text) for text in texts)
    if len(areas) == 1 and not areas[0].words:
        return areas[0].mask
    return areas or None


def _parse_flag(text: str) -> MaskArea:
    ends = [at for at, letter in enumerate(text) if letter == "="]
    if not ends or _exists(text):
        return MaskArea(text)
    end = next((at for at in reversed(ends) if _exists(text[:at])), ends[-1])
    words = text[end + 1 :].strip()
    return MaskArea(text[:end], (words,) if words else ())


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long, or a null byte
        return False
