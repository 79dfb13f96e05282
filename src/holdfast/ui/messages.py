"""Messages as the page shows them: its own labels in place of flags, a file's name in place of the server's path."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from ..base.errors import FLAG, Missing, UserError
from ..base.memory import ran_out
from ..pipeline.task import EditTask

PATH = re.compile(r"(?<![\w/.])(?:/[^\s/'\":;,()]+)+/([^\s/'\":;,()]+)")
GET = "; “holdfast doctor” on the page's machine says how to get it"
LABELS = {
    "negative": "Negative prompt",
    "backbone": "Model",
    "crf": "CRF",
}
# What is no field of a task: controls of the page, and what whoever started the page can change.
OTHERS = {
    "set": "Settings of the method",
    "box": "Box",
    "brush": "Brush",
    "points": "Brush",
    "auto": "automatic",
    "resume": "Resume",
    "keyframe": "Keyframes",
    "output": "name",
    "folder": "folder",
}


def label(name: str) -> str:
    """Return what a field is called on the page."""
    return LABELS.get(name) or name.replace("_", " ").capitalize()


def _labels() -> dict[str, str]:
    """Return the label of each flag, without its dashes."""
    found = {f.name.replace("_", "-"): label(f.name) for f in dataclasses.fields(EditTask)}
    return found | OTHERS


def name_controls(text: str) -> str:
    """Return a text with the page's labels in place of flags."""
    labels = _labels()
    return FLAG.sub(lambda m: f"“{labels.get(m[1]) or m[1].replace('-', ' ')}”", text)


def translate(text: str, root: Path, hides_paths: bool = False) -> str:
    """Return a message in the page's own terms. hides_paths: no folder of this machine is named at all."""
    text = name_controls(_strip(text, root))
    return PATH.sub(r"\1", text) if hides_paths else text


def _strip(text: str, root: Path) -> str:
    """Name files in the page's folder as they were named when they were uploaded."""
    folder = re.escape(str(root))
    text = re.sub(rf"{folder}/(?:runs|uploads)/(?:[^\s/'\"]+/)?(?=[^/])", "", text)
    return re.sub(rf"{folder}(?:/|\b)", "the page's folder ", text) if str(root) in text else text


def sentence(error: BaseException) -> str:
    """Return what the command line says of an error, in one line. It still names flags and paths."""
    from ..base.exit_codes import LESS, one_line, said

    if ran_out(error):
        return LESS
    if isinstance(error, OSError):
        return one_line(said(error))
    if isinstance(error, Missing):
        return one_line(_drop_command(str(error)))
    if isinstance(error, UserError):
        return one_line(error)
    return f"a bug: {type(error).__name__}: {one_line(error)}"


def _drop_command(text: str) -> str:
    """Leave out a command with flags, which is for whoever runs the page."""
    flag = FLAG.search(text)
    if not flag:
        return text
    places = (text.rfind(mark, 0, flag.start()) for mark in ";:")
    clause = next((place for place in places if place >= 0), 0)
    return text[:clause] + GET


@dataclasses.dataclass(frozen=True)
class Wording:
    """How messages read on one page. Everything that it returns is HTML in which no text is taken for markup."""

    root: Path
    hides_paths: bool = False

    def text(self, raw: object) -> str:
        """Return a message, a prompt or a file's name as HTML."""
        return escape(translate(str(raw), self.root, self.hides_paths))

    def data(self, found: Any) -> Any:
        """Return data, such as a manifest, whose texts name no folder where none may be named."""
        if isinstance(found, dict):
            return {key: self.data(value) for key, value in found.items()}
        if isinstance(found, list):
            return [self.data(value) for value in found]
        is_shown = not (isinstance(found, str) and self.hides_paths)
        return found if is_shown else PATH.sub(r"\1", found)

    def error(self, raw: object) -> str:
        return f'<b class="error">{self.text(raw)}</b>'

    def listed(self, lines: Iterator[str] | list[str]) -> str:
        items = "".join(f"<li>{self.text(line)}</li>" for line in lines)
        return f"<ul>{items}</ul>" if items else ""

    @contextlib.contextmanager
    def errors(self, said: dict[str, str]) -> Iterator[None]:
        """Keep what goes wrong for a user as HTML in said["error"]."""
        try:
            yield
        except Exception as error:  # whatever fails, the page shows it and lives on
            said["error"] = self.error(sentence(error))
