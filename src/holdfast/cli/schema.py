"""`holdfast schema`: the JSON Schema of a task, of a method's settings or of a manifest."""

import json
from typing import Annotated

import typer

from ..base.schema import json_schema
from .console import report_errors

WHAT = (
    "edit or keep (a row of a batch has the same fields), manifest, or a method for its settings."
)


def print_schema(what: Annotated[str, typer.Argument(help=WHAT)] = "edit") -> None:
    """Print the JSON Schema of a task, a method's settings or a manifest."""
    from .. import methods
    from ..base import names

    with report_errors():
        name = names.choose(what, ["edit", "keep", "manifest", *methods.names()], "schema")
        print(json.dumps(json_schema(find_class(name)), indent=2))


def find_class(name: str) -> type:
    """Return the class of a schema's name."""
    if name == "edit":
        from ..pipeline.task import EditTask

        return EditTask
    if name == "keep":
        from ..conform.task import KeepTask

        return KeepTask
    if name == "manifest":
        from ..pipeline.manifest import Manifest

        return Manifest
    from .. import methods

    return methods.load(name).Config
