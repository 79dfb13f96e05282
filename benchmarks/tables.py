"""Print Markdown tables of means with 95 % intervals, for the benchmarks."""

import math
from collections.abc import Iterable

from holdfast.base.intervals import estimate, estimate_difference


def print_row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def print_header(*columns: str) -> None:
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def format_interval(values: Iterable[float], signed: bool = False) -> str:
    """Format the mean of the finite values with its 95 % interval; for booleans the rate."""
    finite = [value for value in values if math.isfinite(value)]
    is_rate = bool(finite) and all(isinstance(value, bool) for value in finite)
    result = estimate(finite, is_rate)
    return result.text(signed) if result else "–"


def format_intervals(scenes: list[dict], metrics: Iterable[str]) -> list[str]:
    return [format_interval([scene[metric] for scene in scenes]) for metric in metrics]


def format_differences(scenes: list[dict], others: list[dict], metrics: Iterable[str]) -> list[str]:
    """Format the paired differences of each metric, scene by scene."""
    return [
        _format_difference([(a[metric], b[metric]) for a, b in zip(scenes, others, strict=True)])
        for metric in metrics
    ]


def _format_difference(pairs: list[tuple[float, float]]) -> str:
    is_rate = all(isinstance(value, bool) for pair in pairs for value in pair)
    result = estimate_difference([a - b for a, b in pairs], is_rate)
    return result.text(signed=True) if result else "–"
