"""95 % confidence intervals: the only module that computes and formats them.

Rates: Wilson (1927). Means: Student's t with Hall's (1992) correction for skewness, so that a few large values move
both ends towards their side. Differences of paired rates: Bonett and Price (2012). tests/base/test_intervals.py
measures how often each interval contains the true value.
"""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

CONFIDENCE = 0.95
Z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
SMALL_SAMPLE = (
    20  # with fewer values, an interval of a mean may cover the truth less often than 95 %
)
SMALL_SAMPLE_NOTE = (
    f"With n below {SMALL_SAMPLE} an interval is a rough guide: "
    "for skewed values it contains the mean in about 90 % of cases."
)


@dataclass(frozen=True)
class Estimate:
    """A mean or a rate with its interval and sample size. A single value has no interval: its ends are NaN."""

    mean: float
    low: float
    high: float
    n: int
    is_rate: bool = False

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    @property
    def is_small_sample(self) -> bool:
        return self.n < SMALL_SAMPLE

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0, so that a difference is significant."""
        return self.low > 0 or self.high < 0

    def text(self, signed: bool = False) -> str:
        """Return "25.9 [24.6, 27.3]" or "92 % [85, 96]", with n where the sample is small."""
        return self.interval_text(signed) + (f" (n={self.n}, few)" if self.is_small_sample else "")

    def interval_text(self, signed: bool = False) -> str:
        mean, low, high = self.format_parts(signed)
        unit = " %" if self.is_rate else ""
        return f"{mean}{unit} [{low}, {high}]" if self.has_interval else f"{mean}{unit}"

    def format_parts(self, signed: bool = False) -> tuple[str, str, str]:
        """Format mean, low and high to two significant digits of the interval's half width; rates in whole per cent."""
        if self.is_rate:
            decimals = 0 if self.n < 1000 else 1
            return self._format_each(lambda value: _format_fixed(100 * value, decimals, signed))
        half = (self.high - self.low) / 2
        if not half > 0:  # zero width, or no interval
            return self._format_each(format_number)
        if half < 1e-4 and abs(self.mean) < 1e-3:
            return self._format_each(lambda value: f"{value:.1e}")
        decimals = max(0, 1 - math.floor(math.log10(half)))
        return self._format_each(lambda value: _format_fixed(value, decimals, signed))

    def _format_each(self, convert: Callable[[float], str]) -> tuple[str, str, str]:
        return convert(self.mean), convert(self.low), convert(self.high)


def _format_fixed(value: float, decimals: int, signed: bool) -> str:
    value = round(value + math.copysign(1e-9, value), decimals) + 0.0  # round half up; no -0
    return f"{value:{'+' if signed else ''}.{decimals}f}"


def format_number(value: float) -> str:
    """Format a number to four significant digits, with an exponent only below 0.0001."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def estimate(values: Iterable[float], is_rate: bool = False) -> Estimate | None:
    """Estimate the mean of the finite values with its interval. Return None if no value is finite.

    is_rate: every value is 0 or 1.
    """
    finite = [float(value) for value in values if math.isfinite(value)]
    if not finite:
        return None
    if is_rate:
        return estimate_rate(round(sum(finite)), len(finite))
    return Estimate(math.fsum(finite) / len(finite), *_mean_interval(finite), len(finite))


def estimate_rate(successes: float, count: int) -> Estimate:
    """Estimate a rate with Wilson's interval: 100 of 100 gives 96.3 to 100 %. A tie may count as half a success."""
    share, square = successes / count, Z * Z / count
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == count else middle + half
    return Estimate(share, low, high, count, is_rate=True)


def estimate_difference(differences: Iterable[float], is_rate: bool = False) -> Estimate | None:
    """Estimate the mean of the finite paired differences with its interval.

    is_rate: each is the difference of two values that are 0 or 1, so it is -1, 0 or 1.
    """
    finite = [float(value) for value in differences if math.isfinite(value)]
    if not is_rate or not finite:
        return estimate(finite)
    count = len(finite)
    gains, losses = ((sum(v == sign for v in finite) + 1) / (count + 2) for sign in (1, -1))
    middle = gains - losses
    half = Z * math.sqrt((gains + losses - middle**2) / (count + 2))
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Estimate(math.fsum(finite) / len(finite), low, high, count, is_rate=True)


def _mean_interval(values: list[float]) -> tuple[float, float]:
    """Return the ends by Hall's transformation of t. For symmetric values they are those of t itself."""
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
    """Solve value = w + g w^2 / 3 + g^2 w^3 / 27 + g / 6n for w, where g is the skewness."""
    value -= skewness / (6 * count)
    if abs(skewness) < 1e-6:
        return value
    return 3 * (math.cbrt(1 + skewness * value) - 1) / skewness


@cache
def t_quantile(freedom: int) -> float:
    """Return t such that 95 % of Student's distribution lies between -t and t."""
    if freedom > 1000:
        return Z
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_coverage(middle, freedom) < CONFIDENCE else (low, middle)
    return (low + high) / 2


def _t_coverage(t: float, freedom: int) -> float:
    """Return the share of Student's distribution between -t and t (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    term, total = (math.cos(angle) if freedom % 2 else 1.0), 0.0
    for k in range(freedom % 2 + 1, freedom, 2):
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    share = math.sin(angle) * total
    return 2 / math.pi * (angle + share) if freedom % 2 else share
