"""What the benchmarks print: Markdown tables of means with 95 % intervals."""

import math
from collections.abc import Iterable

from holdfast.base.intervals import estimate, estimate_difference


def line(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def head(*columns: str) -> None:
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def interval(values: Iterable[float], signed: bool = False) -> str:
    """The mean with its 95 % interval; of True and False a rate. What is not finite counts for nothing."""
    values = [value for value in values if math.isfinite(value)]
    found = estimate(values, bool(values) and all(isinstance(value, bool) for value in values))
    return found.text(signed) if found else "–"


def intervals(rows: list[dict], figures: Iterable[str]) -> list[str]:
    return [interval([row[figure] for row in rows]) for figure in figures]


def differences(rows: list[dict], others: list[dict], figures: Iterable[str]) -> list[str]:
    """Of each scene's two figures."""
    return [
        difference([(a[figure], b[figure]) for a, b in zip(rows, others, strict=True)])
        for figure in figures
    ]


def difference(pairs: list[tuple[float, float]]) -> str:
    is_rate = all(isinstance(value, bool) for pair in pairs for value in pair)
    found = estimate_difference([a - b for a, b in pairs], is_rate)
    return found.text(signed=True) if found else "–"
