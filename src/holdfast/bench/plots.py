"""The report's plots, as SVG: quality against cost, and quality by clip length, kind of edit and set of clips."""

import io
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..base.errors import MissingDependencyError, install_remedy
from ..base.intervals import Estimate, estimate
from ..metrics import is_rate
from .results import Results
from .tables import direction_arrow


def make_plots(results: Results, quality: str) -> dict[str, str]:
    """Return SVG text by title. A plot that has nothing to compare is left out."""
    plots = {
        "Quality against cost": _render(lambda axes: _plot_cost(axes, results, quality)),
        "Quality by clip length": _render(lambda axes: _plot_lines(axes, results, quality)),
        "Quality by kind of edit": _render(lambda axes: _plot_bars(axes, results, quality, "kind")),
        "Quality by set of clips": _render(
            lambda axes: _plot_bars(axes, results, quality, "group")
        ),
    }
    return {title: svg for title, svg in plots.items() if svg}


def _render(draw: Callable[[Any], bool]) -> str | None:
    """Render a plot as SVG. Return None if `draw` has nothing to show."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "the report's plots need matplotlib", install_remedy("bench")
        ) from error

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "holdfast",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.parse_math": False,  # a $ in a name is not a formula
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # The browser draws the text with its own fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if not draw(axes):
            return None
        out = io.StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
        return out.getvalue()


def _plot_cost(axes: Any, results: Results, quality: str) -> bool:
    count = 0
    for variant in results.variants:
        seconds = results.estimate(variant, "seconds")
        value = results.estimate(variant, quality)
        if seconds and value:
            style = {"fmt": "o", "capsize": 3, "color": _colour(count)}
            label = _short_label(variant.label, results)
            axes.errorbar(seconds.mean, value.mean, yerr=_error_bars([value]), label=label, **style)
            count += 1
    axes.set_xlabel("seconds a clip ↓")
    _finish(axes, quality, count)
    return count > 0


def _finish(axes: Any, quality: str, count: int) -> None:
    """Label the vertical axis, and add a legend for `count` variants."""
    axes.set_ylabel(plain_label(quality) + direction_arrow(quality))
    if count:
        axes.legend(fontsize=7, frameon=False, loc="best")


def plain_label(text: object) -> str:
    """Return text that SVG may contain: no control characters, on one line."""
    plain = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in str(text))
    return " ".join(plain.split())


def _error_bars(values: list[Estimate]) -> list[list[float]]:
    """Return how far intervals reach below and above their means."""
    below = [value.mean - value.low for value in values]
    above = [value.high - value.mean for value in values]
    return [below, above]


def _colour(index: int) -> str:
    return f"C{index % 10}"


def _short_label(label: str, results: Results) -> str:
    """Return a label without its backbone if all variants share one."""
    backbones = {variant.backbone for variant in results.variants if not variant.origin}
    if len(backbones) != 1:
        return plain_label(label)
    return plain_label(label.removesuffix(f" on {backbones.pop()}"))


@dataclass(frozen=True)
class _Groups:
    """Estimates of a metric by a property of the clips."""

    keys: list  # in order of appearance
    estimates: dict[str, dict[Any, Estimate]]  # by variant label and key


def _group_by(results: Results, quality: str, key: str) -> _Groups:
    keys: dict = {}
    estimates: dict[str, dict[Any, Estimate]] = {}
    for variant in results.variants:
        groups = defaultdict(list)
        values = results.values(variant, quality)
        for record in results.records_for(variant):
            if record["case"] in values:
                groups[record[key]].append(values[record["case"]])
        keys |= dict.fromkeys(groups)
        both = ((k, estimate(group, is_rate(quality))) for k, group in groups.items())
        estimates[variant.label] = {k: value for k, value in both if value}
    return _Groups(list(keys), estimates)


def _plot_lines(axes: Any, results: Results, quality: str) -> bool:
    groups = _group_by(results, quality, "frames")
    if len(groups.keys) < 2:
        return False
    for i, (label, estimates) in enumerate(groups.estimates.items()):
        x = sorted(estimates)
        values = [estimates[k] for k in x]
        means = [value.mean for value in values]
        style = {"fmt": "o-", "capsize": 3, "color": _colour(i)}
        axes.errorbar(
            x, means, yerr=_error_bars(values), label=_short_label(label, results), **style
        )
    axes.set_xlabel("frames")
    _finish(axes, quality, len(groups.estimates))
    return True


def _plot_bars(axes: Any, results: Results, quality: str, key: str) -> bool:
    groups = _group_by(results, quality, key)
    if len(groups.keys) < 2:
        return False
    count = len(groups.estimates)
    width = 0.8 / count
    for i, (label, estimates) in enumerate(groups.estimates.items()):
        shift = (i - (count - 1) / 2) * width
        x = [index + shift for index, k in enumerate(groups.keys) if k in estimates]
        values = [estimates[k] for k in groups.keys if k in estimates]
        means = [value.mean for value in values]
        style = {"capsize": 2, "color": _colour(i)}
        axes.bar(
            x, means, width, yerr=_error_bars(values), label=_short_label(label, results), **style
        )
    names = [plain_label(k) or "(none)" for k in groups.keys]
    axes.set_xticks(range(len(names)), names)
    _finish(axes, quality, count)
    return True
