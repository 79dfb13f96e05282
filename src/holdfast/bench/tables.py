"""Tables of a benchmark's results, as CSV and Markdown."""

import csv
import io
import re

from ..base.intervals import Estimate
from ..metrics import direction
from .plan import Variant
from .results import MACHINE, Results, value_of

INTERVAL_RULE = (
    "Mean with its 95 % interval over clips (t, corrected for skewness); "
    "rates in per cent with Wilson's interval."
)
NO_KIND = "no kind"
# A spreadsheet runs text that starts with one of these as a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def direction_arrow(metric: str) -> str:
    return {"higher": " ↑", "lower": " ↓", "": ""}[direction(metric)]


def counts_text(results: Results, variant: Variant) -> str:
    """Return "done / failed / not done" of a variant."""
    return " / ".join(str(count) for count in results.counts(variant).values())


def format_cells_csv(results: Results) -> str:
    """Format one line a cell: row, case, kind, group, frames, every value, costs, machine, error."""
    lines = [["row", "case", "kind", "group", "frames", *results.metric_names, *MACHINE, "error"]]
    for (label, case), record in results.records.items():
        values = [value_of(record, metric) for metric in results.metric_names]
        lines.append(
            [
                label,
                case,
                record["kind"],
                record["group"],
                record.get("frames", ""),
                *("" if value is None else repr(float(value)) for value in values),
                *(record.get(key) or "" for key in MACHINE),
                record["error"] or "",
            ]
        )
    return _format_csv(lines)


def format_table_csv(results: Results, baseline: Variant) -> str:
    """Format one line a variant and metric: mean, interval, n, and the paired difference from a baseline."""
    return _format_csv([_table_header(baseline), *_table_lines(results, baseline)])


def format_kinds_csv(results: Results, baseline: Variant) -> str:
    """Format the lines of `format_table_csv` for each kind of edit, which the first column names."""
    lines = [["kind", *_table_header(baseline)]]
    for kind in results.kinds:
        lines += [[kind, *line] for line in _table_lines(results.of_kind(kind), baseline)]
    return _format_csv(lines)


def _table_header(baseline: Variant) -> list[str]:
    parts = ("mean", "low", "high")
    difference = [f"{part} difference from {baseline.label}" for part in parts]
    return ["row", "figure", "better", *parts, "n", "failed", "not done", *difference]


def _table_lines(results: Results, baseline: Variant) -> list[list]:
    lines: list[list] = []
    for variant in results.variants:
        counts = results.counts(variant)
        for metric in results.metric_names:
            estimate = results.estimate(variant, metric)
            lines.append(
                [
                    variant.label,
                    metric,
                    direction(metric),
                    *_format_estimate(estimate),
                    estimate.n if estimate else 0,
                    counts["failed"],
                    counts["not done"],
                    *_format_estimate(results.difference(variant, baseline, metric)),
                ]
            )
    return lines


def _format_estimate(estimate: Estimate | None) -> list[str]:
    """Return mean, low and high as text; empty without an estimate or an interval."""
    if estimate is None:
        return ["", "", ""]
    ends = (estimate.low, estimate.high) if estimate.has_interval else ()
    return [repr(round(value, 9)) for value in (estimate.mean, *ends)] + [""] * (2 - len(ends))


def _format_csv(lines: list[list]) -> str:
    out = io.StringIO()
    quoted = ([_quote_formula(cell) for cell in line] for line in lines)
    csv.writer(out, lineterminator="\n").writerows(quoted)
    return out.getvalue()


def _quote_formula(cell: object) -> object:
    """Put ' before text that a spreadsheet would run as a formula. Numbers are unchanged."""
    if not isinstance(cell, str) or not cell.startswith(FORMULA):
        return cell
    is_number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf", cell)
    return cell if is_number else f"'{cell}"


def format_markdown(results: Results) -> str:
    """Format the table for a paper or a README, with how it was made.

    Lines are metrics and columns are variants, so that the table stays narrow. A second table has a group of lines for
    each kind of edit.
    """
    lines = [*_header_lines(results, "metric"), _counts_line(results)]
    lines += [_metric_line(results, metric) for metric in results.metric_names]
    if results.kinds:
        lines += ["", *_kind_lines(results)]
    return "\n".join([*lines, "", "  \n".join(_notes(results)), ""])


def _header_lines(results: Results, first: str) -> list[str]:
    labels = [escape_markdown(variant.label) for variant in results.variants]
    return [_table_line([first, *labels]), "|" + "---|" * (len(labels) + 1)]


def _counts_line(results: Results) -> str:
    counts = [counts_text(results, variant) for variant in results.variants]
    return _table_line(["clips: done / failed / not done", *counts])


def _kind_lines(results: Results) -> list[str]:
    """Return the table of the main values by kind of edit."""
    lines = _header_lines(results, "metric, by kind of edit")
    for kind in results.kinds:
        part = results.of_kind(kind)
        lines.append(
            _table_line([f"**{escape_markdown(kind) or NO_KIND}**", *[""] * len(part.variants)])
        )
        lines.append(_counts_line(part))
        lines += [_metric_line(part, metric) for metric in part.main_metric_names]
    return lines


def _metric_line(results: Results, metric: str) -> str:
    best = results.find_best(metric)
    texts = []
    for variant in results.variants:
        text = _cell_text(results, variant, metric)
        texts.append(f"**{text}**" if variant.label in best else text)
    return _table_line([f"{as_code(metric)}{direction_arrow(metric)}", *texts])


def _table_line(texts: list[str]) -> str:
    """Format a line of a table. A bar within a cell is escaped, in code too."""
    return "| " + " | ".join(text.replace("|", r"\|") for text in texts) + " |"


def escape_markdown(text: str) -> str:
    """Escape text so that Markdown shows it unchanged on one line. `_table_line` escapes bars."""
    plain = re.sub(r"([\\`*<>$~&])", r"\\\1", " ".join(text.split()))
    return plain.replace("](", r"]\(")  # neither a link nor an image


def as_code(text: str) -> str:
    """Format text as code, between as many backquotes as it needs."""
    text = " ".join(text.split())
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    gap = " " if "`" in text else ""
    return f"{fence}{gap}{text}{gap}{fence}"


def _cell_text(results: Results, variant: Variant, metric: str) -> str:
    """Format mean and interval, with n if it is small or differs from the number of finished cells."""
    estimate = results.estimate(variant, metric)
    if estimate is None:
        return "–"
    if estimate.is_small_sample or estimate.n == results.counts(variant)["done"]:
        return estimate.text()
    return f"{estimate.text()} (n={estimate.n})"


def _notes(results: Results) -> list[str]:
    info = results.info
    commands = " ; ".join(map(as_code, info["commands"]))
    skipped = results.missing_metrics().items()
    lines = [
        f"Dataset {as_code(info['dataset'])}, {len(results.cases)} clips, seed {info['seed']}. "
        f"{escape_markdown(results.provenance_text)}.",
        f"Command: {commands}.",
        INTERVAL_RULE,
        results.best_note.replace("Marked", "In bold"),
        results.small_sample_note,
        escape_markdown(results.costs_note),
        escape_markdown(results.external_note),
        results.raw_note,
        *info["rules"].values(),
        *(
            f"Skipped: {escape_markdown(name)} ({escape_markdown(reason)})."
            for name, reason in skipped
        ),
    ]
    return [line for line in lines if line]
