"""`holdfast bench report`: one page that opens from disk, and the same tables as CSV and Markdown."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from ..base.names import choose
from ..base.notices import warn_user
from ..media.previews import preview_data_url
from . import plots, tables
from .datasets.base import Case
from .pages import (
    PAGE_BYTES,
    max_clip_bytes,
    open_clip,
    render_template,
    resize_frames,
    svg_data_url,
    write_text,
)
from .plan import Variant
from .records import cell_folder
from .results import Results, is_finished

# The plots show the first of these that was measured.
QUALITIES = ("truth_psnr@all", "local_clip_t", "clip_t", "psnr_outside@true", "ssim@full")
GAIN = 4  # amplification of the difference in the gallery


def write_report(
    folder: Path, baseline: str | None = None, quality: str | None = None, gallery: int = 12
) -> dict[str, Path]:
    """Write report.html, table.csv, kinds.csv, cells.csv and table.md into a benchmark's folder.

    Return their paths by name; kinds.csv only if there are several kinds of edit.

    Raise UserError if the folder holds no benchmark or no cell has run.
    """
    results = Results(folder)
    if not results.records:
        last = results.info["commands"][-1]
        raise UserError(f"no cell in {folder} has run yet", f"continue with: {last}")
    compared_with = results.find_variant(baseline)
    metric = _choose_quality(results, quality)
    write_text(folder / "table.csv", tables.format_table_csv(results, compared_with))
    write_text(folder / "cells.csv", tables.format_cells_csv(results))
    write_text(folder / "table.md", tables.format_markdown(results))
    if results.kinds:
        write_text(folder / "kinds.csv", tables.format_kinds_csv(results, compared_with))
    page = _page_values(results, compared_with, metric) | {
        "gallery": list(_gallery(results, gallery))
    }
    write_text(folder / "report.html", render_template("report.html", page))
    names = ["report.html", "table.csv", *["kinds.csv"] * bool(results.kinds), "cells.csv"]
    return {name: folder / name for name in [*names, "table.md"]}


def _page_values(results: Results, baseline: Variant, quality: str) -> dict:
    """Return the values of the page's template, without the gallery."""
    plots_by_title = plots.make_plots(results, quality)
    notes = (
        tables.INTERVAL_RULE,
        results.best_note,
        results.small_sample_note,
        results.costs_note,
        results.external_note,
        results.raw_note,
    )
    return {
        "provenance": results.provenance_text,
        "info": results.info,
        "clips": len(results.cases),
        "metrics": _with_arrows(results.metric_names),
        "main_metrics": _with_arrows(results.main_metric_names),
        "kinds": [_kind_group(results, kind, baseline) for kind in results.kinds],
        "variants": [_column(results, variant, baseline) for variant in results.variants],
        "baseline": baseline.label,
        "plots": [(title, svg_data_url(svg)) for title, svg in plots_by_title.items()],
        "failures": results.failures(),
        "skipped": results.missing_metrics(),
        "notes": [text for text in notes if text],
    }


def _with_arrows(names: list[str]) -> list[tuple[str, str]]:
    return [(name, tables.direction_arrow(name)) for name in names]


def _kind_group(results: Results, kind: str, baseline: Variant) -> dict:
    """Return the group of lines of one kind of edit."""
    part = results.of_kind(kind)
    return {
        "kind": kind or tables.NO_KIND,
        "clips": len(part.cases),
        "variants": [_column(part, variant, baseline) for variant in part.variants],
    }


def _choose_quality(results: Results, wanted: str | None) -> str:
    if wanted:
        return choose(wanted, results.metric_names, "metric")
    for quality in QUALITIES:
        for metric in results.metric_names:
            if metric.startswith(quality):
                return metric
    return results.metric_names[0]


def _column(results: Results, variant: Variant, baseline: Variant) -> dict:
    return {
        "label": variant.label,
        "mask": "unknown" if variant.origin else "seen" if variant.sees_mask else "unseen",
        "cells": {name: _cell(results, variant, baseline, name) for name in results.metric_names},
        **results.counts(variant),
    }


def _cell(results: Results, variant: Variant, baseline: Variant, metric: str) -> dict:
    cell: dict = {"mean": "–", "sort": "", "interval": "", "difference": ""}
    estimate = results.estimate(variant, metric)
    if estimate:
        mean, low, high = estimate.format_parts()
        cell["mean"] = mean + (" %" if estimate.is_rate else "")
        cell["sort"] = repr(estimate.mean)
        few = ", few" if estimate.is_small_sample else ""
        ends = f"{low} to {high}, " if estimate.has_interval else ""
        cell["interval"] = f"{ends}n={estimate.n}{few}"
    difference = None if variant == baseline else results.difference(variant, baseline, metric)
    if difference:
        cell["difference"] = difference.interval_text(signed=True)
    return cell | {"best": variant.label in results.find_best(metric)}


def _gallery(results: Results, count: int) -> Iterator[dict]:
    """Yield evenly spaced cases, with a clip for every finished variant, as far as the page has room."""
    cases, size = _sample_evenly(results.finished_cases(), count), 0
    max_bytes = max_clip_bytes(len(cases) * len(results.variants))
    for index, case in enumerate(cases):
        items = list(_gallery_items(results, case, max_bytes))
        size += sum(len(item["clip"]) for item in items)
        if index and size > PAGE_BYTES:
            warn_user(
                f"the gallery shows {index} of {len(cases)} clips: with more the page would be larger "
                f"than {PAGE_BYTES // 2**20} MB"
            )
            return
        yield {"case": case, "parts": ", ".join(_strip_parts(case)), "items": items}


def _gallery_items(results: Results, case: Case, max_bytes: int) -> Iterator[dict]:
    for variant in results.variants:
        edited = cell_folder(results.folder, variant, case) / "edited.mkv"
        if is_finished(results.record(variant, case)) and edited.exists():
            yield _gallery_item(case, variant, edited, max_bytes)


def _sample_evenly(cases: list[Case], count: int) -> list[Case]:
    if not cases:
        return []
    indices = np.linspace(0, len(cases) - 1, min(count, len(cases)))
    return [cases[i] for i in sorted(set(indices.round().astype(int)))]


def _strip_parts(case: Case) -> list[str]:
    """Return what a strip shows, from left to right."""
    if case.truth:
        return ["source", "edited", "truth", f"{GAIN} x |edited - truth|"]
    return ["source", "edited", f"{GAIN} x |edited - source|"]


def _gallery_item(case: Case, variant: Variant, edited: Path, max_bytes: int) -> dict:
    """Return a variant's clip, or the reason why it cannot be shown: a moved source must not stop the report."""
    try:
        return {"label": variant.label, "clip": _make_strip(case, edited, max_bytes), "reason": ""}
    except (ValueError, OSError) as error:
        return {"label": variant.label, "clip": "", "reason": str(error)}


def _make_strip(case: Case, edited: Path, max_bytes: int) -> str:
    """Join the clips of `_strip_parts` into one, as a data URL."""
    clip, source = open_clip(case.clip)

    def frames(path: str | Path) -> Iterator[ndarray]:
        return resize_frames(open_clip(path)[1], clip.size)

    clips = [source, frames(edited)]
    if case.truth:
        clips.append(frames(case.truth))
    clips.append(_difference(frames(edited), frames(case.truth or case.clip)))
    return preview_data_url(clips, clip.size, float(clip.rate), max_bytes)


def _difference(first: Iterator[ndarray], second: Iterator[ndarray]) -> Iterator[ndarray]:
    """Yield GAIN x |first - second|, H W 3 with 8 bits, until the shorter one ends."""
    for a, b in zip(first, second, strict=False):
        difference = np.abs(a.astype(np.int16) - b)
        yield (GAIN * difference).clip(0, 255).astype(np.uint8)
