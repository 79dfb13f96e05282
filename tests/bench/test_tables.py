"""Intervals, paired differences and rounding."""

import numpy as np
import pytest

from holdfast.bench import runner, tables
from holdfast.bench.datasets.base import Case
from holdfast.files import write_json


def test_the_bootstrap_interval_is_that_of_the_normal_where_there_are_many():
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = tables.estimate(list(values))
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)
    assert tables.estimate(list(values)) == found  # the same resamples each time


def test_equal_values_have_no_width_and_none_have_no_estimate():
    assert tables.estimate([3.0, 3.0]) == tables.Estimate(3.0, 3.0, 3.0, 2)
    assert tables.estimate([]) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.66666, "0.6667"),
        (100, "100"),
        (31.416, "31.42"),
        (123456.7, "123457"),
        (0.000012, "1.2e-05"),
    ],
)
def test_numbers_as_people_read_them(value, text):
    assert tables.number(value) == text


def made_of(folder, figures):
    """Results of rows a and b over two cases; figures: of each (row, case), None where it failed."""
    rows = [runner.Row("a", "x"), runner.Row("b", "x")]
    cases = [Case(name, "c.mp4", "s", "t") for name in ("first", "second")]
    write_json(
        folder / "bench.json",
        {
            **{"dataset": "d", "seed": 0, "weights": None, "dtype": "auto", "commands": ["run"]},
            "rules": {"mask": "m", "not a number": "n"},
            "rows": [vars(row) for row in rows],
            "cases": [vars(case) for case in cases],
        },
    )
    for row in rows:
        for case in cases:
            place = runner.cell_folder(folder, row, case)
            place.mkdir(parents=True)
            found = figures[row.method, case.name]
            record = {
                "row": row.label,
                "case": case.name,
                **{"kind": "", "group": "", "left_out": {}},
                "figures": found or {"truth_psnr@all": 99.0},
            }
            write_json(place / "cell.json", record | {"error": None if found else "why"})
    return tables.Results(folder)


def test_the_best_is_the_highest_or_the_lowest_of_those_over_the_most_clips(tmp_path):
    results = made_of(
        tmp_path,
        {
            ("a", "first"): {"truth_psnr@all": 30.0, "lpips@full": 0.3, "ssim@full": 0.5},
            ("a", "second"): {"truth_psnr@all": 20.0, "lpips@full": 0.1, "ssim@full": 0.5},
            ("b", "first"): {"truth_psnr@all": 22.0, "lpips@full": 0.1, "ssim@full": 0.9},
            ("b", "second"): {"truth_psnr@all": 20.0, "lpips@full": 0.2, "ssim@full": None},
        },
    )
    assert results.best("truth_psnr@all") == {"a on x"}
    assert results.best("lpips@full") == {"b on x"}
    assert (
        results.best("ssim@full") == set()
    )  # b's mean is of fewer clips, and a alone is no comparison
    a, b = results.rows
    assert results.difference(a, b, "truth_psnr@all").mean == 4.0


def test_a_failed_cell_has_no_figures(tmp_path):
    one = {"truth_psnr@all": 30.0}
    cells = {("a", "first"): one, ("a", "second"): None, ("b", "first"): one, ("b", "second"): one}
    results = made_of(tmp_path, cells)
    row = results.rows[0]
    assert results.values(row, "truth_psnr@all") == {"first": 30.0}
    assert results.counts(row) == {"done": 1, "failed": 1, "not done": 0}
    assert results.failures() == [("a on x", "second", "why")]
