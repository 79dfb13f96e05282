"""The commands of `holdfast bench`: run, report, study, tally."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .console import exit_codes, screen, settings_of, shown_progress

if TYPE_CHECKING:
    from ..bench.runner import Bench
    from ..metrics.base import Tools

bench = typer.Typer(
    no_args_is_help=True,
    help="Which method should I use, and is it any good? Run, report, ask people.",
)

Folder = Annotated[Path, typer.Argument(help="The folder of bench run.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
DATASET = escape(  # or its brackets would be read as styles
    "shapeworld[:SETS[/KINDS]], five:FOLDER[/TYPES] or FILE.jsonl (see: holdfast list datasets)."
)
OUTPUT = "Folder for results; the same command goes on where it stopped."
METHODS = "Names with commas, or all; NAME+mask lets a method see the benchmark's mask."
SETTINGS = "A setting to sweep over, key=value,value; may be repeated."
AGAIN = "Measure finished edits anew, for instance once CLIP is here."
WEIGHTS = "A folder or hub id in place of the backbone's own weights."
BASELINE = "The row that others are compared with, pair by pair; by default the first."


@bench.command("run")
def run_bench(
    dataset: Annotated[str, typer.Argument(help=DATASET)],
    output: Annotated[Path, typer.Option("-o", "--output", help=OUTPUT)],
    methods: Annotated[str, typer.Option(help=METHODS)] = "all",
    backbones: Annotated[str, typer.Option(help="Names with commas.")] = "shapeworld-wan",
    settings: Annotated[list[str], typer.Option("--set", help=SETTINGS)] = [],  # noqa: B006
    limit: Annotated[int | None, typer.Option(help="At most so many clips.")] = None,
    seed: Annotated[int, typer.Option(help="The seed of every edit.")] = 0,
    metrics: Annotated[str, typer.Option(help="Names with commas, or all.")] = "all",
    measure_set: Annotated[
        list[str], typer.Option("--measure-set", help="An option of the metrics, key=value.")
    ] = [],  # noqa: B006
    measure_again: Annotated[bool, typer.Option(help=AGAIN)] = False,
    retry: Annotated[bool, typer.Option(help="Try failed cells again.")] = False,
    weights: Annotated[str | None, typer.Option(help=WEIGHTS)] = None,
) -> None:
    """Edit every clip with every method, measure, and keep each result: a stopped run goes on where it was."""
    from ..bench import datasets, runner

    with exit_codes():
        rows = runner.rows(_methods(methods), _names(backbones), _sweep(settings))
        tools, only = measuring(metrics, measure_set)
        cases = datasets.load(dataset, output / "data", limit)
        contest = runner.Contest(dataset, rows, tuple(cases), seed, weights)
        made = runner.Bench(contest, output, tools, only)
        made.begin(_command())
        counts = _run(made, retry, measure_again)
        said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        _say(said or "nothing to do")
        if counts["failed"] or counts["failed before"]:
            _say("failed cells are in the report with their reason; --retry tries them again")
        _say(f"look at it with: holdfast bench report {shlex.quote(str(output))}")


def _run(made: "Bench", retry: bool, again: bool) -> dict[str, int]:
    """Run with bars; where the user stops it, say how to go on."""
    try:
        with shown_progress(quiet=False) as report:
            return made.run(report, retry, again)
    except KeyboardInterrupt:
        _say(f"stopped; the same command goes on: {_command()}")
        raise


def _methods(text: str) -> list[str]:
    from .. import methods

    return methods.names() if text == "all" else _names(text)


def _sweep(settings: list[str]) -> dict[str, list[str]]:
    """Setting to values, of texts key=value,value; a setting that is named twice has both texts' values."""
    found: dict[str, list[str]] = {}
    for text in settings:
        for key, values in settings_of([text]).items():
            found.setdefault(key, []).extend(values.split(","))
    return found


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _command() -> str:
    return shlex.join(["holdfast", *sys.argv[1:]])


def _say(text: str) -> None:
    screen.print(text, highlight=False, soft_wrap=True, markup=False)


@bench.command()
def report(
    folder: Folder,
    baseline: Annotated[str | None, typer.Option(help=BASELINE)] = None,
    quality: Annotated[str | None, typer.Option(help="The figure that the plots show.")] = None,
    gallery: Annotated[int, typer.Option(help="How many clips the page shows.", min=0)] = 12,
) -> None:
    """Make one page that opens from disk (report.html), and table.csv, cells.csv and table.md beside it."""
    from ..bench.report import report as make

    with exit_codes():
        for path in make(folder, baseline, quality, gallery).values():
            _say(f"wrote {path}")


@bench.command()
def study(
    folder: Folder,
    methods: Annotated[
        str | None, typer.Option(help="Rows to compare, with commas; by default all.")
    ] = None,
    trials: Annotated[int, typer.Option(help="At most so many comparisons.", min=1)] = 30,
    seed: Annotated[int, typer.Option(help="Of the choice and the order.")] = 0,
) -> None:
    """Make a page that asks people, blindly, which of two results is better. The key stays with you."""
    from ..bench.study import study as make

    with exit_codes():
        paths = make(folder, _names(methods) if methods else None, trials, seed)
        page, key = paths["study.html"], paths["study-key.json"]
        _say(f"wrote {page} (to send out) and {key} (to keep)")


@bench.command()
def tally(
    key: Annotated[Path, typer.Argument(help="study-key.json of bench study.")],
    answers: Annotated[list[Path], typer.Argument(help="The files that people saved.")],
    json: Json = False,
) -> None:
    """Turn answers into win rates and a Bradley-Terry ranking, with intervals."""
    from ..base.files import as_json
    from ..base.intervals import FEW
    from ..bench import study as studies

    with exit_codes():
        cast = studies.votes(key, answers)
        found = studies.tally(cast)
        people, clips = studies.breadth(cast)
        if min(people, clips) < FEW:
            _say(
                f"{people} people and {clips} clips: under {FEW} of either, intervals are a rough guide"
            )
        if json:
            print(as_json(_plain(found)))
            return
        for question, ranked in found.items():
            Console().print(_ranking(question, ranked))


def _plain(found: dict) -> dict:
    """A tally with its estimates as JSON can hold them."""
    plain: dict = {}
    for question, ranked in found.items():
        plain[question] = {}
        for method, values in ranked.items():
            plain[question][method] = {name: asdict(value) for name, value in values.items()}
    return plain


def _ranking(question: str, ranked: dict) -> Table:
    table = Table("method", "win rate", "strength", "answers", title=question, title_justify="left")
    for method, values in ranked.items():
        rate, strength = values["win_rate"], values["strength"]
        table.add_row(
            method, rate.interval_text(), strength.interval_text(signed=True), str(rate.n)
        )
    return table


def measuring(metrics: str, options: list[str]) -> tuple["Tools", list[str] | None]:
    """The networks and the names of metrics that options ask for; None for all."""
    from ..base.schema import configure
    from ..metrics import names
    from ..metrics.base import Options, Tools

    chosen, _ = configure(Options, {}, None, settings_of(options), "option of the metrics")
    if metrics == "all":
        return Tools(chosen), None
    only = [names.choose(name, names(), "metric") for name in _names(metrics)]
    return Tools(chosen), only
