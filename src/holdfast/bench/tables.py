"""Records of cells to tables: means with intervals over clips, paired differences, CSV and Markdown."""

import csv
import io
import re
from collections import Counter
from functools import cached_property
from pathlib import Path

from ..base.errors import UserError
from ..base.intervals import FEW_RULE, Estimate, estimate, estimate_difference
from ..metrics import bare, better, is_rate
from . import records
from .datasets.base import Case
from .runner import WHERE, Row, cell_folder, due, restored

# The first figures of a table.
FIRST = (
    "edit_success",
    "truth_psnr",
    "truth_gain_db",
    "edit_energy_outside",
    "clip_t",
    "local_clip_t",
    "psnr_outside",
)
COSTS = ("seconds", "peak_memory_mb")
INTERVAL_RULE = "Mean with its 95 % interval over clips (t, corrected for skewness); rates in per cent with Wilson's."
# Text that a spreadsheet would run as a formula begins so.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def done(record: dict | None) -> bool:
    """Whether a cell has figures."""
    return record is not None and not record["error"]


class Results:
    """All that a benchmark's folder holds."""

    def __init__(self, folder: Path):
        self.folder = folder
        about = records.bench(folder)
        if about is None:
            raise UserError(
                f"{folder} holds no benchmark; make one with: holdfast bench run DATASET -o {folder}"
            )
        self.about = about
        self.rows = [_row(data) for data in self.about["rows"]]
        self.cases = [restored(data, folder) for data in self.about["cases"]]

    @cached_property
    def records(self) -> dict[tuple[str, str], dict]:
        """By row and case; a cell that is not done yet is not there."""
        found = {}
        for row in self.rows:
            for case in self.cases:
                record = records.cell(cell_folder(self.folder, row, case))
                if record:
                    found[row.label, case.name] = record
        return found

    @cached_property
    def figures(self) -> list[str]:
        """Names of all figures in any cell: those of FIRST, then what else was measured, then what it cost."""
        names: dict[str, None] = {}
        for record in self.records.values():
            names |= dict.fromkeys(record["figures"])

        def place(name: str) -> int:
            return FIRST.index(bare(name)) if bare(name) in FIRST else len(FIRST)

        return [*sorted(names, key=place), *COSTS]

    def record(self, row: Row, case: Case) -> dict | None:
        return self.records.get((row.label, case.name))

    def of(self, row: Row) -> list[dict]:
        """The records of a row, in the order of the cases."""
        found = (self.record(row, case) for case in self.cases)
        return [record for record in found if record]

    def finished_cases(self) -> list[Case]:
        """Those that any row is done with."""
        return [c for c in self.cases if any(done(self.record(row, c)) for row in self.rows)]

    def values(self, row: Row, figure: str) -> dict[str, float]:
        """Case to value, where there is one. Costs are of one machine alone."""
        found = {}
        for record in self.of(row):
            value = _value(record, figure)
            if done(record) and value is not None and self._counts(record, figure):
                found[record["case"]] = float(value)
        return found

    def _counts(self, record: dict, figure: str) -> bool:
        return figure not in COSTS or _place(record) == self.places[0][0]

    @cached_property
    def places(self) -> list[tuple[tuple, int]]:
        """On which machines and devices finished cells were made, and how many on each; most first."""
        return Counter(_place(r) for r in self.records.values() if done(r)).most_common()

    @property
    def costs_note(self) -> str:
        """Which costs are left out; empty where all cells were made in one place."""
        if len(self.places) < 2:
            return ""
        (kept, count), *others = self.places
        said = " and ".join(f"{other} on {_place_text(place)}" for place, other in others)
        return (
            f"Seconds and memory are of {count} cells made on {_place_text(kept)}; those of {said} "
            "are left out, because costs of different machines do not compare."
        )

    def estimate(self, row: Row, figure: str) -> Estimate | None:
        return estimate(self.values(row, figure).values(), is_rate(figure))

    def difference(self, row: Row, baseline: Row, figure: str) -> Estimate | None:
        """Paired: over the cases that both have."""
        ours, theirs = self.values(row, figure), self.values(baseline, figure)
        pairs = [ours[case] - theirs[case] for case in ours if case in theirs]
        return estimate_difference(pairs, is_rate(figure))

    def counts(self, row: Row) -> dict[str, int]:
        records = self.of(row)
        finished = sum(done(record) for record in records)
        return {
            "done": finished,
            "failed": len(records) - finished,
            "not done": sum(due(row, c) and not self.record(row, c) for c in self.cases),
        }

    def counts_text(self, row: Row) -> str:
        return " / ".join(str(count) for count in self.counts(row).values())

    def failures(self) -> list[tuple[str, str, str]]:
        """Row, case and reason."""
        return [(*at, record["error"]) for at, record in self.records.items() if record["error"]]

    def missing_metrics(self) -> dict[str, str]:
        """Metrics that no cell could form for want of weights or packages, and the reason given."""
        said = [record["left_out"] for record in self.records.values() if done(record)]
        if not said:
            return {}
        found = {}
        for name, reason in said[0].items():
            everywhere = all(name in left_out for left_out in said)
            if everywhere and not reason.startswith("needs "):
                found[name] = reason
        return found

    @cached_property
    def made(self) -> str:
        """By what, with which sources and on which machines the cells were made."""
        version = ", ".join(self._all_said("holdfast"))
        commits = ", ".join(self._all_said("commit"))
        machines = " and ".join(self._all_said("machine"))
        return f"Holdfast {version}, commit {commits}; {machines}"

    def _all_said(self, key: str) -> list[str]:
        """What the records say under a key, each once."""
        return sorted({str(record[key]) for record in self.records.values() if key in record})

    def best(self, figure: str) -> set[str]:
        """Labels of the rows to mark: the best over the cases that rows share, and all that are not significantly worse
        there by their paired difference. Empty where there is nothing to compare.
        """
        values, cases = self.compared(figure)
        if not better(figure) or len(values) < 2 or len(cases) < 2:
            return set()
        sign = 1 if better(figure) == "higher" else -1
        total = {
            label: sum(sign * found[case] for case in cases) for label, found in values.items()
        }
        top = max(total, key=total.__getitem__)
        marked = {top}
        for label, found in values.items():
            lead = [sign * (values[top][case] - found[case]) for case in cases]
            if not estimate_difference(lead, is_rate(figure)).low > 0:
                marked.add(label)
        return marked

    def compared(self, figure: str) -> tuple[dict[str, dict[str, float]], list[str]]:
        """Values by row and case of the rows that `best` compares, and the cases that they share. A row with less than
        half as many as the fullest one is not compared: it would leave few to share.
        """
        values = {row.label: self.values(row, figure) for row in self.rows}
        most = max(map(len, values.values()), default=0)
        values = {
            label: found for label, found in values.items() if found and 2 * len(found) >= most
        }
        cases = [c.name for c in self.cases if all(c.name in found for found in values.values())]
        return values, cases

    @property
    def best_note(self) -> str:
        """What a mark means, for which figures and over how many clips."""
        sizes = [len(self.compared(figure)[1]) for figure in self.figures if self.best(figure)]
        if not sizes:
            return "Nothing is marked as best: no two rows share clips enough."
        count = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
        return (
            f"Marked are the best over the clips that the rows share ({count}) and all that are not "
            "significantly worse there, by the paired difference; means are over all clips of a row."
        )

    @property
    def few_note(self) -> str:
        """A warning where an interval is of few clips."""
        found = (self.estimate(row, figure) for row in self.rows for figure in self.figures)
        return FEW_RULE if any(one and one.is_of_few for one in found) else ""

    def row(self, name: str | None) -> Row:
        """A row by its label, or by the method's name where that is enough; the first for None.

        Raises ValueError where that is not one row.
        """
        if name is None:
            return self.rows[0]
        fitting = [row for row in self.rows if name in row.names()]
        if len(fitting) != 1:
            labels = ", ".join(row.label for row in self.rows)
            raise UserError(f"no one row is called {name!r}; there are: {labels}")
        return fitting[0]


def _row(data: dict) -> Row:
    settings = tuple((key, value) for key, value in data["settings"])
    return Row(data["method"], data["backbone"], data["sees_mask"], settings)


def _place(record: dict) -> tuple:
    return tuple(record.get(key) for key in WHERE)


def _place_text(place: tuple) -> str:
    machine, device = place
    return f"{machine or 'an unknown machine'}, {device or 'unknown device'}"


def _value(record: dict, figure: str) -> float | None:
    return record.get(figure) if figure in COSTS else record["figures"].get(figure)


def arrow(figure: str) -> str:
    return {"higher": " ↑", "lower": " ↓", "": ""}[better(figure)]


def cells_csv(results: Results) -> str:
    """One line a cell: row, case, kind, group, every figure, the costs, where it was made, the error."""
    lines = [["row", "case", "kind", "group", "frames", *results.figures, *WHERE, "error"]]
    for (label, case), record in results.records.items():
        values = [_value(record, figure) for figure in results.figures]
        lines.append(
            [
                label,
                case,
                record["kind"],
                record["group"],
                record.get("frames", ""),
                *("" if value is None else repr(float(value)) for value in values),
                *(record.get(key) or "" for key in WHERE),
                record["error"] or "",
            ]
        )
    return _csv(lines)


def table_csv(results: Results, baseline: Row) -> str:
    """One line a row and figure: mean, interval, n, and the paired difference from a baseline."""
    parts = ("mean", "low", "high")
    difference = [f"{part} difference from {baseline.label}" for part in parts]
    lines = [["row", "figure", "better", *parts, "n", "failed", "not done", *difference]]
    for row in results.rows:
        counts = results.counts(row)
        for figure in results.figures:
            estimated = results.estimate(row, figure)
            lines.append(
                [
                    row.label,
                    figure,
                    better(figure),
                    *_rounded(estimated),
                    estimated.n if estimated else 0,
                    counts["failed"],
                    counts["not done"],
                    *_rounded(results.difference(row, baseline, figure)),
                ]
            )
    return _csv(lines)


def _rounded(estimated: Estimate | None) -> list[str]:
    """Mean, low and high; empty where there is no estimate, or none of its ends."""
    if estimated is None:
        return ["", "", ""]
    ends = (estimated.low, estimated.high) if estimated.has_interval else ()
    return [repr(round(value, 9)) for value in (estimated.mean, *ends)] + [""] * (2 - len(ends))


def _csv(lines: list[list]) -> str:
    out = io.StringIO()
    quoted = ([_quote_formula(cell) for cell in line] for line in lines)
    csv.writer(out, lineterminator="\n").writerows(quoted)
    return out.getvalue()


def _quote_formula(cell: object) -> object:
    """Put ' before text that a spreadsheet would take for a formula. A number stays one."""
    if not isinstance(cell, str) or not cell.startswith(FORMULA):
        return cell
    return (
        cell
        if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf", cell)
        else f"'{cell}"
    )


def markdown(results: Results) -> str:
    """The table for a paper or a README, with how it was made. Rows are figures, columns methods: it stays narrow."""
    lines = [
        _table_line(["figure", *(escape_markdown(row.label) for row in results.rows)]),
        "|" + "---|" * (len(results.rows) + 1),
        _table_line(["clips: done / failed / not done", *map(results.counts_text, results.rows)]),
    ]
    for figure in results.figures:
        best = results.best(figure)
        texts = []
        for row in results.rows:
            text = _cell_text(results, row, figure)
            texts.append(f"**{text}**" if row.label in best else text)
        lines.append(_table_line([f"{as_code(figure)}{arrow(figure)}", *texts]))
    return "\n".join([*lines, "", "  \n".join(_notes(results)), ""])


def _table_line(texts: list[str]) -> str:
    """A line of a table: a bar within a cell, in code too, is escaped."""
    return "| " + " | ".join(text.replace("|", r"\|") for text in texts) + " |"


def escape_markdown(text: str) -> str:
    """Text that Markdown leaves as it is, on one line; bars are a table's own affair."""
    plain = re.sub(r"([\\`*<>$~&])", r"\\\1", " ".join(text.split()))
    return plain.replace("](", r"]\(")  # no link and no picture


def as_code(text: str) -> str:
    """Text as code, within as many backquotes as it needs."""
    text = " ".join(text.split())
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    gap = " " if "`" in text else ""
    return f"{fence}{gap}{text}{gap}{fence}"


def _cell_text(results: Results, row: Row, figure: str) -> str:
    """Mean and interval, and how many clips they are of where that is not all that are done, or few."""
    estimated = results.estimate(row, figure)
    if estimated is None:
        return "–"
    if estimated.is_of_few or estimated.n == results.counts(row)["done"]:
        return estimated.text()
    return f"{estimated.text()} (n={estimated.n})"


def _notes(results: Results) -> list[str]:
    about = results.about
    commands = " ; ".join(map(as_code, about["commands"]))
    left_out = results.missing_metrics().items()
    lines = [
        f"Dataset {as_code(about['dataset'])}, {len(results.cases)} clips, seed {about['seed']}. "
        f"{escape_markdown(results.made)}.",
        f"Command: {commands}.",
        INTERVAL_RULE,
        results.best_note.replace("Marked", "In bold"),
        results.few_note,
        escape_markdown(results.costs_note),
        *about["rules"].values(),
        *(
            f"Left out: {escape_markdown(name)} ({escape_markdown(reason)})."
            for name, reason in left_out
        ),
    ]
    return [line for line in lines if line]
