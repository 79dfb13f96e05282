"""Print the tables of benchmarks/steps.py. Rows of one table are of the same scenes, so that differences are paired."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tables import format_differences, format_interval, print_header, print_row

Rows = dict[str, dict[int, dict[str, Any]]]  # by variant and seed
METRICS = ("success", "delivered")
COLUMNS = ("cost", *METRICS, "error of the latent", "success, paired", "delivered, paired")


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
    references = _group([row for row in rows if row["part"] == "steps"])
    for part in ("steps", "guidance", "region", "caches"):
        chosen = [row for row in rows if row["part"] == part]
        if chosen:
            print(f"\n{part}")
            _print_part(chosen, references)


def _group(rows: Sequence[dict[str, Any]]) -> Rows:
    grouped: Rows = defaultdict(dict)
    for row in rows:
        grouped[row["variant"]][row["seed"]] = row
    return dict(grouped)


def _print_part(rows: Sequence[dict[str, Any]], references: Rows) -> None:
    """Print a line per variant, with the paired difference to the edit that it is compared with.

    references: the variants of the steps part, by name.
    """
    print_header("method", "settings", "scenes", *COLUMNS)
    first: dict[tuple, dict[int, dict[str, Any]]] = {}
    for found in _group(rows).values():
        row = next(iter(found.values()))
        settings = row["settings"]
        own = {k: v for k, v in settings.items() if k in ("solver", "steps")}
        pairs = " ".join(f"{key}={value}" for key, value in own.items())
        reference = references.get(f"steps {row['method']} {pairs}")
        if row["part"] == "steps":  # of 25 steps, which come first
            family = (row["method"], settings.get("mask"))
            reference = first.setdefault(family, found)
        shown = ", ".join(_describe(key, value) for key, value in settings.items())
        print_row(row["method"], shown, len(found), *_cells(found), *_differences(found, reference))


def _describe(key: str, value: Any) -> str:
    plain = {"solver": f"{value}", "steps": f"{value} steps"}
    return plain.get(key, f"`{key}={value}`")


def _cells(found: dict[int, dict[str, Any]]) -> list[str]:
    rows = list(found.values())
    cells = [format_interval([row[name] for row in rows]) for name in METRICS]
    cost = sum(row["dense"] for row in rows) / len(rows)
    errors = [row["difference"] for row in rows if "difference" in row]
    return [f"{cost:.1f}", *cells, format_interval(errors) if errors else "–"]


def _differences(
    found: dict[int, dict[str, Any]], reference: dict[int, dict[str, Any]] | None
) -> list[str]:
    if reference is None or found is reference:
        return ["–", "–"]
    shared = sorted(found.keys() & reference.keys())
    return format_differences(
        [found[seed] for seed in shared], [reference[seed] for seed in shared], METRICS
    )
