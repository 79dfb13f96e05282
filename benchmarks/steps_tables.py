"""Print the tables of benchmarks/steps.py. Rows of one table are of the same scenes, so that differences are paired."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tables import format_differences, format_interval, print_header, print_row

Rows = dict[str, dict[int, dict[str, Any]]]  # by variant and seed
METRICS = ("success", "delivered")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file, without a last line that a stopped run cut off."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def print_tables(paths: Iterable[str]) -> None:
    """Print the tables of the parts that the files hold, and where the rows come from."""
    rows = [row for path in paths for row in read_rows(Path(path))]
    origins = sorted({f"commit {row['commit']}, weights {row['weights']}" for row in rows})
    print("; ".join(origins))
    for part, title in (("steps", "steps"), ("guidance", "guidance"), ("region", "region")):
        chosen = [row for row in rows if row["part"] == part]
        if chosen:
            _print_part(title, chosen)


def _group(rows: Sequence[dict[str, Any]]) -> Rows:
    grouped: Rows = defaultdict(dict)
    for row in rows:
        grouped[row["variant"]][row["seed"]] = row
    return dict(grouped)


def _print_part(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a line per variant, with the paired difference to the first variant of its method and solver."""
    grouped = _group(rows)
    print(f"\n{title}")
    columns = ("success", "delivered, dB", "evaluations", "error of the latent")
    print_header("method", "settings", "scenes", *columns, "success, paired", "dB, paired")
    first: dict[tuple, dict[int, dict[str, Any]]] = {}
    for found in grouped.values():
        row = next(iter(found.values()))
        settings = row["settings"]
        family = (row["method"], settings.get("solver"), settings.get("mask"))
        if title != "steps":
            family = (row["method"], settings["steps"])
        reference = first.setdefault(family, found)
        shown = ", ".join(f"{name} {value}" for name, value in settings.items())
        print_row(row["method"], shown, len(found), *_cells(found), *_differences(found, reference))


def _cells(found: dict[int, dict[str, Any]]) -> list[str]:
    rows = list(found.values())
    cells = [format_interval([row[name] for row in rows]) for name in METRICS]
    evaluations = sum(row.get("dense", row["evaluations"]) for row in rows) / len(rows)
    errors = [row["difference"] for row in rows if "difference" in row]
    return [*cells, f"{evaluations:.1f}", format_interval(errors) if errors else "–"]


def _differences(
    found: dict[int, dict[str, Any]], reference: dict[int, dict[str, Any]]
) -> list[str]:
    if found is reference:
        return ["–", "–"]
    shared = sorted(found.keys() & reference.keys())
    return format_differences(
        [found[seed] for seed in shared], [reference[seed] for seed in shared], METRICS
    )
