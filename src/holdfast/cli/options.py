"""Flags of the commands that take an edit, made from EditTask, and old flags."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..base import old_names
from ..base.schema import REQUIRED, Setting, list_settings, plain_type
from ..pipeline.task import EditTask
from .console import print_notice

ARGUMENTS = ("input", "source", "edited")  # fields without a flag
# Fields whose flags are not their name with dashes.
FLAGS = {
    "output": ("-o", "--output"),
    "source_prompt": ("-s", "--source-prompt"),
    "target_prompt": ("-t", "--target-prompt"),
    "keyframes": ("--keyframe",),
    "brushes": ("--brush",),
    "settings": ("--set",),
}


def flag(name: str) -> str:
    """Return the long flag of a field."""
    return FLAGS.get(name, (f"--{name.replace('_', '-')}",))[-1]


class Command(TyperCommand):
    """A command that still takes the flags of release 0.1, with a notice."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        arguments, notices = old_names.rename_flags(self.name or "", args)
        for notice in notices:
            print_notice(notice)
        return super().parse_args(ctx, arguments)


def task_parameters(task: type = EditTask, needed: Sequence[str] = ()) -> list[inspect.Parameter]:
    """Return one typer parameter for each field of a task. needed: fields that the command line must give."""
    return [
        _parameter(setting, setting.default is REQUIRED or setting.name in needed)
        for setting in list_settings(task).values()
    ]


def _parameter(setting: Setting, is_needed: bool) -> inspect.Parameter:
    values = setting.takes.removesuffix(", or none")  # a flag that is left out is none
    limits = f" ({values})" if str(setting.range) else ""
    text = setting.description + limits
    name, takes = setting.name, plain_type(setting)
    default = inspect.Parameter.empty if is_needed else setting.default
    if setting.kind in ("array", "object") or setting.may_be_list:  # a flag that may be repeated
        takes, default = list[str], []
    info = typer.Argument(help=text) if name in ARGUMENTS else _option(name, text)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=Annotated[takes, info])


def _option(name: str, text: str) -> Any:
    return typer.Option(*FLAGS.get(name, ()), help=text)


def set_signature(
    function: Callable, parameters: list[inspect.Parameter], switches: Mapping[str, str]
) -> Callable:
    """Give a command these parameters, and flags that are on or off with their help."""
    for name, text in switches.items():
        kind = Annotated[bool, typer.Option(f"--{name}", help=text)]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        )
    # typer and inspect read a signature that is set here
    function.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function
