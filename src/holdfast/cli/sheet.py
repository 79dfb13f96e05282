"""`holdfast sheet`: a clip edited in several ways, and the one that measures best."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from ..base.errors import UserError
from ..base.schema import list_settings
from ..pipeline.task import EditTask
from .console import parse_pairs, print_line, print_table, report_errors, show_progress
from .options import FLAGS, set_signature, task_parameters

SWITCHES = {"json": "Print the record as JSON on standard output, and nothing else there."}
LISTS = {
    "output": "Folder for the clips, sheet.png and sheet.json.",
    "method": "Methods, with commas.",
    "strength": "Strengths, with commas (default: each method's own).",
    "seed": "Seeds: A:B for A to B-1, or with commas.",
}


def sheet(**values: Any) -> None:
    """Edit a clip in several ways (methods, strengths, seeds), load and encode once, and compare the results."""
    as_json = values.pop("json")
    with report_errors():
        from ..base.files import as_json as to_json
        from ..bench.contact_sheet import make_sheet, parse_sweep

        folder = Path(values.pop("output"))
        sweep = parse_sweep(values.pop("method"), values.pop("strength"), values.pop("seed"))
        settings, words = parse_pairs(values.pop("settings")), tuple(values.pop("words"))
        # The task holds what all edits have in common; the sweep names the method of each.
        common = {"method": sweep.methods[0], "settings": settings, "words": words}
        task = EditTask.from_dict(values | common | {"output": str(folder / "clip.mp4")})
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file", "choose another --output")
        with show_progress(quiet=as_json) as report:
            record = make_sheet(task, sweep, folder, report=report)
        if as_json:
            print(to_json(record))
        else:
            print_sheet(record, folder)


def print_sheet(record: dict, folder: Path) -> None:
    figures = {name: clip["figures"] for name, clip in record["clips"].items()}
    rows = []
    for name, row in figures.items():
        label = f"{name} *" if name == record["preferred"] else name
        rows.append((label, *("-" if v is None else f"{v:.4g}" for v in row.values())))
    print_table(("clip", *next(iter(figures.values()))), rows)
    best = record["preferred"]
    print_line(f"* preferred: {record['why']}" if best else record["why"])
    print_line(f"see {folder}/sheet.png")


def sheet_parameters() -> list[inspect.Parameter]:
    """Return the parameters of an edit; those that a sheet takes several of are texts. Its clips share no raw file."""
    shared = [p for p in task_parameters() if p.name != "raw"]
    return [_as_list(p) if p.name in LISTS else p for p in shared]


def _as_list(parameter: inspect.Parameter) -> inspect.Parameter:
    name = parameter.name
    usual = list_settings(EditTask)[name].default
    default: Any = "" if usual is None else str(usual)
    if name == "output":
        default = inspect.Parameter.empty
    option = typer.Option(*FLAGS.get(name, ()), help=LISTS[name])
    return parameter.replace(default=default, annotation=Annotated[str, option])


set_signature(sheet, sheet_parameters(), SWITCHES)
