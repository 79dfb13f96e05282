"""The report's plots, as SVG: quality against cost, quality against clip length, and by kind of edit."""

import io
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from ..base.errors import MissingDependencyError
from ..base.intervals import Estimate, estimate
from ..metrics import is_rate
from .tables import Results, arrow


def figures(results: Results, quality: str) -> dict[str, str]:
    """Title to SVG text; a plot that has nothing to compare is left out."""
    made = {
        "Quality against cost": _drawn(lambda axes: _cost(axes, results, quality)),
        "Quality by clip length": _drawn(lambda axes: _lines(axes, results, quality, "frames")),
        "Quality by kind of edit": _drawn(lambda axes: _columns(axes, results, quality, "kind")),
        "Quality by set of clips": _drawn(lambda axes: _columns(axes, results, quality, "group")),
    }
    return {title: svg for title, svg in made.items() if svg}


def _drawn(draw: Callable) -> str | None:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "the report's plots need matplotlib; get it with: pip install 'holdfast[bench]'"
        ) from error

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "holdfast",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.parse_math": False,  # a $ in a name is a $
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # The browser draws the text, with fonts of its own.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        picture = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = picture.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if not draw(axes):
            return None
        out = io.StringIO()
        picture.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
        return out.getvalue()


def _cost(axes, results: Results, quality: str) -> bool:
    drawn = 0
    for row in results.rows:
        seconds = results.estimate(row, "seconds")
        value = results.estimate(row, quality)
        if seconds and value:
            style = {"fmt": "o", "capsize": 3, "color": _colour(drawn)}
            label = _short(row.label, results)
            axes.errorbar(seconds.mean, value.mean, yerr=_bars([value]), label=label, **style)
            drawn += 1
    axes.set_xlabel("seconds a clip ↓")
    axes.set_ylabel(plain_label(quality) + arrow(quality))
    _legend(axes, drawn)
    return drawn > 0


def plain_label(text: object) -> str:
    """Text that SVG may hold: no control characters, on one line."""
    plain = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in str(text))
    return " ".join(plain.split())


def _bars(values: list[Estimate]) -> list[list[float]]:
    """How far intervals reach below and above their means."""
    below = [value.mean - value.low for value in values]
    above = [value.high - value.mean for value in values]
    return [below, above]


def _colour(index: int) -> str:
    return f"C{index % 10}"


def _legend(axes, count: int) -> None:
    if count:
        axes.legend(fontsize=7, frameon=False, loc="best")


def _short(label: str, results: Results) -> str:
    """Without the backbone, where there is but one."""
    if len({row.backbone for row in results.rows}) > 1:
        return plain_label(label)
    return plain_label(label.rpartition(" on ")[0])


@dataclass(frozen=True)
class _Groups:
    """A figure by what its clips have in common."""

    keys: list  # in the order in which they come up
    found: dict[str, dict]  # row label: key: Estimate


def _grouped(results: Results, quality: str, key: str) -> _Groups:
    keys: dict = {}
    found: dict[str, dict] = {}
    for row in results.rows:
        groups = defaultdict(list)
        values = results.values(row, quality)
        for record in results.of(row):
            if record["case"] in values:
                groups[record[key]].append(values[record["case"]])
        keys |= dict.fromkeys(groups)
        found[row.label] = {k: estimate(v, is_rate(quality)) for k, v in groups.items()}
    return _Groups(list(keys), found)


def _lines(axes, results: Results, quality: str, key: str) -> bool:
    groups = _grouped(results, quality, key)
    if len(groups.keys) < 2:
        return False
    for i, (label, found) in enumerate(groups.found.items()):
        x = sorted(found)
        values = [found[k] for k in x]
        means = [value.mean for value in values]
        style = {"fmt": "o-", "capsize": 3, "color": _colour(i)}
        axes.errorbar(x, means, yerr=_bars(values), label=_short(label, results), **style)
    axes.set_xlabel("frames")
    axes.set_ylabel(plain_label(quality) + arrow(quality))
    _legend(axes, len(groups.found))
    return True


def _columns(axes, results: Results, quality: str, key: str) -> bool:
    groups = _grouped(results, quality, key)
    if len(groups.keys) < 2:
        return False
    count = len(groups.found)
    width = 0.8 / count
    for i, (label, found) in enumerate(groups.found.items()):
        shift = (i - (count - 1) / 2) * width
        x = [place + shift for place, k in enumerate(groups.keys) if k in found]
        values = [found[k] for k in groups.keys if k in found]
        means = [value.mean for value in values]
        style = {"capsize": 2, "color": _colour(i)}
        axes.bar(x, means, width, yerr=_bars(values), label=_short(label, results), **style)
    names = [plain_label(k) or "(none)" for k in groups.keys]
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(plain_label(quality) + arrow(quality))
    _legend(axes, count)
    return True
