"""The commands of `holdfast bench`: run, report, study, tally."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..console import exit_codes, screen, settings_of, shown_progress

bench = typer.Typer(no_args_is_help=True, help="Which method should I use, and is it any good? Run, report, ask people.")


@bench.command("run")
def run_bench(
    dataset: Annotated[
        str, typer.Argument(help="shapeworld[:SETS[/KINDS]], five:FOLDER[/TYPES] or FILE.jsonl (see: holdfast list datasets).")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for results; the same command goes on where it stopped.")],
    methods: Annotated[str, typer.Option(help="Names with commas, or all; NAME+mask lets a method see the benchmark's mask.")] = "all",
    backbones: Annotated[str, typer.Option(help="Names with commas.")] = "shapeworld-wan",
    settings: Annotated[list[str], typer.Option("--set", help="A setting to sweep over, key=value,value; may be repeated.")] = [],  # noqa: B006
    limit: Annotated[int | None, typer.Option(help="At most so many clips.")] = None,
    seed: Annotated[int, typer.Option(help="The seed of every edit.")] = 0,
    metrics: Annotated[str, typer.Option(help="Names with commas, or all.")] = "all",
    measure_set: Annotated[list[str], typer.Option("--measure-set", help="An option of the metrics, key=value.")] = [],  # noqa: B006
    measure_again: Annotated[bool, typer.Option(help="Measure finished edits anew, for instance once CLIP is here.")] = False,
    retry: Annotated[bool, typer.Option(help="Try failed cells again.")] = False,
    weights: Annotated[str | None, typer.Option(help="A folder or hub id in place of the backbone's own weights.")] = None,
) -> None:
    """Edit every clip with every method, measure, and keep each result: a stopped run goes on where it was."""
    from .. import methods as known_methods
    from ..run import Cancelled
    from . import datasets, runner

    with exit_codes():
        chosen = known_methods.names() if methods == "all" else _names(methods)
        sweep: dict[str, list[str]] = {}
        for pair in settings:
            for key, values in settings_of([pair]).items():
                sweep.setdefault(key, []).extend(values.split(","))
        rows = runner.rows(chosen, _names(backbones), sweep)
        tools, only = measuring(metrics, measure_set)
        cases = datasets.load(dataset, output / "data", limit)
        plan = runner.Plan(dataset, rows, tuple(cases), seed, weights)
        made = runner.Bench(plan, output, tools, only)
        made.begin(shlex.join(["holdfast", *sys.argv[1:]]))
        try:
            with shown_progress(quiet=not screen.is_terminal) as progress:
                counts = made.run(progress, retry, measure_again)
        except (KeyboardInterrupt, Cancelled):
            screen.print(
                f"stopped; the same command goes on: {shlex.join(['holdfast', *sys.argv[1:]])}",
                highlight=False,
                soft_wrap=True,
                markup=False,
            )
            raise
        screen.print(", ".join(f"{v} {k}" for k, v in counts.items() if v) or "nothing to do", highlight=False)
        if counts["failed"] or counts["failed before"]:
            screen.print("failed cells are in the report with their reason; --retry tries them again", highlight=False)
        screen.print(f"look at it with: holdfast bench report {shlex.quote(str(output))}", highlight=False, soft_wrap=True)


@bench.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of bench run.")],
    baseline: Annotated[str | None, typer.Option(help="The row that others are compared with, pair by pair; by default the first.")] = None,
    quality: Annotated[str | None, typer.Option(help="The figure that the plots show.")] = None,
    gallery: Annotated[int, typer.Option(help="How many clips the page shows.", min=0)] = 12,
) -> None:
    """Make one page that opens from disk (report.html), and table.csv, cells.csv and table.md beside it."""
    from .report import report as make

    with exit_codes():
        for path in make(folder, baseline, quality, gallery).values():
            screen.print(f"wrote {path}", highlight=False, soft_wrap=True)


@bench.command()
def study(
    folder: Annotated[Path, typer.Argument(help="The folder of bench run.")],
    methods: Annotated[str | None, typer.Option(help="Rows to compare, with commas; by default all.")] = None,
    trials: Annotated[int, typer.Option(help="At most so many comparisons.", min=1)] = 30,
    seed: Annotated[int, typer.Option(help="Of the choice and the order.")] = 0,
) -> None:
    """Make a page that asks people, blindly, which of two results is better. The key stays with you."""
    from .study import study as make

    with exit_codes():
        paths = make(folder, _names(methods) if methods else None, trials, seed)
        screen.print(f"wrote {paths['study.html']} (to send out) and {paths['study-key.json']} (to keep)", highlight=False, soft_wrap=True)


@bench.command()
def tally(
    key: Annotated[Path, typer.Argument(help="study-key.json of bench study.")],
    answers: Annotated[list[Path], typer.Argument(help="The files that people saved.")],
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Turn answers into win rates and a Bradley-Terry ranking, with intervals."""
    import dataclasses

    from ..run import as_json
    from . import study as studies

    with exit_codes():
        found = studies.tally(studies.votes(key, answers))
        if json:
            plain = {q: {m: {k: dataclasses.asdict(e) for k, e in v.items()} for m, v in ms.items()} for q, ms in found.items()}
            print(as_json(plain))
            return
        for question, ranked in found.items():
            table = Table("method", "win rate", "strength", "answers", title=question, title_justify="left")
            for method, values in ranked.items():
                table.add_row(method, values["win_rate"].text(), values["strength"].text(), str(values["win_rate"].n))
            Console().print(table)


def _names(text: str) -> list[str]:
    return [n.strip() for n in text.split(",") if n.strip()]


def measuring(metrics: str, options: list[str]) -> tuple:
    """The networks and the names of metrics that options ask for."""
    from .. import metrics as known
    from ..metrics.base import Options, Tools
    from ..task import configure

    cfg, _ = configure(Options, {}, None, settings_of(options))
    only = None if metrics == "all" else [known.module(n).__name__.rpartition(".")[2] for n in _names(metrics)]
    return Tools(cfg), only
