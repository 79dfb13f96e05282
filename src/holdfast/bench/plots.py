"""The report's plots, as SVG: quality against cost, quality against clip length, and by kind of edit."""

import io
from collections import defaultdict
from collections.abc import Callable

from ..registry import Missing
from .tables import Results, arrow, estimate


def figures(results: Results, quality: str) -> dict[str, str]:
    """Title to SVG text; a plot that has nothing to compare is left out."""
    made = {
        "Quality against cost": _drawn(lambda axes: _cost(axes, results, quality)),
        "Quality by clip length": _drawn(lambda axes: _lines(axes, results, quality, "frames")),
        "Quality by kind of edit": _drawn(lambda axes: _bars(axes, results, quality, "kind")),
        "Quality by set of clips": _drawn(lambda axes: _bars(axes, results, quality, "group")),
    }
    return {title: svg for title, svg in made.items() if svg}


def _drawn(draw: Callable) -> str | None:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Missing("the report's plots need matplotlib; get it with: pip install 'holdfast[bench]'") from error

    style = {"svg.fonttype": "none", "svg.hashsalt": "holdfast", "font.family": "sans-serif", "font.size": 9}
    with matplotlib.rc_context(style):
        picture = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = picture.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if not draw(axes):
            return None
        out = io.StringIO()
        picture.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return out.getvalue()


def _cost(axes, results: Results, quality: str) -> bool:
    points = [(r.label, results.estimate(r, "seconds"), results.estimate(r, quality)) for r in results.rows]
    points = [p for p in points if p[1] and p[2]]
    for i, (label, seconds, value) in enumerate(points):
        bars = [[value.mean - value.low], [value.high - value.mean]]
        axes.errorbar(seconds.mean, value.mean, yerr=bars, fmt="o", color=f"C{i % 10}", capsize=3, label=_short(label, results))
    axes.set_xlabel("seconds a clip ↓")
    axes.set_ylabel(quality + arrow(quality))
    _legend(axes, len(points))
    return bool(points)


def _legend(axes, count: int) -> None:
    if count:
        axes.legend(fontsize=7, frameon=False, loc="best")


def _short(label: str, results: Results) -> str:
    return label if len({r.backbone for r in results.rows}) > 1 else label.partition(" on ")[0]


def _grouped(results: Results, quality: str, key: str) -> tuple[list, dict[str, dict]]:
    """Values of `key` in order, and row label to {value: Estimate}."""
    found: dict[str, dict] = {}
    seen: dict = {}
    for row in results.rows:
        groups = defaultdict(list)
        values = results.values(row, quality)
        for record in results.of(row):
            if record["case"] in values:
                groups[record[key]].append(values[record["case"]])
                seen[record[key]] = None
        found[row.label] = {k: estimate(v) for k, v in groups.items()}
    return list(seen), found


def _lines(axes, results: Results, quality: str, key: str) -> bool:
    places, found = _grouped(results, quality, key)
    if len(places) < 2:
        return False
    for i, (label, groups) in enumerate(found.items()):
        x = sorted(groups)
        values = [groups[k] for k in x]
        bars = [[v.mean - v.low for v in values], [v.high - v.mean for v in values]]
        axes.errorbar(x, [v.mean for v in values], yerr=bars, fmt="o-", capsize=3, color=f"C{i % 10}", label=_short(label, results))
    axes.set_xlabel("frames")
    axes.set_ylabel(quality + arrow(quality))
    _legend(axes, len(found))
    return True


def _bars(axes, results: Results, quality: str, key: str) -> bool:
    places, found = _grouped(results, quality, key)
    if len(places) < 2:
        return False
    width = 0.8 / len(found)
    for i, (label, groups) in enumerate(found.items()):
        known = [(j, groups[k]) for j, k in enumerate(places) if k in groups]
        x = [j + (i - (len(found) - 1) / 2) * width for j, _ in known]
        values = [v for _, v in known]
        bars = [[v.mean - v.low for v in values], [v.high - v.mean for v in values]]
        axes.bar(x, [v.mean for v in values], width, yerr=bars, capsize=2, color=f"C{i % 10}", label=_short(label, results))
    axes.set_xticks(range(len(places)), [str(p) or "(none)" for p in places])
    axes.set_ylabel(quality + arrow(quality))
    _legend(axes, len(found))
    return True
