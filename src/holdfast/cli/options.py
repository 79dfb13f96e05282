"""The flags of commands that take an edit: made from EditTask, its one schema."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from ..base.schema import kind_of, without_limits
from ..pipeline.task import EditTask


def task_parameters() -> list[inspect.Parameter]:
    """One typer parameter for each field of EditTask."""
    parameters = []
    for f in dataclasses.fields(EditTask):
        flags, text = f.metadata["flags"], f.metadata["help"] + _limits(f.type)
        about = (
            typer.Argument(help=text) if f.metadata["argument"] else typer.Option(*flags, help=text)
        )
        parameters.append(
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_default(f),
                annotation=Annotated[_typed(f.type), about],
            )
        )
    return parameters


def _limits(annotation: Any) -> str:
    """What a field's type says of its numbers, for its help."""
    kind = kind_of(annotation)
    return f" ({kind})" if kind.range else ""


def _typed(annotation: Any) -> Any:
    """A field's type as typer takes it. Ranges stay with EditTask, which says the same from JSON and from Python."""
    return list[str] if kind_of(annotation).base in (dict, tuple) else without_limits(annotation)


def _default(f: dataclasses.Field) -> Any:
    if kind_of(f.type).base in (dict, tuple):
        return []
    return inspect.Parameter.empty if f.default is dataclasses.MISSING else f.default


def dressed(
    function: Callable, parameters: list[inspect.Parameter], flags: Mapping[str, str]
) -> Callable:
    """A command that takes these parameters, and flags that are on or off with their help."""
    for name, text in flags.items():
        kind = Annotated[bool, typer.Option(f"--{name}", help=text)]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        )
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function
