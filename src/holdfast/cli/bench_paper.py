"""`holdfast bench paper`: a paper's own comparison, with the figures that it printed next to ours."""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .bench import (
    WEIGHTS,
    bench,
    print_summary,
    run_benchmark,
    split_names,
)
from .console import (
    print_line,
    print_notice,
    print_table,
    print_wrote,
    report_errors,
    rerun_command,
)
from .metrics import choose_metrics

if TYPE_CHECKING:
    from ..bench.clip_selection import ClipSelection
    from ..bench.paper import Paper, PaperPlan
    from ..bench.results import Results
    from ..bench.runner import Benchmark

PAPER = "flowanchor, assd or i2vedit."
DATASET = "The data set, which no paper ships: five:FOLDER, FILE.jsonl or shapeworld."
TABLES = "The tables to run, names with commas (default: all)."
FRAMES = "Frames of each clip (default: the paper's)."
SIZE = "WIDTHxHEIGHT of each clip (default: the paper's)."


@bench.command("paper")
def run_paper(
    name: Annotated[str, typer.Argument(help=PAPER)],
    dataset: Annotated[str, typer.Argument(help=DATASET)] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Output folder; see bench run.")
    ] = None,
    tables: Annotated[str, typer.Option(help=TABLES)] = "",
    backbone: Annotated[str, typer.Option(help="The model (default: the paper's).")] = "",
    weights: Annotated[str | None, typer.Option(help=WEIGHTS)] = None,
    limit: Annotated[int | None, typer.Option(help="Maximum number of clips.")] = None,
    frames: Annotated[int | None, typer.Option(help=FRAMES, min=1)] = None,
    size: Annotated[str, typer.Option(help=SIZE)] = "",
    seed: Annotated[int, typer.Option(help="The seed of every edit.")] = 0,
    measure_set: Annotated[
        list[str], typer.Option("--measure-set", help="An option of the metrics, key=value.")
    ] = [],  # noqa: B006
    measure_again: Annotated[bool, typer.Option(help="Measure finished edits again.")] = False,
    retry: Annotated[bool, typer.Option(help="Retry failed edits.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the rows and the printed figures, and stop.")
    ] = False,
) -> None:
    """Run a paper's rows with its settings, and print its figures next to ours."""
    from ..base.errors import UserError
    from ..bench import paper
    from ..bench.results import Results
    from ..models import registry

    with report_errors():
        chosen = paper.load(name).choose_tables(split_names(tables))
        chosen = replace(chosen, selection=_selection(chosen, frames, size))
        plan = paper.make_plan(chosen, backbone or chosen.backbone)
        if dry_run:
            _print_plan(plan)
            return
        if not dataset or output is None:
            raise UserError(
                f"the clips of {chosen.name} are not part of Holdfast",
                "give a data set and --output, or --dry-run",
            )
        registry.find_weights(plan.backbone, weights)  # before any clip is written
        plan = paper.leave_out_missing(plan)
        benchmark = _make_benchmark(plan, (dataset, limit), output, (seed, weights), measure_set)
        benchmark.initialize(rerun_command())
        counts = run_benchmark(benchmark, retry, measure_again)
        print_summary(counts, output)
        _write_page(plan, Results(output), output / f"paper-{chosen.name}.md")


def _make_benchmark(
    plan: "PaperPlan",
    clips: tuple[str, int | None],
    output: Path,
    edits: tuple[int, str | None],
    measure_set: list[str],
) -> "Benchmark":
    """Return the benchmark of a paper's rows. clips: the data set and its limit; edits: their seed and weights."""
    from ..bench import datasets
    from ..bench.clip_selection import select_cases
    from ..bench.plan import BenchmarkPlan
    from ..bench.runner import Benchmark

    chosen, (dataset, limit), (seed, weights) = plan.paper, clips, edits
    options = [f"{key}={value}" for key, value in chosen.measure.items()] + measure_set
    models, metric_names = choose_metrics(",".join(chosen.metric_names()), options)
    cases = datasets.load(dataset, output / "data", limit)
    cases = select_cases(cases, chosen.selection, output / "data")
    rows = BenchmarkPlan(
        dataset, plan.variants(), tuple(cases), seed, weights, weights_of=plan.backbone
    )
    return Benchmark(rows, output, models, metric_names)


def _selection(chosen: "Paper", frames: int | None, size: str) -> "ClipSelection":
    """Return the paper's selection of frames with those of the command line. Raise UserError for another size."""
    from ..base.errors import UserError

    selection = chosen.selection
    if size:
        match = re.fullmatch(r"([1-9]\d{1,4})x([1-9]\d{1,4})", size)
        if not match:
            raise UserError(f"{size!r} is not a size", "use WIDTHxHEIGHT, such as 832x480")
        selection = replace(selection, size=(int(match[1]), int(match[2])))
    return replace(selection, frames=frames) if frames else selection


def _print_plan(plan: "PaperPlan") -> None:
    for table in plan.paper.tables:
        rows = [(row.name, *(f"{value:g}" for value in row.printed)) for row in table.rows]
        title = f"{table.title} (--tables {table.name}), printed"
        print_table(("row", *table.columns), rows, title=title)
    for fact in _facts(plan):
        print_line(fact)
    for variant in plan.variants():
        print_line(f"runs: {variant.key}")
    _print_gaps(plan)


def _facts(plan: "PaperPlan") -> list[str]:
    """Return what is run, and where it differs from the paper."""
    paper = plan.paper
    facts = [
        f"The paper's clips: {paper.dataset}",
        f"Here: {plan.backbone}, {paper.selection.describe()}, and the settings of each method, "
        "which are the paper's where it states any.",
    ]
    if plan.backbone != paper.backbone:
        facts.append(
            f"The paper's model is {paper.backbone}. {plan.backbone} runs with the settings that suit it, "
            "so the figures do not compare."
        )
    return facts


def _print_gaps(plan: "PaperPlan") -> None:
    """Print which rows do not run, by name, and how their clips can join the table."""
    missing = plan.missing()
    for name, reason in missing.items():
        print_notice(f"not run: {name} ({reason})")
    if missing:
        print_line(
            "clips of theirs join the table by holdfast bench add, with the row's name as --row"
        )


def _write_page(plan: "PaperPlan", results: "Results", path: Path) -> None:
    """Print the tables and what does not run here, and write both as a page of Markdown."""
    from ..bench.pages import write_text
    from ..bench.paper import HEAD, compare, format_page

    for table in plan.paper.tables:
        rows = [line.cells() for line in compare(plan, table, results)]
        print_table(HEAD, rows, title=table.title)
    _print_gaps(plan)
    for name, reason in results.missing_metrics().items():
        print_notice(f"not measured: {name} ({reason})")
    write_text(path, format_page(plan, results, [*_facts(plan), results.provenance_text]))
    print_wrote(path)
