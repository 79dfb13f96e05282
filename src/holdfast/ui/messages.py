"""Messages in the page's own terms: labels instead of flags, file names instead of the server's paths."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from ..base import errors
from ..base.errors import FLAG, MissingDependencyError, UserError
from ..base.memory import is_out_of_memory
from ..conform.task import KeepTask
from ..pipeline.task import EditTask

PATH = re.compile(r"(?<![\w/.])(?:/[^\s/'\":;,()]+)+/([^\s/'\":;,()]+)")
DOCTOR_HINT = "“holdfast doctor” on the page's machine says how to get it"
LABELS = {
    "negative": "Negative prompt",
    "backbone": "Model",
    "crf": "CRF",
    "raw": "Raw clip",
}
# Flags that are not fields of a task: other controls of the page, and options of `holdfast ui`.
OTHER_CONTROLS = {
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
COMMAND_FLAGS = ("at", "include", "revision")  # of commands that messages quote: no controls


def control_label(name: str) -> str:
    """Return the label of a field's control on the page."""
    return LABELS.get(name) or name.replace("_", " ").capitalize()


def _labels_by_flag() -> dict[str, str]:
    """Return the label of each flag, without its dashes."""
    fields = [*dataclasses.fields(EditTask), *dataclasses.fields(KeepTask)]
    labels = {f.name.replace("_", "-"): control_label(f.name) for f in fields}
    return labels | OTHER_CONTROLS


def name_controls(text: str) -> str:
    """Return a text with the page's labels instead of flags."""
    labels = _labels_by_flag()

    def control(flag: str) -> str:
        if flag in COMMAND_FLAGS:
            return f"--{flag}"
        return f"“{labels.get(flag) or flag.replace('-', ' ')}”"

    return errors.name_controls(text, control)


def translate(text: str, root: Path, hides_paths: bool = False) -> str:
    """Return a message in the page's own terms.

    root: the page's folder. hides_paths: leave out the names of all other folders of this machine, too.
    """
    text = name_controls(_shorten_paths(text, root))
    return PATH.sub(r"\1", text) if hides_paths else text


def _shorten_paths(text: str, root: Path) -> str:
    """Give files in the page's folder the names with which they were uploaded."""
    folder = re.escape(str(root))
    text = re.sub(rf"{folder}/(?:runs|uploads)/(?:[^\s/'\"]+/)?(?=[^/])", "", text)
    return re.sub(rf"{folder}(?:/|\b)", "the page's folder ", text) if str(root) in text else text


def describe_error(error: BaseException) -> str:
    """Return an error as one line, like the command line prints it. It still names flags and paths.

    A command with flags that gets what is missing is left out: only the person who runs the page can use it.
    """
    from ..base.exit_codes import OUT_OF_MEMORY, format_os_error, sanitize

    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, UserError):  # before OSError: a missing input file is both
        return sanitize(error)
    if isinstance(error, MissingDependencyError):
        return sanitize(f"{error.cause}; {DOCTOR_HINT}" if FLAG.search(error.remedy) else error)
    if isinstance(error, OSError):
        return sanitize(format_os_error(error))
    return f"internal error (please report): {type(error).__name__}: {sanitize(error)}"


@dataclasses.dataclass(frozen=True)
class MessageFormatter:
    """Format messages for one page. All returned texts are HTML in which no message is read as markup."""

    root: Path
    hides_paths: bool = False

    def to_html(self, message: object) -> str:
        """Return a message, a prompt or a file's name as HTML."""
        return escape(translate(str(message), self.root, self.hides_paths))

    def strip_folders(self, data: Any) -> Any:
        """Return data, such as a manifest, without names of folders where the page hides them."""
        if isinstance(data, dict):
            return {key: self.strip_folders(value) for key, value in data.items()}
        if isinstance(data, list):
            return [self.strip_folders(value) for value in data]
        return PATH.sub(r"\1", data) if isinstance(data, str) and self.hides_paths else data

    def error_html(self, message: object) -> str:
        """Return an error message as HTML."""
        return f'<b class="error">{self.to_html(message)}</b>'

    def list_html(self, lines: Iterator[str] | list[str]) -> str:
        """Return messages as an HTML list; empty where there are none."""
        items = "".join(f"<li>{self.to_html(line)}</li>" for line in lines)
        return f"<ul>{items}</ul>" if items else ""

    @contextlib.contextmanager
    def capture_errors(self, messages: dict[str, str]) -> Iterator[None]:
        """Catch an error of the block and store it as HTML in messages["error"]."""
        try:
            yield
        except Exception as error:  # whatever fails, the page shows it and stays usable
            messages["error"] = self.error_html(describe_error(error))
