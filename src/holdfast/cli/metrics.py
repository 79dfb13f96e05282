"""`holdfast metrics`: an edited clip against its source."""

from typing import TYPE_CHECKING, Annotated

import typer

from .console import parse_pairs, print_line, print_table, report_errors

if TYPE_CHECKING:
    from ..metrics.base import MetricModels

MASK = "Where the edit was allowed to show: white is inside."
TRUTH = "The true result, where it is known."
ONLY = "Names of metrics with commas, or all (see: holdfast list metrics)."
OPTIONS = "An option of the metrics, key=value, such as clip=FOLDER; may be repeated."


def measure(
    source: Annotated[str, typer.Argument(help="The clip before the edit.")],
    edited: Annotated[str, typer.Argument(help="The edited clip.")],
    mask: Annotated[str | None, typer.Option(help=MASK)] = None,
    truth: Annotated[str | None, typer.Option(help=TRUTH)] = None,
    target_prompt: Annotated[
        str, typer.Option("-t", "--target-prompt", help="Prompt that describes the edited clip.")
    ] = "",
    source_prompt: Annotated[
        str, typer.Option("-s", "--source-prompt", help="Prompt that describes the source clip.")
    ] = "",
    object_prompt: Annotated[
        str, typer.Option(help="Prompt that describes the edited object alone.")
    ] = "",
    only: Annotated[str, typer.Option(help=ONLY)] = "all",
    settings: Annotated[list[str], typer.Option("--set", help=OPTIONS)] = [],  # noqa: B006
    json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Measure an edited clip against its source. The name of a metric says which variant it is."""
    with report_errors():
        from ..base.files import as_json
        from ..metrics import direction
        from ..metrics.compare import ClipPair, compare_files

        models, chosen = choose_metrics(only, settings)
        pair = ClipPair(source, edited, mask, truth, source_prompt, target_prompt, object_prompt)
        figures, left_out = compare_files(pair, models, chosen)
        if json:
            print(as_json({"figures": figures, "left_out": left_out}))
            return
        rows = [(name, f"{value:.4g}", direction(name)) for name, value in figures.items()]
        print_table(("metric", "value", "better"), rows)
        for name, reason in left_out.items():
            print_line(f"skipped: {name}: {reason}")


def choose_metrics(only: str, options: list[str]) -> tuple["MetricModels", list[str] | None]:
    """Return the models of the metrics, and the names of the metrics; None for all. Raise UserError for a wrong one."""
    from ..base import names
    from ..base.schema import configure
    from ..metrics import names as metric_names
    from ..metrics.base import MetricModels, MetricOptions

    chosen, _ = configure(MetricOptions, {}, None, parse_pairs(options), "option of the metrics")
    if only == "all":
        return MetricModels(chosen), None
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    return MetricModels(chosen), [names.choose(name, metric_names(), "metric") for name in wanted]
