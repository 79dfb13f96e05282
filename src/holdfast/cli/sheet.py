"""`holdfast sheet`: one clip edited in several ways, and which one the measures prefer."""

import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..base.errors import UserError
from ..pipeline.task import EditTask
from .console import exit_codes, screen, settings_of, shown_progress
from .options import dressed, task_parameters

SEVERAL = {
    "output": "Folder for the clips, sheet.png and sheet.json.",
    "method": "Methods, with commas.",
    "strength": "Strengths, with commas; by default each method's own.",
    "seed": "Seeds: A:B (B left out), or with commas.",
}


def sheet(**values: Any) -> None:
    """Edit a clip in several ways (methods, strengths, seeds) with one load and one encoding, and compare them."""
    as_json = values.pop("json")
    with exit_codes():
        from ..base.files import as_json as to_json
        from ..bench.contact_sheet import asked
        from ..bench.contact_sheet import sheet as make

        folder = Path(values.pop("output"))
        ways = asked(values.pop("method"), values.pop("strength"), values.pop("seed"))
        settings, words = settings_of(values.pop("settings")), tuple(values.pop("words"))
        # Each method is asked for by name below; the task holds what all have in common.
        named = {"method": ways.methods[0], "settings": settings, "words": words}
        task = EditTask.from_dict(values | named | {"output": str(folder / "clip.mp4")})
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; give another --output")
        with shown_progress(quiet=as_json) as report:
            record = make(task, ways, folder, report=report)
        if as_json:
            print(to_json(record))
        else:
            show(record, folder)


def show(record: dict, folder: Path) -> None:
    figures = {name: clip["figures"] for name, clip in record["clips"].items()}
    table = Table("clip", *next(iter(figures.values())))
    for name, row in figures.items():
        marked = f"{name} *" if name == record["preferred"] else name
        table.add_row(marked, *("-" if v is None else f"{v:.4g}" for v in row.values()))
    Console().print(table)
    best = record["preferred"]
    said = f"* preferred: {record['why']}" if best else record["why"]
    screen.print(said, highlight=False, soft_wrap=True, markup=False)
    screen.print(f"look at {folder}/sheet.png", highlight=False, soft_wrap=True, markup=False)


def _parameters() -> list[inspect.Parameter]:
    """Those of an edit; what a sheet has several of is a text."""
    defaults = {f.name: f.default for f in dataclasses.fields(EditTask)}
    found = []
    for parameter in task_parameters():
        name = parameter.name
        if name not in SEVERAL:
            found.append(parameter)
            continue
        default = defaults[name]
        usual = "" if default is None else str(default)
        if name == "output":
            usual = inspect.Parameter.empty
        flags = ("-o", "--output") if name == "output" else ()
        kind = Annotated[str, typer.Option(*flags, help=SEVERAL[name])]
        found.append(parameter.replace(default=usual, annotation=kind))
    return found


dressed(sheet, _parameters(), {"json": "Print the record as JSON on standard output."})
