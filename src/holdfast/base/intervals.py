"""Intervals of 95 %: the only place where a rate, a mean or a paired difference gets one, and how it is printed.

rate: Wilson (1927). mean: Student's t with Hall's (1992) correction for skewness, so that a few large values move both
ends to their side. Difference of paired rates: Bonett and Price (2012). How often each holds what it should is measured
in tests/test_intervals.py.
"""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

SHARE = 0.95
Z = statistics.NormalDist().inv_cdf((1 + SHARE) / 2)
FEW = 20  # below, an interval of a mean may hold the truth less often than it says
FEW_RULE = f"Under n = {FEW} an interval is a rough guide: of skewed figures it holds the mean in about 90 %."


@dataclass(frozen=True)
class Estimate:
    """A mean or a rate with its interval, and how many values it is of. One value has no interval: its ends are NaN."""

    mean: float
    low: float
    high: float
    n: int
    is_rate: bool = False

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    @property
    def is_of_few(self) -> bool:
        return self.n < FEW

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 0: for differences."""
        return self.low > 0 or self.high < 0

    def text(self, signed: bool = False) -> str:
        """25.9 [24.6, 27.3], or 92 % [85, 96]; both with their n where it is small."""
        return self.interval_text(signed) + (f" (n={self.n}, few)" if self.is_of_few else "")

    def interval_text(self, signed: bool = False) -> str:
        mean, low, high = self.texts(signed)
        unit = " %" if self.is_rate else ""
        return f"{mean}{unit} [{low}, {high}]" if self.has_interval else f"{mean}{unit}"

    def texts(self, signed: bool = False) -> tuple[str, str, str]:
        """Mean, low and high to two significant digits of the interval's half width; rates as whole per cent."""
        values = (self.mean, self.low, self.high)
        if self.is_rate:
            return tuple(
                _format_fixed(100 * value, 0 if self.n < 1000 else 1, signed) for value in values
            )
        half = (self.high - self.low) / 2
        if not half > 0:  # no width, or no interval
            return tuple(number(value) for value in values)
        if half < 1e-4 and abs(self.mean) < 1e-3:
            return tuple(f"{value:.1e}" for value in values)
        decimals = max(0, 1 - math.floor(math.log10(half)))
        return tuple(_format_fixed(value, decimals, signed) for value in values)


def _format_fixed(value: float, decimals: int, signed: bool) -> str:
    value = round(value + math.copysign(1e-9, value), decimals) + 0.0  # half a unit goes up; no -0
    return f"{value:{'+' if signed else ''}.{decimals}f}"


def number(value: float) -> str:
    """Four significant digits, and an exponent only for what is smaller than 0.0001."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def estimate(values: Iterable[float], is_rate: bool = False) -> Estimate | None:
    """The mean of values with its interval; None where no value is finite. is_rate: each is 0 or 1."""
    known = [float(value) for value in values if math.isfinite(value)]
    if not known:
        return None
    if is_rate:
        return estimate_rate(round(sum(known)), len(known))
    return Estimate(math.fsum(known) / len(known), *_mean_interval(known), len(known))


def estimate_rate(successes: float, count: int) -> Estimate:
    """Wilson's interval: 100 of 100 is 96.3 to 100 %. A tie may count as half a success."""
    share, square = successes / count, Z * Z / count
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == count else middle + half
    return Estimate(share, low, high, count, is_rate=True)


def estimate_difference(differences: Iterable[float], is_rate: bool = False) -> Estimate | None:
    """The mean of paired differences with its interval. is_rate: of two 0 or 1, so that each is -1, 0 or 1."""
    known = [float(value) for value in differences if math.isfinite(value)]
    if not is_rate or not known:
        return estimate(known)
    count = len(known)
    gained, lost = ((sum(v == sign for v in known) + 1) / (count + 2) for sign in (1, -1))
    middle = gained - lost
    half = Z * math.sqrt((gained + lost - middle**2) / (count + 2))
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Estimate(math.fsum(known) / len(known), low, high, count, is_rate=True)


def _mean_interval(values: list[float]) -> tuple[float, float]:
    """Hall's transformation of t: t's own interval where the values are symmetric."""
    count = len(values)
    if count < 2:
        return math.nan, math.nan
    mean = math.fsum(values) / count
    squares = math.fsum((value - mean) ** 2 for value in values)
    if squares == 0 or max(values) == min(values):
        return mean, mean
    deviation = math.sqrt(squares / (count - 1))
    cubes = math.fsum((value - mean) ** 3 for value in values)
    skewness = cubes / count / (squares / count) ** 1.5
    reach = t_quantile(count - 1) / math.sqrt(count)
    ends = (_invert_transform(sign * reach, skewness, count) for sign in (1, -1))
    low, high = (mean - deviation * end for end in ends)
    return low, high


def _invert_transform(value: float, skewness: float, count: int) -> float:
    """The t whose transform w + g w^2 / 3 + g^2 w^3 / 27 + g / 6n is a value."""
    value -= skewness / (6 * count)
    if abs(skewness) < 1e-6:
        return value
    return 3 * (math.cbrt(1 + skewness * value) - 1) / skewness


@cache
def t_quantile(freedom: int) -> float:
    """Between which -t and t Student's distribution holds 95 %."""
    if freedom > 1000:
        return Z
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _share_within(middle, freedom) < SHARE else (low, middle)
    return (low + high) / 2


def _share_within(t: float, freedom: int) -> float:
    """How much of Student's distribution lies between -t and t (Abramowitz and Stegun, 26.7.3 and 4)."""
    angle = math.atan(t / math.sqrt(freedom))
    term, total = (math.cos(angle) if freedom % 2 else 1.0), 0.0
    for k in range(freedom % 2 + 1, freedom, 2):
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    held = math.sin(angle) * total
    return 2 / math.pi * (angle + held) if freedom % 2 else held
