"""The commands of `holdfast bench`: run, add, report, study, tally."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from ..base.errors import UserError
from .console import (
    parse_pairs,
    print_line,
    print_table,
    print_wrote,
    report_errors,
    rerun_command,
    show_progress,
)
from .metrics import choose_metrics

if TYPE_CHECKING:
    from ..bench.runner import Benchmark

bench = typer.Typer(
    no_args_is_help=True,
    help="Compare methods on a data set: run them, report the metrics, ask people.",
)

Folder = Annotated[Path, typer.Argument(help="The output folder of bench run.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
DATASET = escape(  # or its brackets would be read as styles
    "shapeworld[:SETS[/KINDS]], five:FOLDER[/TYPES] or FILE.jsonl (see: holdfast list datasets)."
)
OUTPUT = "Output folder; run the same command again to continue after a stop."
METHODS = (
    "Names with commas, or all; NAME+mask gives a method the benchmark's mask, and NAME+mask:box, :hull, :scribble or "
    ":growN (pixels) a rough one."
)
SETTINGS = "A setting to sweep over, key=value,value; may be repeated."
RESULTS = (
    "Folder with a clip for each case, named as the case: CASE.mp4, or a folder CASE of frames."
)
ADDED_METRICS = "Names with commas, or all (default: those that the benchmark has)."
AGAIN = "Measure finished edits again, for example after installing CLIP."
WEIGHTS = "A folder or hub id of other weights for the backbone."
FORM = "pairs: which of two results is better; best: which of all methods' results is the best."
QUESTIONS = "The questions: holdfast, or those of a paper: assd, i2vedit-local, i2vedit-global."
SHOW_RAW = "Show what the methods left, as the papers do, instead of what is delivered."
# What a tally measures, as its tables name it.
MEASURES = {"win_rate": "win rate", "strength": "strength", "share": "share of first places"}
BASELINE = "The variant to compare the others with, clip by clip (default: the first)."


@bench.command("run")
def run_bench(
    dataset: Annotated[str, typer.Argument(help=DATASET)],
    output: Annotated[Path, typer.Option("-o", "--output", help=OUTPUT)],
    methods: Annotated[str, typer.Option(help=METHODS)] = "all",
    backbones: Annotated[str, typer.Option(help="Names with commas.")] = "shapeworld-wan",
    settings: Annotated[list[str], typer.Option("--set", help=SETTINGS)] = [],  # noqa: B006
    limit: Annotated[int | None, typer.Option(help="Maximum number of clips.")] = None,
    seed: Annotated[int, typer.Option(help="The seed of every edit.")] = 0,
    metrics: Annotated[str, typer.Option(help="Names with commas, or all.")] = "all",
    measure_set: Annotated[
        list[str], typer.Option("--measure-set", help="An option of the metrics, key=value.")
    ] = [],  # noqa: B006
    measure_again: Annotated[bool, typer.Option(help=AGAIN)] = False,
    retry: Annotated[bool, typer.Option(help="Retry failed edits.")] = False,
    weights: Annotated[str | None, typer.Option(help=WEIGHTS)] = None,
) -> None:
    """Edit every clip of a data set with every method, and measure the results. A stopped run continues."""
    from ..bench import datasets
    from ..bench.plan import BenchmarkPlan, make_variants
    from ..bench.runner import Benchmark

    with report_errors():
        variants = make_variants(_methods(methods), _names(backbones), _sweep(settings))
        models, metric_names = choose_metrics(metrics, measure_set)
        cases = datasets.load(dataset, output / "data", limit)
        plan = BenchmarkPlan(dataset, variants, tuple(cases), seed, weights)
        benchmark = Benchmark(plan, output, models, metric_names)
        benchmark.initialize(rerun_command())
        counts = _run(benchmark, retry, measure_again)
        _print_summary(counts, output)


@bench.command("add")
def add_results(
    folder: Folder,
    results: Annotated[Path, typer.Option("--from", "--results", help=RESULTS)],
    name: Annotated[str | None, typer.Argument(hidden=True)] = None,  # release 0.2: no --row
    row: Annotated[str | None, typer.Option(help="The name of the editor in tables.")] = None,
    raw: Annotated[bool, typer.Option(help="Measure the editor's own clips.")] = True,
    kept: Annotated[bool, typer.Option(help="Measure the clips of holdfast keep.")] = True,
    metrics: Annotated[str, typer.Option(help=ADDED_METRICS)] = "",
    measure_set: Annotated[
        list[str], typer.Option("--measure-set", help="An option of the metrics, key=value.")
    ] = [],  # noqa: B006
    measure_again: Annotated[bool, typer.Option(help="Measure finished clips again.")] = False,
    retry: Annotated[bool, typer.Option(help="Retry failed clips.")] = False,
) -> None:
    """Add results of another editor to a benchmark: as they are, and after holdfast keep."""
    from ..bench import external
    from ..bench.plan import ORIGINS, Origin
    from ..bench.results import Results, list_some
    from ..bench.runner import Benchmark

    with report_errors():
        editor = _choose_row(row, name)
        before = Results(folder)
        wanted = {"raw": raw, "kept": kept}
        origins: list[Origin] = [origin for origin in ORIGINS if wanted[origin]]
        plan, clips, missing = external.plan_results(before, editor, results, origins)
        models, metric_names = choose_metrics(metrics or "all", measure_set)
        if not metrics:
            metric_names = external.find_measured_metrics(before)
        benchmark = Benchmark(plan, folder, models, metric_names, external=clips)
        benchmark.initialize(rerun_command())
        counts = _run(benchmark, retry, measure_again)
        _print_summary({"added" if k == "edited" else k: n for k, n in counts.items()}, folder)
        if missing:
            count = f"{len(missing)} of {len(before.cases)} clips"
            print_line(f"{count} have no file in {results}: {list_some(missing)}")


def _choose_row(row: str | None, name: str | None) -> str:
    """Return the name of the added rows, by --row or as the second argument. Raise UserError for both and for none."""
    chosen = [text for text in (row, name) if text is not None]
    if len(chosen) != 1:
        cause = "the editor's name is given twice" if chosen else "the editor has no name"
        raise UserError(cause, "give it by --row")
    return chosen[0]


def _print_summary(counts: dict[str, int], folder: Path) -> None:
    summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    print_line(summary or "nothing to do")
    if counts["failed"] or counts["failed before"]:
        print_line("the report lists failed clips and their reasons; --retry runs them again")
    print_line(f"see the results with: holdfast bench report {shlex.quote(str(folder))}")


def _run(benchmark: "Benchmark", retry: bool, again: bool) -> dict[str, int]:
    """Run a benchmark. Print how to continue where the user stops it."""
    try:
        with show_progress(quiet=False) as report:
            return benchmark.run(report, retry, again)
    except KeyboardInterrupt:
        print_line(f"stopped; continue with: {rerun_command()}")
        raise


def _methods(text: str) -> list[str]:
    from .. import methods

    return methods.names() if text == "all" else _names(text)


def _sweep(settings: list[str]) -> dict[str, list[str]]:
    """Return the values of each setting, from texts key=value,value. A setting may be repeated."""
    found: dict[str, list[str]] = {}
    for text in settings:
        for key, values in parse_pairs([text]).items():
            found.setdefault(key, []).extend(values.split(","))
    return found


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@bench.command()
def report(
    folder: Folder,
    baseline: Annotated[str | None, typer.Option(help=BASELINE)] = None,
    quality: Annotated[str | None, typer.Option(help="The metric that the plots show.")] = None,
    gallery: Annotated[int, typer.Option(help="Number of clips on the page.", min=0)] = 12,
) -> None:
    """Write one page that opens from disk (report.html), and its tables as CSV and Markdown next to it."""
    from ..bench.report import write_report

    with report_errors():
        for path in write_report(folder, baseline, quality, gallery).values():
            print_wrote(path)


@bench.command()
def study(
    folder: Folder,
    methods: Annotated[
        str | None, typer.Option(help="Variants to compare, with commas (default: all).")
    ] = None,
    trials: Annotated[int, typer.Option(help="Maximum number of comparisons.", min=1)] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the choice and the order.")] = 0,
    form: Annotated[Literal["pairs", "best"], typer.Option(help=FORM)] = "pairs",
    questions: Annotated[str, typer.Option(help=QUESTIONS)] = "holdfast",
    raw: Annotated[bool, typer.Option("--raw", help=SHOW_RAW)] = False,
) -> None:
    """Write a page that asks people which result is better or best, without naming the methods. Keep the key file."""
    from ..bench.study import StudyDesign, write_study

    with report_errors():
        chosen = _names(methods) if methods else None
        paths = write_study(folder, chosen, trials, seed, StudyDesign(form, questions, raw))
        page, key = paths["study.html"], paths["study-key.json"]
        print_wrote(f"{page} (to send out) and {key} (to keep)")


@bench.command()
def tally(
    key: Annotated[Path, typer.Argument(help="The study-key.json of bench study.")],
    answers: Annotated[list[Path], typer.Argument(help="The answer files that people saved.")],
    json: Json = False,
) -> None:
    """Compute win rates and a Bradley-Terry ranking, or shares of first places, from answers, with intervals."""
    from ..base.files import as_json
    from ..base.intervals import SMALL_SAMPLE
    from ..bench import first_places
    from ..bench import tally as tallies

    with report_errors():
        votes = tallies.read_votes(key, answers)
        pairs = [vote for vote in votes if isinstance(vote, tallies.Vote)]
        bests = [vote for vote in votes if isinstance(vote, tallies.FirstPlace)]
        results = tallies.tally(pairs) if pairs else first_places.tally(bests)
        people, clips = tallies.count_people_and_clips(votes)
        if min(people, clips) < SMALL_SAMPLE:
            print_line(
                f"{people} people and {clips} clips: below {SMALL_SAMPLE} of either, intervals are only rough"
            )
        if json:
            print(as_json(_to_data(results)))
            return
        for question, ranked in results.items():
            print_ranking(question, ranked)


def _to_data(found: dict) -> dict:
    """Return a tally as plain data for JSON."""
    plain: dict = {}
    for question, ranked in found.items():
        plain[question] = {}
        for method, values in ranked.items():
            plain[question][method] = {name: asdict(value) for name, value in values.items()}
    return plain


def print_ranking(question: str, ranked: dict) -> None:
    rows = []
    for method, values in ranked.items():
        texts = [value.interval_text(signed=name == "strength") for name, value in values.items()]
        rows.append((method, *texts, str(next(iter(values.values())).n)))
    names = [MEASURES[name] for name in next(iter(ranked.values()))]
    print_table(("method", *names, "answers"), rows, title=question)
