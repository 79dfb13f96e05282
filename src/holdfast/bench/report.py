"""`holdfast bench report`: one page that opens from disk, and the same tables as CSV and Markdown."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..video import publish
from . import plots, tables
from .datasets.base import Case
from .pages import filled, frames_of, picture, playing
from .runner import Row, cell_folder

QUALITIES = ("truth_psnr@all", "local_clip_t", "clip_t", "psnr_outside@true", "ssim@full")  # the first there is goes into the plots
GAIN = 4  # the difference is shown this much stronger


def report(folder: Path, baseline: str | None = None, quality: str | None = None, gallery: int = 12) -> dict[str, Path]:
    """Write report.html, table.csv, cells.csv and table.md into a benchmark's folder; their paths by name.

    Raises ValueError where the folder holds no benchmark or nothing is done yet.
    """
    results = tables.Results(folder)
    if not results.records:
        raise ValueError(f"nothing is done in {folder} yet; go on with: {results.about['command']}")
    against = results.row(baseline)
    shown = _quality(results, quality)
    page = filled(
        "report.html",
        {
            "about": results.about,
            "clips": len(results.cases),
            "figures": [(f, tables.arrow(f)) for f in results.figures],
            "rows": [_line(results, row, against) for row in results.rows],
            "baseline": against.label,
            "plots": [(title, picture(svg)) for title, svg in plots.figures(results, shown).items()],
            "gallery": list(_gallery(results, gallery)),
            "failures": results.failures(),
            "left_out": results.missing_metrics(),
            "gain": GAIN,
        },
    )
    written = {
        "report.html": page,
        "table.csv": tables.table_csv(results),
        "cells.csv": tables.cells_csv(results),
        "table.md": tables.markdown(results),
    }
    for name, text in written.items():
        part = folder / (name + ".part")
        part.write_text(text)
        publish(part, folder / name)
    return {name: folder / name for name in written}


def _quality(results: tables.Results, wanted: str | None) -> str:
    from ..registry import choose

    if wanted:
        return choose(wanted, results.figures, "figure")
    return next((f for q in QUALITIES for f in results.figures if f.startswith(q)), results.figures[0])


def _line(results: tables.Results, row: Row, baseline: Row) -> dict:
    cells = []
    for figure in results.figures:
        e = results.estimate(row, figure)
        difference = None if row == baseline else results.difference(row, baseline, figure)
        cells.append(
            {
                "mean": tables.number(e.mean) if e else "–",
                "sort": repr(e.mean) if e else "",
                "interval": f"{tables.number(e.low)} to {tables.number(e.high)}, n={e.n}" if e else "",
                "difference": f"{difference.mean:+.3g} [{difference.low:+.3g}, {difference.high:+.3g}]" if difference else "",
                "best": row.label in results.best(figure),
            }
        )
    return {"label": row.label, "mask": "seen" if row.sees_mask else "unseen", "cells": cells, **results.counts(row)}


def _gallery(results: tables.Results, count: int) -> Iterator[dict]:
    """Evenly chosen cases, each with a clip for every row that is done."""
    done = [c for c in results.cases if any(not results.records.get((r.label, c.name), {"error": 1})["error"] for r in results.rows)]
    chosen = [done[i] for i in sorted(set(np.linspace(0, len(done) - 1, min(count, len(done))).round().astype(int)))] if done else []
    for case in chosen:
        items = []
        for row in results.rows:
            record = results.records.get((row.label, case.name))
            edited = cell_folder(results.folder, row, case) / "edited.mkv"
            if record and not record["error"] and edited.exists():
                items.append({"label": row.label, "clip": _strip(case, edited)})
        parts = (
            ["source", "edited", "truth", f"{GAIN} x |edited - truth|"]
            if case.truth
            else ["source", "edited", f"{GAIN} x |edited - source|"]
        )
        yield {"case": case, "parts": ", ".join(parts), "items": items}


def _strip(case: Case, edited: Path) -> str:
    clip, source = frames_of(case.clip)
    width, height = clip.size
    parts = [source, frames_of(edited)[1]]
    if case.truth:
        parts.append(frames_of(case.truth)[1])
    against = frames_of(case.truth or case.clip)[1]
    parts.append(_difference(frames_of(edited)[1], against))
    return playing(parts, (width, height), float(clip.rate))


def _difference(first: Iterator[np.ndarray], second: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for a, b in zip(first, second):  # noqa: B905  the shorter one says how long
        yield (GAIN * np.abs(a.astype(np.int16) - b)).clip(0, 255).astype(np.uint8)
