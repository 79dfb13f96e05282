"""Records of cells to tables: means with bootstrap intervals over clips, paired differences, CSV and Markdown."""

import csv
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..metrics import better
from .runner import Row, cell_folder, read_record, restored

RESAMPLES = 2000
FIRST = ("edit_success", "truth_psnr", "truth_gain_db", "edit_energy_outside", "clip_t", "local_clip_t", "psnr_outside")  # of a table
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
    means = array[np.random.default_rng(0).integers(0, len(array), (RESAMPLES, len(array)))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def number(value: float) -> str:
    """Four significant digits, never an exponent for what people read."""
    return f"{value:.4g}" if 1e-4 <= abs(value) < 1e5 else f"{value:.0f}" if abs(value) >= 1e5 else "0" if value == 0 else f"{value:.1e}"


class Results:
    """All that a benchmark's folder holds."""

    def __init__(self, folder: Path):
        self.folder = folder
        file = folder / "bench.json"
        if not file.exists():
            raise ValueError(f"{folder} holds no benchmark; make one with: holdfast bench run DATASET -o {folder}")
        self.about = json.loads(file.read_text())
        self.rows = [Row(r["method"], r["backbone"], r["sees_mask"], tuple(tuple(s) for s in r["settings"])) for r in self.about["rows"]]
        self.cases = [restored(c, folder) for c in self.about["cases"]]

    @cached_property
    def records(self) -> dict[tuple[str, str], dict]:
        """By row and case; a cell that is not done yet is not there."""
        found = {(r.label, c.name): read_record(cell_folder(self.folder, r, c)) for r in self.rows for c in self.cases}
        return {k: v for k, v in found.items() if v}

    @cached_property
    def figures(self) -> list[str]:
        """Names of all figures in any cell: what was asked for first, then what else was measured, then what it cost."""
        names = dict.fromkeys(n for record in self.records.values() for n in record["figures"])
        rank = {name: i for i, name in enumerate(FIRST)}
        return [*sorted(names, key=lambda n: rank.get(n.split("@")[0].split("/")[0], len(FIRST))), *COSTS]

    def of(self, row: Row) -> list[dict]:
        return [self.records[row.label, c.name] for c in self.cases if (row.label, c.name) in self.records]

    def values(self, row: Row, figure: str) -> dict[str, float]:
        """Case to value, where there is one."""
        found = {r["case"]: r.get(figure) if figure in COSTS else r["figures"].get(figure) for r in self.of(row) if not r["error"]}
        return {k: float(v) for k, v in found.items() if v is not None}

    def estimate(self, row: Row, figure: str) -> Estimate | None:
        return estimate(list(self.values(row, figure).values()))

    def difference(self, row: Row, baseline: Row, figure: str) -> Estimate | None:
        """Paired: over the cases that both have."""
        ours, theirs = self.values(row, figure), self.values(baseline, figure)
        return estimate([ours[c] - theirs[c] for c in ours if c in theirs])

    def counts(self, row: Row) -> dict[str, int]:
        records = self.of(row)
        failed = sum(bool(r["error"]) for r in records)
        return {"done": len(records) - failed, "failed": failed, "not done": len(self.cases) - len(records)}

    def failures(self) -> list[tuple[str, str, str]]:
        return [(row, case, r["error"]) for (row, case), r in self.records.items() if r["error"]]

    def missing_metrics(self) -> dict[str, str]:
        """Metrics that no cell could form for want of weights or packages, and the reason given."""
        said = [r["left_out"] for r in self.records.values() if not r["error"]]
        in_all = set.intersection(*(set(s) for s in said)) if said else set()
        return {k: v for k, v in (said[0] if said else {}).items() if k in in_all and not v.startswith("needs ")}

    @cached_property
    def made(self) -> str:
        """By what, with which sources and on which machines the cells were made."""
        kinds = {k: sorted({str(r[k]) for r in self.records.values() if k in r}) for k in ("holdfast", "commit", "machine")}
        return f"Holdfast {', '.join(kinds['holdfast'])}, commit {', '.join(kinds['commit'])}; {' and '.join(kinds['machine'])}"

    def best(self, figure: str) -> set[str]:
        """Labels of the rows whose mean is best, among those that are over the most clips."""
        found = {r.label: e for r in self.rows if (e := self.estimate(r, figure))}
        means = {label: e.mean for label, e in found.items() if e.n == max(x.n for x in found.values())}
        way = better(figure)
        if not means or not way or len(means) < 2:
            return set()
        top = max(means.values()) if way == "higher" else min(means.values())
        return {label for label, value in means.items() if value == top}

    def row(self, name: str | None) -> Row:
        """A row by its label, or the method's name where that is enough; the first for None. Raises ValueError otherwise."""
        if name is None:
            return self.rows[0]
        fitting = [r for r in self.rows if name in (r.label, r.label.partition(" on ")[0])]
        if len(fitting) != 1:
            raise ValueError(f"no one row is called {name!r}; there are: {', '.join(r.label for r in self.rows)}")
        return fitting[0]


def arrow(figure: str) -> str:
    return {"higher": " ↑", "lower": " ↓", "": ""}[better(figure)]


def cells_csv(results: Results) -> str:
    """One line a cell: row, case, kind, group, every figure, the costs, the error."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "case", "kind", "group", "frames", *results.figures, "error"])
    for (row, case), r in results.records.items():
        values = [r.get(f) if f in COSTS else r["figures"].get(f) for f in results.figures]
        texts = ["" if v is None else repr(float(v)) for v in values]
        writer.writerow([row, case, r["kind"], r["group"], r.get("frames", ""), *texts, r["error"] or ""])
    return out.getvalue()


def table_csv(results: Results, baseline: Row) -> str:
    """One line a row and figure: mean, interval, n, and the paired difference from a baseline."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    difference = [f"{part} difference from {baseline.label}" for part in ("mean", "low", "high")]
    writer.writerow(["row", "figure", "better", "mean", "low", "high", "n", "failed", "not done", *difference])
    for row in results.rows:
        counts = results.counts(row)
        for figure in results.figures:
            e, d = results.estimate(row, figure), results.difference(row, baseline, figure)
            numbers, paired = ([repr(round(v, 9)) for v in (x.mean, x.low, x.high)] if x else [""] * 3 for x in (e, d))
            writer.writerow([row.label, figure, better(figure), *numbers, e.n if e else 0, counts["failed"], counts["not done"], *paired])
    return out.getvalue()


def markdown(results: Results) -> str:
    """The table for a paper or a README, with how it was made. Rows are figures, columns methods: it stays narrow."""
    about = results.about
    head = ["figure", *(r.label for r in results.rows)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    counts = [results.counts(r) for r in results.rows]
    lines.append("| clips: done / failed / not done | " + " | ".join(" / ".join(str(v) for v in c.values()) for c in counts) + " |")
    for figure in results.figures:
        best = results.best(figure)
        texts = []
        for row in results.rows:
            e = results.estimate(row, figure)
            text = e.text() + (f" (n={e.n})" if e.n != results.counts(row)["done"] else "") if e else "–"
            texts.append(f"**{text}**" if row.label in best else text)
        lines.append(f"| `{figure}`{arrow(figure)} | " + " | ".join(texts) + " |")
    made = f"Dataset `{about['dataset']}`, {len(results.cases)} clips, seed {about['seed']}. {results.made}."
    commands = " ; ".join(f"`{c}`" for c in about["commands"])
    notes = [made, f"Command: {commands}.", "Mean and 95 % bootstrap interval over clips; best in bold.", *about["rules"].values()]
    left_out = [f"Left out: {name} ({reason})." for name, reason in results.missing_metrics().items()]
    return "\n".join([*lines, "", "  \n".join([*notes, *left_out]), ""])
