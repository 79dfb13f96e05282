"""Records of cells to tables: means with bootstrap intervals over clips, paired differences, CSV and Markdown."""

import csv
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..metrics import bare, better
from . import records
from .datasets.base import Case
from .runner import Row, cell_folder, due, restored

RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percentiles
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


@dataclass(frozen=True)
class Estimate:
    """A mean over clips with its 95 % bootstrap interval, and over how many clips it is."""

    mean: float
    low: float
    high: float
    n: int

    def text(self) -> str:
        return f"{number(self.mean)} [{number(self.low)}, {number(self.high)}]"


def estimate(values: list[float]) -> Estimate | None:
    """Percentile bootstrap, resampled with a fixed seed; None without values."""
    if not values:
        return None
    array = np.asarray(values, np.float64)
    drawn = resamples(len(array))
    low, high = np.percentile(array[drawn].mean(1), INTERVAL)
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def resamples(count: int) -> np.ndarray:
    """Which of so many things each resample draws, RESAMPLES count; the same each time."""
    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))


def number(value: float) -> str:
    """Four significant digits, never an exponent for what people read."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-4 else f"{value:.1e}"


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
        """Case to value, where there is one."""
        found = {}
        for record in self.of(row):
            value = _value(record, figure)
            if done(record) and value is not None:
                found[record["case"]] = float(value)
        return found

    def estimate(self, row: Row, figure: str) -> Estimate | None:
        return estimate(list(self.values(row, figure).values()))

    def difference(self, row: Row, baseline: Row, figure: str) -> Estimate | None:
        """Paired: over the cases that both have."""
        ours, theirs = self.values(row, figure), self.values(baseline, figure)
        return estimate([ours[case] - theirs[case] for case in ours if case in theirs])

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
        """Labels of the rows whose mean is best, among those that are over the most clips."""
        way = better(figure)
        found = {}
        for row in self.rows:
            estimated = self.estimate(row, figure)
            if estimated:
                found[row.label] = estimated
        most = max((estimated.n for estimated in found.values()), default=0)
        means = {label: estimated.mean for label, estimated in found.items() if estimated.n == most}
        if not way or len(means) < 2:
            return set()
        top = max(means.values()) if way == "higher" else min(means.values())
        return {label for label, value in means.items() if value == top}

    def row(self, name: str | None) -> Row:
        """A row by its label, or by the method's name where that is enough; the first for None.

        Raises ValueError where that is not one row.
        """
        if name is None:
            return self.rows[0]
        fitting = [r for r in self.rows if name in (r.label, r.label.partition(" on ")[0])]
        if len(fitting) != 1:
            labels = ", ".join(row.label for row in self.rows)
            raise UserError(f"no one row is called {name!r}; there are: {labels}")
        return fitting[0]


def _row(data: dict) -> Row:
    settings = tuple((key, value) for key, value in data["settings"])
    return Row(data["method"], data["backbone"], data["sees_mask"], settings)


def _value(record: dict, figure: str) -> float | None:
    return record.get(figure) if figure in COSTS else record["figures"].get(figure)


def arrow(figure: str) -> str:
    return {"higher": " ↑", "lower": " ↓", "": ""}[better(figure)]


def cells_csv(results: Results) -> str:
    """One line a cell: row, case, kind, group, every figure, the costs, the error."""
    lines = [["row", "case", "kind", "group", "frames", *results.figures, "error"]]
    for record in results.records.values():
        values = [_value(record, figure) for figure in results.figures]
        lines.append(
            [
                record["row"],
                record["case"],
                record["kind"],
                record["group"],
                record.get("frames", ""),
                *("" if value is None else repr(float(value)) for value in values),
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
    """Mean, low and high; empty where there is no estimate."""
    if estimated is None:
        return ["", "", ""]
    return [repr(round(value, 9)) for value in (estimated.mean, estimated.low, estimated.high)]


def _csv(lines: list[list]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def markdown(results: Results) -> str:
    """The table for a paper or a README, with how it was made. Rows are figures, columns methods: it stays narrow."""
    lines = [
        _table_line(["figure", *(row.label for row in results.rows)]),
        "|" + "---|" * (len(results.rows) + 1),
        _table_line(["clips: done / failed / not done", *map(results.counts_text, results.rows)]),
    ]
    for figure in results.figures:
        best = results.best(figure)
        texts = []
        for row in results.rows:
            text = _cell_text(results, row, figure)
            texts.append(f"**{text}**" if row.label in best else text)
        lines.append(_table_line([f"`{figure}`{arrow(figure)}", *texts]))
    return "\n".join([*lines, "", "  \n".join(_notes(results)), ""])


def _table_line(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _cell_text(results: Results, row: Row, figure: str) -> str:
    """Mean and interval, and how many clips they are of where that is not all that are done."""
    estimated = results.estimate(row, figure)
    if estimated is None:
        return "–"
    if estimated.n == results.counts(row)["done"]:
        return estimated.text()
    return f"{estimated.text()} (n={estimated.n})"


def _notes(results: Results) -> list[str]:
    about = results.about
    commands = " ; ".join(f"`{command}`" for command in about["commands"])
    left_out = results.missing_metrics().items()
    return [
        f"Dataset `{about['dataset']}`, {len(results.cases)} clips, seed {about['seed']}. {results.made}.",
        f"Command: {commands}.",
        "Mean and 95 % bootstrap interval over clips; best in bold.",
        *about["rules"].values(),
        *(f"Left out: {name} ({reason})." for name, reason in left_out),
    ]
