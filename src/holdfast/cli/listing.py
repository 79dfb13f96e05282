"""`holdfast list`: methods, backbones, metrics, data sets, and the settings of a method."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Annotated

import typer
from rich.markup import escape

from .. import methods
from .console import report_errors

COMMAND = "download"  # the key of a row's command, which no table may break over lines
WHAT = "methods (the default), backbones, pairs of both, metrics or datasets; or a method, for its settings."


def list_names(
    what: Annotated[str, typer.Argument(help=WHAT, show_default=False)] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """List methods, backbones, metrics and data sets, or a method's settings."""
    from ..base import names
    from ..base.files import as_json

    with report_errors():
        tables = list_tables()
        choice = names.choose(what or "methods", tables, "list")
        rows = tables[choice]()
        if json:
            print(as_json(rows))
        else:
            print_rows(group_pairs(rows) if choice == "pairs" else rows)
            if not what:
                others = [name for name in tables if name not in ("methods", *rows)]
                print(f"More: holdfast list METHOD for its settings, or {', '.join(others)}")


def print_rows(rows: dict[str, dict]) -> None:
    """Print a table, and below it the commands, whole, so that they can be copied."""
    from rich.console import Console
    from rich.table import Table

    commands = {name: row.pop(COMMAND) for name, row in rows.items() if COMMAND in row}
    table = Table()
    table.add_column("name", no_wrap=True)
    for column in next(iter(rows.values())):
        table.add_column(column, overflow="fold")
    for name, row in rows.items():
        cells = (", ".join(v) if isinstance(v, list) else str(v) for v in row.values())
        table.add_row(name, *map(escape, cells))
    out = Console()
    out.print(table)
    for name, text in commands.items():
        if text:
            out.print(f"{name}: {escape(text)}", highlight=False, soft_wrap=True)


def list_tables() -> dict[str, Callable[[], dict[str, dict]]]:
    """Return what can be listed, and the functions that make its rows."""
    tables: dict[str, Callable[[], dict[str, dict]]] = {
        "methods": _method_rows,
        "backbones": _backbone_rows,
        "metrics": _metric_rows,
        "datasets": _dataset_rows,
        "pairs": _pair_rows,
    }
    return tables | {name: _settings_rows(name) for name in methods.names()}


def _settings_rows(name: str) -> Callable[[], dict[str, dict]]:
    def make_rows() -> dict[str, dict]:
        from ..base.schema import describe_settings

        return dict(describe_settings(methods.load(name).Config))

    return make_rows


def _first_line(module: ModuleType) -> str:
    return (module.__doc__ or "").split("\n")[0]  # python -OO keeps no docstrings


def _method_rows() -> dict:
    rows = {}
    for name in methods.names():
        module = methods.load(name)
        rows[name] = {"needs": sorted(module.METHOD.requires), "about": _first_line(module)}
    return rows


def _backbone_rows() -> dict:
    from ..models import registry
    from ..models.downloads import plan_download

    rows = {}
    for name, spec in registry.specs().items():
        get = plan_download(spec) if spec.download_gb else None
        rows[name] = {
            "weights": spec.weights or "none",
            "gigabytes": round(get.bytes / 1e9, 1) if get and get.bytes else 0,
            "frames": spec.train_frames if spec.train_frames < 10**6 else "any",
            "licence": spec.licence,
            COMMAND: get.command if get else "",
        }
    return rows


def _pair_rows() -> dict:
    """Say for each method and backbone whether they fit: what one needs, the other must be capable of."""
    from ..models import registry

    rows = {}
    for name in methods.names():
        needs = methods.load(name).METHOD
        rows[name] = {}
        for backbone, spec in registry.specs().items():
            missing = needs.missing(spec.capabilities)
            rows[name][backbone] = f"no {', '.join(sorted(missing))}" if missing else "yes"
    return rows


def group_pairs(rows: dict[str, dict]) -> dict[str, dict]:
    """Return the pairs with two columns, since one for each backbone does not fit on a screen."""
    grouped = {}
    for name, row in rows.items():
        found: dict[str, list[str]] = {"yes": []}
        for backbone, answer in row.items():
            found.setdefault(answer, []).append(backbone)
        others = [f"{', '.join(found[why])}: {why}" for why in found if why != "yes"]
        grouped[name] = {"runs on": found["yes"], "not on": "\n".join(others)}
    return grouped


def _metric_rows() -> dict:
    from .. import metrics

    rows = {}
    for name in metrics.names():
        info = metrics.find(name)
        about = _first_line(sys.modules[info.metric.__module__])
        rows[name] = {
            "figures": list(info.directions),
            "needs": sorted(info.requires),
            "about": about,
        }
    return rows


def _dataset_rows() -> dict:
    import importlib

    from ..bench import datasets

    rows = {}
    for name in datasets.names():
        module = importlib.import_module(f"holdfast.bench.datasets.{name}")
        rows[name] = {"about": _first_line(module)}
    return rows
