"""Intervals hold the truth as often as they say, on values whose truth is known; and how they are printed."""

import math

import numpy as np
import pytest

from holdfast.base import intervals
from holdfast.base.intervals import Estimate, estimate, estimate_difference, estimate_rate

TRIES = 3000  # of each: the standard error of a coverage of 95 % is 0.4 %


def coverage(draw, truth: float, count: int) -> float:
    rng = np.random.default_rng(count)
    found = (estimate(draw(rng, count)) for _ in range(TRIES))
    return sum(e.low <= truth <= e.high for e in found) / TRIES


@pytest.mark.parametrize("count", [10, 20, 100])
def test_the_interval_of_a_rate_of_nine_in_ten_holds_it(count):
    """By the binomial distribution itself. A percentile bootstrap holds it in 67 and 88 %, at 10 and 20."""
    held = 0.0
    for successes in range(count + 1):
        found = estimate_rate(successes, count)
        chance = math.comb(count, successes) * 0.9**successes * 0.1 ** (count - successes)
        held += chance * (found.low <= 0.9 <= found.high)
    assert 0.92 <= held <= 0.98


@pytest.mark.parametrize(("count", "least"), [(5, 0.85), (10, 0.87), (20, 0.89)])
def test_the_interval_of_a_mean_of_skewed_values_holds_it(count, least):
    """Values with a skewness of 6: a percentile bootstrap holds their mean in 71, 80 and 85 %."""
    draw = lambda rng, n: rng.lognormal(0, 1, n)  # noqa: E731
    assert coverage(draw, math.exp(0.5), count) >= least


@pytest.mark.parametrize("count", [5, 10, 20])
def test_the_interval_of_a_mean_of_symmetric_values_is_neither_short_nor_long(count):
    assert 0.93 <= coverage(lambda rng, n: rng.normal(3, 2, n), 3, count) <= 0.98


@pytest.mark.parametrize("count", [10, 20, 100])
def test_the_interval_of_a_difference_of_paired_rates_holds_it(count):
    rng, held = np.random.default_rng(count), 0
    for _ in range(TRIES):
        first, second = rng.random(count) < 0.9, rng.random(count) < 0.7
        found = estimate_difference(first.astype(float) - second, is_rate=True)
        held += found.low <= 0.2 <= found.high
    assert held / TRIES >= 0.93


@pytest.mark.parametrize(
    ("freedom", "known"),
    [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (19, 2.093), (99, 1.984), (5000, 1.960)],
)
def test_quantiles_of_student_are_those_of_the_tables(freedom, known):
    assert intervals.t_quantile(freedom) == pytest.approx(known, abs=5e-4)


def test_a_rate_without_failures_has_a_width():
    found = estimate_rate(100, 100)
    assert (round(100 * found.low, 1), found.high) == (96.3, 1.0)
    assert estimate_rate(0, 100).low == 0
    assert estimate([1.0] * 5, is_rate=True).low == pytest.approx(0.566, abs=1e-3)
    assert estimate_difference([0.0] * 20, is_rate=True).low < 0


def test_a_symmetric_sample_has_the_interval_of_t():
    found = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    skewed = estimate([1.0, 1.0, 1.0, 1.0, 6.0])
    assert skewed.high - skewed.mean > skewed.mean - skewed.low


def test_a_skewed_sample_has_the_ends_whose_transform_is_that_of_t():
    """Hall's: t + g t^2 / 3 + g^2 t^3 / 27 + g / 6n."""
    values = np.array([1.0, 1.0, 1.0, 1.0, 6.0])
    found = estimate(values)
    g = ((values - 2) ** 3).mean() / (values - 2).std() ** 3
    for end, sign in ((found.low, 1), (found.high, -1)):
        t = (2 - end) / values.std(ddof=1)
        transformed = t + g * t**2 / 3 + g**2 * t**3 / 27 + g / 30
        assert transformed == pytest.approx(sign * 2.776445 / math.sqrt(5), abs=1e-5)


def test_a_difference_of_paired_rates_is_bonett_and_prices():
    found = estimate_difference([1.0] * 8 + [-1.0] * 2 + [0.0] * 10, is_rate=True)
    assert found.mean == 0.3
    assert (found.low, found.high) == pytest.approx((-0.0141, 0.5595), abs=2e-4)


def test_one_value_has_no_interval_and_none_no_estimate():
    assert not estimate([3.0]).has_interval
    assert estimate([3.0]).text() == "3 (n=1, few)"
    assert estimate([]) is estimate([math.nan, math.inf]) is None
    assert estimate([3.0, 3.0, math.inf]) == Estimate(3.0, 3.0, 3.0, 2)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (estimate_rate(92, 100), "92 % [85, 96]"),
        (estimate_rate(100, 100), "100 % [96, 100]"),
        (Estimate(25.9, 24.55, 27.29, 50), "25.9 [24.6, 27.3]"),
        (Estimate(0.8649, 0.8473, 0.8822, 60), "0.865 [0.847, 0.882]"),
        (Estimate(590.1, 586.5, 593.7, 60), "590.1 [586.5, 593.7]"),
        (Estimate(12000, 9000, 15000, 60), "12000 [9000, 15000]"),
        (Estimate(2e-5, 1e-5, 3e-5, 60), "2.0e-05 [1.0e-05, 3.0e-05]"),
        (Estimate(100, 100, 100, 50), "100 [100, 100]"),
        (Estimate(100, 100, 100, 5), "100 [100, 100] (n=5, few)"),
    ],
)
def test_how_an_estimate_is_printed(found, text):
    assert found.text() == text


def test_differences_are_printed_with_their_sign():
    assert Estimate(0.2, -0.1, 0.5, 50).text(signed=True) == "+0.20 [-0.10, +0.50]"
    assert Estimate(0.2, -0.1, 0.5, 50, is_rate=True).text(signed=True) == "+20 % [-10, +50]"
