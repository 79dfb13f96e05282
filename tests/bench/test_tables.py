"""Intervals, paired differences and rounding."""

import numpy as np
import pytest

from holdfast.bench import tables


def test_the_bootstrap_interval_is_that_of_the_normal_where_there_are_many():
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = tables.estimate(list(values))
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.05)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05)
    assert tables.estimate(list(values)) == found  # the same resamples each time


def test_equal_values_have_no_width_and_none_have_no_estimate():
    assert tables.estimate([3.0, 3.0]) == tables.Estimate(3.0, 3.0, 3.0, 2)
    assert tables.estimate([]) is None


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.66666, "0.6667"), (100, "100"), (31.416, "31.42"), (123456.7, "123457"), (0.000012, "1.2e-05")]
)
def test_numbers_as_people_read_them(value, text):
    assert tables.number(value) == text
