"""Python's way to an edit: `edit` and `events`, whose keywords are made from EditTask as the command line's flags are.

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
import textwrap
import weakref
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import names
from ..base.errors import UserError
from ..base.notices import collected, note
from ..base.schema import kind_of, without_limits
from .task import EditTask

if TYPE_CHECKING:
    from ..models.base import Backbone
    from .loop import Event
    from .result import Result
    from .validation import ValidatedTask

DEFAULT_FPS = 16  # frames a second of a clip that comes without
POSITIONAL = ("input", "source", "target")
# What a field takes in Python besides what its help says.
BESIDES = {
    "input": "Or frames: an array f H W 3 (uint8, uint16, floats in [0, 1]), a tensor f 3 H W, a list of PIL images.",
    "output": "May be left out: Result.save takes a name too. With it, latents are saved on the way.",
    "backbone": "Or one that is loaded (load_backbone).",
    "first_frame": "Or an array H W 3, a tensor 3 H W, a PIL image.",
    "keyframes": "Or a dict of images or paths by place.",
    "mask": "Or an array H W or f H W, a tensor, a PIL image or a list of them.",
    "settings": 'As a dict: {"steps": 10}.',
}
OWN = {
    "resume": (bool, False, "Go on from the latents that a stopped run saved beside its output."),
    "rate": (Any, None, f"Frames a second, of a clip that is no file. ({DEFAULT_FPS} where left out)"),
    "progress": (Callable | None, None, "Called with stage, done and count as it goes."),
}


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


def edit(*arguments: Any, **named: Any) -> "Result":
    asked = _prepare_call("edit", arguments, named)
    from . import run

    return run.run_to_end(_run_call(asked), asked.task, asked.progress)


def events(*arguments: Any, **named: Any) -> "Iterator[Event | Result]":
    return _run_call(_prepare_call("events", arguments, named))


def _run_call(asked: PreparedCall) -> "Iterator[Event | Result]":
    """The events of a call. What was in memory stays with the result, and is gone where there is none."""
    from . import run
    from .loop import NoticeIssued

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


def _prepare_call(name: str, arguments: tuple, named: dict[str, Any]) -> PreparedCall:
    """Raises ValueError for an argument that there is not, with the nearest, and for what an argument does not take."""
    signature = SIGNATURES[name]
    for key in named:
        if key not in signature.parameters:
            near = names.choose(key, signature.parameters, f"argument of {name}()")
            raise UserError(f"{name}() has no argument {key!r}; write {near}")
    bound = signature.bind(*arguments, **named).arguments
    values = {key: _path_to_text(value) for key, value in bound.items()}
    own = {key: values.pop(key) for key in OWN if key in values}
    scratch = ScratchFolder()
    with contextlib.ExitStack() as undone, collected() as notes:
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
        note(f"{' and '.join(idle)}: no effect on a backbone that is loaded")
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
            note("rate has no effect on a clip that is a file, which has its own")
        return None
    if rate is None:
        note(f"the clip came without a rate, and {DEFAULT_FPS} frames a second are taken; give rate=")
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


def _parameters(own: tuple[str, ...]) -> list[inspect.Parameter]:
    fields = {f.name: f for f in dataclasses.fields(EditTask)}
    order = [*POSITIONAL, *(name for name in fields if name not in POSITIONAL)]
    return [_parameter(fields[name]) for name in order] + [
        inspect.Parameter(
            n, inspect.Parameter.KEYWORD_ONLY, default=OWN[n][1], annotation=OWN[n][0]
        )
        for n in own
    ]


def _parameter(f: dataclasses.Field) -> inspect.Parameter:
    kind = inspect.Parameter
    place = kind.POSITIONAL_OR_KEYWORD if f.name in POSITIONAL else kind.KEYWORD_ONLY
    default = kind.empty if f.name == "input" else "" if f.name == "output" else f.default
    if default is dataclasses.MISSING:
        default = f.default_factory()
    takes = Any if f.name in BESIDES else without_limits(f.type)
    return kind(f.name, place, default=default, annotation=takes)


def _about(own: tuple[str, ...]) -> str:
    """A line for each argument."""
    said = []
    for f in dataclasses.fields(EditTask):
        kind = kind_of(f.type)
        limits = f" ({kind})" if kind.range else ""
        besides = f" {BESIDES[f.name]}" if f.name in BESIDES else ""
        said.append(f"{f.name}: {f.metadata['help']}{limits}{besides}")
    said += [f"{name}: {OWN[name][2]}" for name in own]
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="    ") for line in said)


def _dressed(function: Callable, own: tuple[str, ...], returns: Any, words: str) -> None:
    signature = inspect.Signature(_parameters(own), return_annotation=returns)
    SIGNATURES[function.__name__] = function.__signature__ = signature
    function.__doc__ = f"{inspect.cleandoc(words)}\n\n{_about(own)}\n"


SIGNATURES: dict[str, inspect.Signature] = {}
_dressed(
    edit,
    ("resume", "rate", "progress"),
    "Result",
    """Edit a clip by two prompts. Returns a Result: `save("out.mp4")`, `array()`, `images()`, `tensor()`, `frames()`,
    `preservation`; in a notebook it shows itself.

    Raises ValueError for bad input, Missing for weights that are not here.""",
)
_dressed(
    events,
    ("resume", "rate"),
    "Iterator[Event | Result]",
    """The same edit as it goes: Progress, Step and Note, and the Result at last. Closing the iterator cancels the edit.

    Bad input is told at the call. Raises as edit does.""",
)
