"""Python's entry points: `edit` and `edit_events`. Their arguments are made from EditTask, as the command line's flags.

Clips, masks and images may be in memory. They become files of a scratch folder that lives as long as the result, so
that an edit is the same edit whichever way it came.
"""

import contextlib
import dataclasses
import functools
import inspect
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ..base import names
from ..base.errors import UnknownArgumentError, UserError
from ..base.notices import collect_notices, warn_user
from ..base.old_names import rename_fields
from .signature import ARGUMENTS, EditOptions, argument_name, set_signature
from .task import EditTask

if TYPE_CHECKING:
    from ..models.base import Backbone
    from .events import Event
    from .result import Result
    from .validation import ValidatedTask

DEFAULT_FPS = 16  # of a clip in memory that comes without a rate


class ScratchFolder:
    """A folder, made when it is first asked for; it goes with the last one who refers to this, or at `remove`."""

    def __init__(self) -> None:
        self._gone: weakref.finalize | None = None

    @functools.cached_property
    def path(self) -> Path:
        path = Path(tempfile.mkdtemp(prefix="holdfast-"))
        self._gone = weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
        return path

    def files(self) -> list[str]:
        return sorted(file.name for file in self.path.iterdir()) if self._gone else []

    def remove(self) -> None:
        if self._gone:
            self._gone()


@dataclasses.dataclass
class PreparedCall:
    """A call, checked and ready to run."""

    task: EditTask
    backbone: "Backbone | None"
    validated: "ValidatedTask"
    scratch: ScratchFolder  # where what was in memory lies
    notes: list[str]
    resume: bool = False
    progress: Callable[[str, int, int], None] | None = None


def edit(
    input: Any, source_prompt: str = "", target_prompt: str = "", **options: Unpack[EditOptions]
) -> "Result":
    """Edit a clip: a source prompt describes it, a target prompt describes the edited clip.

    Return a Result: `save("out.mp4")`, `array()`, `images()`, `tensor()`, `frames()`, `preservation`; it shows itself
    in a notebook. Raise UserError for bad input (also a FileNotFoundError for a file that does not exist, a TypeError
    for an unknown argument), MissingDependencyError for weights that are not here.
    """
    from . import run

    with _name_arguments():
        call = _prepare_call("edit", _named(input, source_prompt, target_prompt, options))
        return run.run_to_end(_run_call(call), call.task, call.progress)


def edit_events(
    input: Any, source_prompt: str = "", target_prompt: str = "", **options: Unpack[EditOptions]
) -> "Iterator[Event | Result]":
    """Edit a clip, and yield what happens: Progress, Step and Note events, and the Result last. Closing the iterator
    cancels the edit.

    Raise for bad input at the call, as `edit` does.
    """
    with _name_arguments():
        call = _prepare_call("edit_events", _named(input, source_prompt, target_prompt, options))
    return _run_call(call)


def _named(input: Any, source: str, target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments by name. Empty prompts are left out: an option may have a prompt's old name."""
    prompts = {"source_prompt": source, "target_prompt": target}
    given = {name: text for name, text in prompts.items() if text != ""}
    return {"input": input, **given, **options}


@contextlib.contextmanager
def _name_arguments() -> Iterator[None]:
    """Let errors name Python's arguments instead of flags."""
    try:
        yield
    except UserError as error:
        error.name_controls(argument_name)
        raise


def _run_call(asked: PreparedCall) -> "Iterator[Event | Result]":
    """The events of a call. What was in memory stays with the result, and is gone where there is none."""
    from . import run
    from .events import NoticeIssued

    running = run.edit_events(asked.task, asked.backbone, asked.resume, asked.validated)
    with contextlib.ExitStack() as undone:
        undone.callback(asked.scratch.remove)
        yield from map(NoticeIssued, asked.notes)
        with contextlib.closing(running):
            for event in running:
                if isinstance(event, run.Result):
                    event.manifest["notes"][:0] = asked.notes
                    event.manifest["in_memory"] = asked.scratch.files()
                    event.scratch = asked.scratch
                    undone.pop_all()
                yield event


def _prepare_call(function: str, given: Mapping[str, Any]) -> PreparedCall:
    """Check a call. Raise UserError for an argument that does not exist, with the nearest, and for a wrong value."""
    known = inspect.signature(FUNCTIONS[function]).parameters
    given = rename_fields(given)
    for name in given:
        if name not in known:
            cause = f"{function}() has no argument {name!r}"
            raise UnknownArgumentError(cause, names.suggest(name, known))
    values = {name: _path_to_text(value) for name, value in given.items()}
    own = {name: values.pop(name) for name in ARGUMENTS if name in values}
    scratch = ScratchFolder()
    with contextlib.ExitStack() as undone, collect_notices() as notes:
        undone.callback(scratch.remove)
        values, backbone = _split_backbone({"output": ""} | values)
        rate = _parse_rate(own.pop("rate", None), values["input"])
        task = EditTask(**values | _save_in_memory_inputs(values, rate, scratch))
        known = _validate_call(task, backbone, rate)
        undone.pop_all()
    return PreparedCall(task, backbone, known, scratch, notes, **own)


def _split_backbone(values: dict[str, Any]) -> "tuple[dict[str, Any], Backbone | None]":
    """The backbone by its name, and itself where it is loaded."""
    backbone = values.get("backbone", "")
    if isinstance(backbone, str):
        return values, None
    idle = [name for name in ("weights", "device", "dtype") if name in values]
    if idle:
        warn_user(f"{' and '.join(idle)}: no effect on a backbone that is loaded")
    return values | {"backbone": backbone.name}, backbone


def _save_in_memory_inputs(values: dict[str, Any], rate: Fraction | None, scratch: ScratchFolder) -> dict[str, Any]:
    """Of the values, those that are in memory, as files. rate: None where the clip is a file already."""
    from ..media import arrays

    made: dict[str, Any] = {}
    if rate is not None:
        clip = arrays.to_frames(values["input"])
        made["input"] = str(arrays.write_clip(scratch.path, "clip", clip, rate))
    if not isinstance(values.get("mask"), str | None):
        inside = arrays.to_mask(values["mask"])
        made["mask"] = str(arrays.write_mask(scratch.path, "mask", inside))
    if "first_frame" in values:
        made["first_frame"] = _save_image(values["first_frame"], "first", scratch)
    if isinstance(values.get("keyframes"), Mapping):
        named = ((n, _save_image(one, f"key{n}", scratch)) for n, one in values["keyframes"].items())
        made["keyframes"] = tuple(f"{n}={path}" for n, path in named)
    return made


def _save_image(value: Any, name: str, scratch: ScratchFolder) -> str | None:
    from ..media import arrays

    value = _path_to_text(value)
    if isinstance(value, str | None):
        return value
    return str(arrays.write_image(scratch.path, name, arrays.to_image(value, f"the {name} frame")))


def _path_to_text(value: Any) -> Any:
    """A path as a text."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _parse_rate(rate: Any, clip: Any) -> Fraction | None:
    """Frames a second of a clip in memory; None of one that is a file, which has its own."""
    if isinstance(clip, str):
        if rate is not None:
            warn_user("rate has no effect on a clip that is a file, which has its own")
        return None
    if rate is None:
        warn_user(f"the clip came without a rate, and {DEFAULT_FPS} frames a second are taken; give rate=")
        return Fraction(DEFAULT_FPS)
    try:
        known = Fraction(rate).limit_denominator(1001)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        known = Fraction(0)
    if known <= 0:
        raise UserError(f"rate is frames a second, a number above 0, not {rate!r}")
    return known


def _validate_call(task: EditTask, backbone: "Backbone | None", rate: Fraction | None) -> "ValidatedTask":
    """What is known of the task's files. rate: the clip was in memory, and what its file adds to it is left out: times
    in thousandths of a second, and the tags of a video.
    """
    from .validation import validate

    known = validate(task, backbone)
    if rate is None:
        return known
    count = known.clip.frames
    even = {"times": tuple(range(count)), "durations": (1,) * count, "colour": {}}
    clip = dataclasses.replace(known.clip, rate=rate, time_base=1 / rate, **even)
    return dataclasses.replace(known, clip=clip)


set_signature(edit, ("resume", "rate", "progress"), "Result")
set_signature(edit_events, ("resume", "rate"), "Iterator[Event | Result]")
FUNCTIONS = {"edit": edit, "edit_events": edit_events}
