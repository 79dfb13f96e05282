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
from collections.abc import Callable, Generator, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ..base import names
from ..base.errors import UnknownArgumentError, UserError, name_controls
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
    """A temporary folder, created on first use, and removed by `remove` or with the last reference to this object."""

    def __init__(self) -> None:
        self._remove: weakref.finalize | None = None

    @functools.cached_property
    def path(self) -> Path:
        """The folder."""
        path = Path(tempfile.mkdtemp(prefix="holdfast-"))
        self._remove = weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
        return path

    def files(self) -> list[str]:
        """Return the names of its files."""
        return sorted(file.name for file in self.path.iterdir()) if self._remove else []

    def remove(self) -> None:
        """Remove the folder."""
        if self._remove:
            self._remove()


@dataclasses.dataclass
class PreparedCall:
    """A validated call. scratch: holds what was in memory, as files."""

    task: EditTask
    backbone: "Backbone | None"
    validated: "ValidatedTask"
    scratch: ScratchFolder
    notices: list[str]
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
        call = _prepare_call(
            "edit", _collect_arguments(input, source_prompt, target_prompt, options)
        )
        return run.run_to_end(_run_call(call), call.task, call.progress)


def edit_events(
    input: Any, source_prompt: str = "", target_prompt: str = "", **options: Unpack[EditOptions]
) -> "Iterator[Event | Result]":
    """Edit a clip, and yield what happens: Progress, Step and Note events, and the Result last. Closing the iterator
    cancels the edit.

    Raise for bad input at the call, as `edit` does.
    """
    with _name_arguments():
        call = _prepare_call(
            "edit_events", _collect_arguments(input, source_prompt, target_prompt, options)
        )
    return _run_call(call)


def _collect_arguments(
    input: Any, source: str, target: str, options: Mapping[str, Any]
) -> dict[str, Any]:
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


def _run_call(call: PreparedCall) -> "Generator[Event | Result, None, None]":
    """Yield the events of a call. Errors and notices name arguments instead of flags.

    The scratch folder lives as long as the result; without a result it is removed.
    """
    from . import run
    from .events import NoticeIssued

    events = run.edit_events(call.task, call.backbone, call.resume, call.validated)
    with _name_arguments(), contextlib.ExitStack() as stack:
        stack.callback(call.scratch.remove)
        for text in call.notices:
            yield NoticeIssued(name_controls(text, argument_name))
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, run.Result):
                    event.manifest["notes"][:0] = call.notices
                    event.manifest["in_memory"] = call.scratch.files()
                    event.scratch = call.scratch
                    stack.pop_all()
                elif isinstance(event, NoticeIssued):
                    event = NoticeIssued(name_controls(event.text, argument_name))
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
    with contextlib.ExitStack() as stack, collect_notices() as notices:
        stack.callback(scratch.remove)
        values, backbone = _split_backbone({"output": ""} | values)
        rate = parse_rate(own.pop("rate", None), values["input"])
        task = EditTask(**values | _save_in_memory_inputs(values, rate, scratch))
        validated = _validate_call(task, backbone, rate)
        stack.pop_all()
    return PreparedCall(task, backbone, validated, scratch, notices, **own)


def _split_backbone(values: dict[str, Any]) -> "tuple[dict[str, Any], Backbone | None]":
    """Return the values with the backbone's name, and the backbone itself where it is loaded."""
    backbone = values.get("backbone", "")
    if isinstance(backbone, str):
        return values, None
    unused = [name for name in ("weights", "device", "dtype", "memory") if name in values]
    if unused:
        warn_user(f"{' and '.join(unused)}: no effect on a backbone that is loaded already")
    return values | {"backbone": backbone.name}, backbone


def _save_in_memory_inputs(
    values: dict[str, Any], rate: Fraction | None, scratch: ScratchFolder
) -> dict[str, Any]:
    """Write the values that are in memory to files, and return the paths. rate: None where the clip is a file."""
    from ..media import arrays

    paths: dict[str, Any] = {}
    if rate is not None:
        clip = arrays.to_frames(values["input"])
        paths["input"] = str(arrays.write_clip(scratch.path, "clip", clip, rate))
    if "mask" in values:
        paths["mask"] = _save_masks(values["mask"], scratch)
    if "first_frame" in values:
        paths["first_frame"] = _save_image(values["first_frame"], "first", scratch)
    if isinstance(values.get("keyframes"), Mapping):
        images = values["keyframes"].items()
        saved = ((index, _save_image(image, f"key{index}", scratch)) for index, image in images)
        paths["keyframes"] = tuple(f"{index}={path}" for index, path in saved)
    return paths


def _save_masks(value: Any, scratch: ScratchFolder) -> Any:
    """Write a mask that is in memory, or those of a list of masks with words. Return the paths in the same form."""
    from ..media import arrays

    value = _path_to_text(value)
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return [
            {**item, "mask": _save_masks(item["mask"], scratch)}
            if isinstance(item, Mapping) and "mask" in item
            else item
            for item in value
        ]
    if isinstance(value, str | None):
        return value
    return str(arrays.write_mask(scratch.path, "mask", arrays.to_mask(value)))


def _save_image(value: Any, name: str, scratch: ScratchFolder) -> str | None:
    """Write an image that is in memory, and return its path; return a path unchanged."""
    from ..media import arrays

    value = _path_to_text(value)
    if isinstance(value, str | None):
        return value
    return str(arrays.write_image(scratch.path, name, arrays.to_image(value, f"the {name} frame")))


def _path_to_text(value: Any) -> Any:
    """Return a path as text, and any other value unchanged."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def parse_rate(rate: Any, clip: Any) -> Fraction | None:
    """Return the frame rate of a clip in memory; None for a file, which has its own."""
    if isinstance(clip, str):
        if rate is not None:
            warn_user("rate has no effect: the clip is a file with a frame rate of its own")
        return None
    if rate is None:
        warn_user(
            f"the clip has no frame rate: {DEFAULT_FPS} frames per second are used; set rate="
        )
        return Fraction(DEFAULT_FPS)
    try:
        fps = Fraction(rate).limit_denominator(1001)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        fps = Fraction(0)
    if fps <= 0:
        raise UserError(
            f"rate={rate!r} is not a frame rate", "give frames per second, a number above 0"
        )
    return fps


def _validate_call(
    task: EditTask, backbone: "Backbone | None", rate: Fraction | None
) -> "ValidatedTask":
    """Validate a task. rate: of a clip that was in memory; what its file adds is removed: times in thousandths of a
    second, and the tags of a video.
    """
    from .validation import validate

    validated = validate(task, backbone)
    if rate is None:
        return validated
    from ..media import video

    sampling = validated.clip.sampling
    count = sampling.source_frames if sampling else validated.clip.frames
    clip = dataclasses.replace(
        validated.clip,
        rate=rate,
        time_base=1 / rate,
        times=tuple(range(count)),
        durations=(1,) * count,
        colour={},
    )
    if sampling:
        clip = video.sample(clip, sampling.part, sampling.frames)
    return dataclasses.replace(validated, clip=clip)


set_signature(edit, ("resume", "rate", "progress"), "Result")
set_signature(edit_events, ("resume", "rate"), "Iterator[Event | Result]")
FUNCTIONS = {"edit": edit, "edit_events": edit_events}
