"""The Anderson-Darling statistic of the benchmark of inverted latents."""

from pathlib import Path

import pytest
import torch


@pytest.fixture
def normality(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import normality

    return normality


def test_the_statistic_is_scipys(normality):
    """`scipy.stats.anderson(x, "norm").statistic` of SciPy 1.17.1."""
    x = torch.tensor([0.3, -1.2, 2.5, 0.7, -0.4, 1.1, 0.0, -2.2, 0.9, 3.1], dtype=torch.float64)
    assert normality.anderson_darling(x) == pytest.approx(0.16582238271010397, rel=1e-9)
    squares = torch.arange(1, 51, dtype=torch.float64) ** 2
    assert normality.anderson_darling(squares) == pytest.approx(1.6169591365951845, rel=1e-9)


def test_every_perturbation_is_measured_at_every_alpha(normality):
    settings = normality.list_settings()
    assert len(settings) == 1 + 3 * 5
    assert settings["NSARP 0.02"] == {"sarp": 0.02, "sarp_area": "edges"}
