"""`holdfast bench report`: one page that opens from disk, and the same tables as CSV and Markdown."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..video import publish
from . import plots, tables
from .datasets.base import Case
from .pages import filled, frames_of, picture, playing, sized
from .runner import Row, cell_folder

QUALITIES = ("truth_psnr@all", "local_clip_t", "clip_t", "psnr_outside@true", "ssim@full")  # the first there is goes into the plots
GAIN = 4  # the difference is shown this much stronger


def report(folder: Path, baseline: str | None = None, quality: str | None = None, gallery: int = 12) -> dict[str, Path]:
    """Write report.html, table.csv, cells.csv and table.md into a benchmark's folder; their paths by name.

    Raises ValueError where the folder holds no benchmark or nothing is done yet.
    """
    results = tables.Results(folder)
    if not results.records:
        raise ValueError(f"nothing is done in {folder} yet; go on with: {results.about['commands'][-1]}")
    against = results.row(baseline)
    shown = _quality(results, quality)
    _written(
        folder,
        {"table.csv": tables.table_csv(results, against), "cells.csv": tables.cells_csv(results), "table.md": tables.markdown(results)},
    )
    page = filled(
        "report.html",
        {
            "made": results.made,
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
    _written(folder, {"report.html": page})
    return {name: folder / name for name in ("report.html", "table.csv", "cells.csv", "table.md")}


def _written(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        part = folder / (name + ".part")
        part.write_text(text)
        publish(part, folder / name)


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
                items.append(_shown(case, row, edited))
        parts = (
            ["source", "edited", "truth", f"{GAIN} x |edited - truth|"]
            if case.truth
            else ["source", "edited", f"{GAIN} x |edited - source|"]
        )
        yield {"case": case, "parts": ", ".join(parts), "items": items}


def _shown(case: Case, row: Row, edited: Path) -> dict:
    """A row's clip, or why it cannot be shown: a source that was moved does not stop the report."""
    try:
        return {"label": row.label, "clip": _strip(case, edited), "reason": ""}
    except (ValueError, OSError) as error:
        return {"label": row.label, "clip": "", "reason": str(error)}


def _strip(case: Case, edited: Path) -> str:
    clip, source = frames_of(case.clip)
    files = [edited, *([case.truth] if case.truth else [])]
    against = sized(frames_of(case.truth or case.clip)[1], clip.size)
    difference = _difference(sized(frames_of(edited)[1], clip.size), against)
    return playing([source, *(sized(frames_of(f)[1], clip.size) for f in files), difference], clip.size, float(clip.rate))


def _difference(first: Iterator[np.ndarray], second: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for a, b in zip(first, second):  # noqa: B905  the shorter one says how long
        yield (GAIN * np.abs(a.astype(np.int16) - b)).clip(0, 255).astype(np.uint8)
