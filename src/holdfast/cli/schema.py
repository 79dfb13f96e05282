"""`holdfast schema`: the JSON Schema of a task, of a method's settings or of a manifest."""

import json
from typing import Annotated

import typer

from .console import report_errors

WHAT = "edit (a row of a batch has the same fields), manifest, or a method for its settings."


def print_schema(what: Annotated[str, typer.Argument(help=WHAT)] = "edit") -> None:
    """Print the JSON Schema of an edit task, a method's settings or a manifest."""
    from .. import methods
    from ..base import names
    from ..base.schema import json_schema
    from ..pipeline.task import EditTask

    with report_errors():
        name = names.choose(what, ["edit", *methods.names()], "schema")
        cls = EditTask if name == "edit" else methods.load(name).Config
        print(json.dumps(json_schema(cls), indent=2))
