"""The signature and the documentation of `edit` and `edit_events`, made from EditTask."""

import inspect
import textwrap
from collections.abc import Callable, Iterable
from os import PathLike
from typing import Any, Literal, TypedDict

from ..base.schema import REQUIRED, Setting, list_settings, plain_type
from .task import EditTask

POSITIONAL = ("input", "source_prompt", "target_prompt")
FLAG_NAMES = {
    "keyframe": "keyframes",
    "set": "settings",
}  # flags that are not the name of their field
# What a field takes in Python in addition to what its description says.
IN_MEMORY = {
    "input": "Or frames: an array f H W 3 (uint8, uint16, floats in [0, 1]), a tensor f 3 H W, a list of PIL images.",
    "output": "Optional: Result.save takes a name too. With it, progress is saved during the run.",
    "backbone": "Or a loaded one (load_backbone).",
    "first_frame": "Or an array H W 3, a tensor 3 H W, a PIL image.",
    "keyframes": "Or a dict of images or paths by frame number.",
    "mask": "Or an array H W or f H W, a tensor, a PIL image or a list of them. Several: a list of "
    '{"mask": ..., "words": ...}.',
    "settings": 'As a dict: {"steps": 10}.',
}


class Argument(TypedDict):
    """An argument that is no field of EditTask."""

    takes: Any
    default: Any
    description: str


class EditOptions(TypedDict, total=False):
    """The keyword arguments of `edit`, for type checkers. A test compares them with EditTask."""

    output: str | PathLike[str]
    raw: str | PathLike[str] | None
    negative: str
    method: str
    backbone: Any
    weights: str | PathLike[str] | None
    image_model: str | None
    control: str | PathLike[str] | None
    controlnet: str | PathLike[str] | None
    control_scale: float
    first_frame: Any
    keyframes: Any
    mask: Any
    invert_mask: bool
    outline: Literal["given", "hull", "box"]
    grow: int | None
    feather: int | None
    mask_channel: Literal["auto", "colour", "alpha"]
    allow_any_mask: bool
    words: tuple[str, ...] | list[str] | str
    frames: str | None
    every: int | None
    count: int | None
    window: int | None
    strength: float | None
    quality: Literal["draft", "normal", "best"]
    settings: dict[str, Any]
    seed: int
    device: str
    dtype: Literal["auto", "bfloat16", "float16", "float32"]
    memory: str
    compile: bool
    deinterlace: bool
    background: str | None
    codec: Literal[
        "auto", "h264", "h265", "vp9", "av1", "prores", "ffv1", "lossless", "lossless-rgb"
    ]
    crf: int | None
    resume: bool
    rate: Any
    progress: Callable[[str, int, int], None] | None  # of `edit` alone


ARGUMENTS: dict[str, Argument] = {
    "resume": {
        "takes": bool,
        "default": False,
        "description": "Resume a stopped run from the progress saved next to its output.",
    },
    "rate": {
        "takes": Any,
        "default": None,
        "description": "Frames per second of a clip in memory. The default is 16.",
    },
    "progress": {
        "takes": Any,
        "default": None,
        "description": "Called with stage, done and count during the run.",
    },
}


def set_signature(function: Callable, arguments: Iterable[str], returns: Any) -> None:
    """Give a function the arguments of an edit, and a line of documentation for each.

    arguments: names in ARGUMENTS that the function takes too.
    """
    names = list(arguments)
    parameters = [_field_parameter(setting) for setting in _ordered_settings()]
    parameters += [_own_parameter(name) for name in names]
    signature = inspect.Signature(parameters, return_annotation=returns)
    function.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]  inspect reads it
    function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{_argument_lines(names)}\n"


def argument_name(flag: str) -> str:
    """Return what Python calls a flag of the command line (without its dashes): "mask="; other flags unchanged."""
    name = FLAG_NAMES.get(flag, flag.replace("-", "_"))
    return f"{name}=" if name in list_settings(EditTask) or name in ARGUMENTS else f"--{flag}"


def _ordered_settings() -> list[Setting]:
    settings = list_settings(EditTask)
    return [settings[n] for n in [*POSITIONAL, *(n for n in settings if n not in POSITIONAL)]]


def _field_parameter(setting: Setting) -> inspect.Parameter:
    name, kind = setting.name, inspect.Parameter
    place = kind.POSITIONAL_OR_KEYWORD if name in POSITIONAL else kind.KEYWORD_ONLY
    default = kind.empty if setting.default is REQUIRED else setting.default
    if name == "output":
        default = ""
    takes = Any if name in IN_MEMORY else plain_type(setting)
    return kind(name, place, default=default, annotation=takes)


def _own_parameter(name: str) -> inspect.Parameter:
    info, kind = ARGUMENTS[name], inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=info["default"], annotation=info["takes"])


def _argument_lines(names: list[str]) -> str:
    lines = [_describe_field(setting) for setting in list_settings(EditTask).values()]
    lines += [f"{name}: {ARGUMENTS[name]['description']}" for name in names]
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="    ") for line in lines)


def _describe_field(setting: Setting) -> str:
    limits = f" ({setting.takes})" if str(setting.range) else ""
    more = f" {IN_MEMORY[setting.name]}" if setting.name in IN_MEMORY else ""
    return f"{setting.name}: {setting.description}{limits}{more}"
