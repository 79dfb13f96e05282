"""What the benchmarks print: Markdown tables of means with 95 % intervals."""

import math
import statistics
from collections.abc import Iterable


def line(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def head(*columns: str) -> None:
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def interval(values: Iterable[float]) -> str:
    """The mean with the half width of its 95 % interval. What is not finite counts for nothing."""
    numbers = [float(v) for v in values if math.isfinite(v)]
    spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return f"{statistics.fmean(numbers):.3g} ± {1.96 * spread / math.sqrt(len(numbers)):.2g}"


def intervals(rows: list[dict], figures: Iterable[str]) -> list[str]:
    return [interval([row[figure] for row in rows]) for figure in figures]


def differences(rows: list[dict], others: list[dict], figures: Iterable[str]) -> list[str]:
    """Of each scene's two figures."""
    pairs = list(zip(rows, others, strict=True))
    return [interval([a[figure] - b[figure] for a, b in pairs]) for figure in figures]
