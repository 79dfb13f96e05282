"""`holdfast bench report`: one page that opens from disk, and the same tables as CSV and Markdown."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from ..base.notices import warn_user
from ..media.previews import preview_data_url
from . import plots, tables
from .datasets.base import Case
from .pages import PAGE_BYTES, clip_bytes, filled, frames_of, picture, sized, write_text
from .runner import Row, cell_folder

# The first there is goes into the plots.
QUALITIES = ("truth_psnr@all", "local_clip_t", "clip_t", "psnr_outside@true", "ssim@full")
GAIN = 4  # the difference is shown this much stronger


def report(
    folder: Path, baseline: str | None = None, quality: str | None = None, gallery: int = 12
) -> dict[str, Path]:
    """Write report.html, table.csv, cells.csv and table.md into a benchmark's folder; their paths by name.

    Raises ValueError where the folder holds no benchmark or nothing is done yet.
    """
    results = tables.Results(folder)
    if not results.records:
        last = results.about["commands"][-1]
        raise UserError(f"nothing is done in {folder} yet; go on with: {last}")
    against = results.row(baseline)
    shown = _quality(results, quality)
    write_text(folder / "table.csv", tables.table_csv(results, against))
    write_text(folder / "cells.csv", tables.cells_csv(results))
    write_text(folder / "table.md", tables.markdown(results))
    drawn = plots.figures(results, shown)
    values = {
        "made": results.made,
        "about": results.about,
        "clips": len(results.cases),
        "figures": [(figure, tables.arrow(figure)) for figure in results.figures],
        "rows": [_line(results, row, against) for row in results.rows],
        "baseline": against.label,
        "plots": [(title, picture(svg)) for title, svg in drawn.items()],
        "gallery": list(_gallery(results, gallery)),
        "failures": results.failures(),
        "left_out": results.missing_metrics(),
        "notes": [
            note
            for note in (
                tables.INTERVAL_RULE,
                results.best_note,
                results.few_note,
                results.costs_note,
            )
            if note
        ],
        "gain": GAIN,
    }
    write_text(folder / "report.html", filled("report.html", values))
    return {name: folder / name for name in ("report.html", "table.csv", "cells.csv", "table.md")}


def _quality(results: tables.Results, wanted: str | None) -> str:
    from ..base.names import choose

    if wanted:
        return choose(wanted, results.figures, "figure")
    for quality in QUALITIES:
        for figure in results.figures:
            if figure.startswith(quality):
                return figure
    return results.figures[0]


def _line(results: tables.Results, row: Row, baseline: Row) -> dict:
    return {
        "label": row.label,
        "mask": "seen" if row.sees_mask else "unseen",
        "cells": {f: _cell(results, row, baseline, f) for f in results.figures},
        **results.counts(row),
    }


def _cell(results: tables.Results, row: Row, baseline: Row, figure: str) -> dict:
    shown = {"mean": "–", "sort": "", "interval": "", "difference": ""}
    estimated = results.estimate(row, figure)
    if estimated:
        mean, low, high = estimated.texts()
        shown["mean"] = mean + (" %" if estimated.is_rate else "")
        shown["sort"] = repr(estimated.mean)
        few = ", few" if estimated.is_of_few else ""
        ends = f"{low} to {high}, " if estimated.has_interval else ""
        shown["interval"] = f"{ends}n={estimated.n}{few}"
    paired = None if row == baseline else results.difference(row, baseline, figure)
    if paired:
        shown["difference"] = paired.interval_text(signed=True)
    return shown | {"best": row.label in results.best(figure)}


def _gallery(results: tables.Results, count: int) -> Iterator[dict]:
    """Evenly chosen cases, each with a clip for every row that is done, as far as the page has room."""
    chosen, size = _evenly(results.finished_cases(), count), 0
    most = clip_bytes(len(chosen) * len(results.rows))
    for index, case in enumerate(chosen):
        items = list(_items(results, case, most))
        size += sum(len(item["clip"]) for item in items)
        if index and size > PAGE_BYTES:
            warn_user(
                f"the gallery shows {index} of {len(chosen)} clips: with more the page would be larger "
                f"than {PAGE_BYTES // 2**20} MB"
            )
            return
        yield {"case": case, "parts": ", ".join(_parts(case)), "items": items}


def _items(results: tables.Results, case: Case, most: int) -> Iterator[dict]:
    for row in results.rows:
        edited = cell_folder(results.folder, row, case) / "edited.mkv"
        if tables.done(results.record(row, case)) and edited.exists():
            yield _shown(case, row, edited, most)


def _evenly(cases: list[Case], count: int) -> list[Case]:
    if not cases:
        return []
    places = np.linspace(0, len(cases) - 1, min(count, len(cases)))
    return [cases[i] for i in sorted(set(places.round().astype(int)))]


def _parts(case: Case) -> list[str]:
    """What stands beside what in a strip, from the left."""
    if case.truth:
        return ["source", "edited", "truth", f"{GAIN} x |edited - truth|"]
    return ["source", "edited", f"{GAIN} x |edited - source|"]


def _shown(case: Case, row: Row, edited: Path, most: int) -> dict:
    """A row's clip, or why it cannot be shown: a source that was moved does not stop the report."""
    try:
        return {"label": row.label, "clip": _strip(case, edited, most), "reason": ""}
    except (ValueError, OSError) as error:
        return {"label": row.label, "clip": "", "reason": str(error)}


def _strip(case: Case, edited: Path, most: int) -> str:
    """The clips of `_parts` as one."""
    clip, source = frames_of(case.clip)

    def frames(path: str | Path) -> Iterator[ndarray]:
        return sized(frames_of(path)[1], clip.size)

    clips = [source, frames(edited)]
    if case.truth:
        clips.append(frames(case.truth))
    clips.append(_difference(frames(edited), frames(case.truth or case.clip)))
    return preview_data_url(clips, clip.size, float(clip.rate), most)


def _difference(first: Iterator[ndarray], second: Iterator[ndarray]) -> Iterator[ndarray]:
    for a, b in zip(first, second, strict=False):  # the shorter one says how long
        difference = np.abs(a.astype(np.int16) - b)
        yield (GAIN * difference).clip(0, 255).astype(np.uint8)
